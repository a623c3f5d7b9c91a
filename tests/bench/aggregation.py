"""What a master makes of its children's updates: elements a second, and memory. `python -m tests.bench aggregation`.

Speeds are CPU seconds of one thread, each cell taken in turn with its yardstick: numpy's running sum by blocks that
stay in the cache, and numpy's median of a stack. Memory is the peak of a process with the edge's own code of a region,
through which so many clients send at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from msrt.artifacts import ArtifactStore
from msrt.buffers import SLICE, Buffer, Rooms, joined
from msrt.learning.aggregate import RunningSum, check
from msrt.learning.compress import open_codec
from msrt.learning.optimise import Kind, Optimiser, Recipe
from msrt.learning.pacing import Durations, Pace
from msrt.learning.rounds import GlobalRound, Terms
from msrt.learning.rules import Robust, open_rule
from msrt.learning.vector import Layout, save
from msrt.protocol.messages import Plan, RoundOpen, StreamOpen, UpdateMeta
from msrt.world.field import field_world
from tests.bench.table import Row

SIZE = 10_000_000
TURNS = 7
CLIENTS = (8, 64, 512)
PARAMETERS = 2_500_000
STREAMS = 4
"""As `update_streams` of an edge is where nobody sets it."""
NODES, WIDTH = 32, 1_000_000


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call, by the thread that makes it."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def sum_rows() -> list[Row]:
    """RunningSum against numpy's own sum by blocks, pair by pair."""
    flat = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    running, plain = RunningSum(SIZE), np.zeros(SIZE, np.float32)

    def blocked() -> None:
        for start in range(0, SIZE, 65_536):
            part = plain[start : start + 65_536]
            np.add(part, flat[start : start + 65_536], out=part)

    rows = []
    for name, least in (("fp32", 0.6), ("int8", 0.35)):
        codec = open_codec(name, SIZE)
        payload = joined([codec.encode(flat)])  # in huge pages, as an edge takes it from the link
        pairs = [(cpu(lambda p=payload, c=codec: running.add(p, c, 3.0)), cpu(blocked)) for _ in range(TURNS)]
        ratio = median(theirs / ours for ours, theirs in pairs)
        speed = SIZE / median(ours for ours, _ in pairs) / 1e9
        beside = f"{speed:.2f} G elements/s, numpy {SIZE / median(theirs for _, theirs in pairs) / 1e9:.2f}"
        rows.append(
            Row(f"adding updates as {name} over numpy's running sum by blocks", ratio, "x", ">=", least, beside)
        )
        judged = SIZE / median(cpu(lambda p=payload, c=codec: check(p, c)) for _ in range(TURNS)) / 1e9
        rows.append(Row(f"checking an update as {name}: length, finite, norm", judged, "G elements/s"))
    return rows


def rule_rows() -> list[Row]:
    """Robust rules over a stack of float32 updates against numpy's median of it."""
    stack = np.random.default_rng(0).standard_normal((NODES, WIDTH)).astype(np.float32)
    codec = open_codec("fp32", WIDTH)
    payloads = [codec.encode(row) for row in stack]
    yardstick = median(cpu(lambda: np.median(stack, axis=0)) for _ in range(2))
    rows = []
    for text in ("median", "trimmed:0.1", "krum:4", "multi-krum:4:16", "bulyan:4"):

        def work(text: str = text) -> None:
            found = Robust(open_rule(text), WIDTH)
            for payload in payloads:
                found.add(payload, codec, 1.0)
            found.mean()

        spent = min(cpu(work) for _ in range(2))
        speed = NODES * WIDTH / spent / 1e6
        beside = f"numpy's median of the stack: {NODES * WIDTH / yardstick / 1e6:.0f} M elements/s"
        rows.append(Row(f"{text} of {NODES} updates", speed, "M elements/s", "", 0.0, beside))
    return rows


def server_rows() -> list[Row]:
    """A step of each of the server's optimisers, in place, against torch's Adam on one thread."""
    import torch  # noqa: PLC0415 - here only

    torch.set_num_threads(1)
    update = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    parameter = torch.nn.Parameter(torch.zeros(SIZE))
    parameter.grad = torch.from_numpy(update)
    adam = torch.optim.Adam([parameter], 0.01)
    yardstick = SIZE / min(cpu(adam.step) for _ in range(4)) / 1e6
    rows = []
    kinds: tuple[Kind, ...] = ("sgd", "momentum", "adam", "yogi", "adagrad")
    for kind in kinds:
        optimiser, weights = Optimiser(Recipe(kind), SIZE), np.zeros(SIZE, np.float32)
        spent = min(cpu(lambda o=optimiser, w=weights: o.step(w, update, 0.01)) for _ in range(4))
        beside = f"torch's Adam: {yardstick:.0f} M elements/s"
        rows.append(Row(f"a step of the server's {kind}", SIZE / spent / 1e6, "M elements/s", "", 0.0, beside))
    return rows


# --- memory, in a process of its own -----------------------------------------------------------------------------


class Client:
    """A child, or the parent, of an edge: what it is sent is counted and forgotten."""

    live = True

    def __init__(self, node: str) -> None:
        self.node = self.name = node
        self.got = asyncio.Event()

    def send(self, _message: object, _frames: tuple[Buffer, ...] = ()) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda done: done.cancelled() or done.result())

    async def push(self, _kind: str, meta: dict[str, Any], _payload: Buffer, **_more: object) -> None:
        if meta.get("is_sum"):
            self.got.set()


async def _region(count: int, rule: str, state: Path) -> dict[str, float]:
    """A round of so many clients that send at once; bytes resident before, and at the peak."""
    from msrt_edge.training import RegionTraining  # noqa: PLC0415 - in the child only

    world = field_world(state)
    nodes = [f"node{n:04}" for n in range(count)]
    devices, cloud = {node: Client(node) for node in nodes}, Client("cloud")
    artifacts = ArtifactStore(world)
    zeros = np.zeros(PARAMETERS, np.float32)
    weights = await artifacts.put_bytes(save(Layout.of({"w": zeros}), zeros))
    region: Any = RegionTraining(world, "me/1", lambda: devices, artifacts, None, STREAMS, b"")  # type: ignore[arg-type, return-value]
    region.attach(cloud)
    update = _update()
    digest = hashlib.sha256(update).hexdigest()
    plan = Plan(upward="int8", rule=rule, work_s=300.0)  # so nobody comes too late for the sum
    await region.opened(
        RoundOpen(
            "job", 1, "", b"", weights, 600.0, {node: n for n, node in enumerate(nodes)}, count, "fp32", 0, (), plan
        )
    )

    async def send(node: str) -> None:
        meta = msgspec.to_builtins(UpdateMeta("job", 1, {node: 10}, "me/1", "fp32", PARAMETERS))
        sink = region.stream(devices[node], StreamOpen(1, "update", meta, len(update), digest))
        for start in range(0, len(update), SLICE):
            await sink.write(start, memoryview(update)[start : start + SLICE])
            await asyncio.sleep(0)
        await sink.complete(len(update), digest)

    before = _from_here()
    await asyncio.gather(*map(send, nodes))
    await asyncio.wait_for(cloud.got.wait(), 300)
    return {"before": before, "peak": _memory("VmHWM")}


async def _cloud(count: int, rule: str, state: Path) -> dict[str, float]:
    """The same for the cloud, where so many updates come up alone, some at a time, and wait for the round's end."""
    from msrt_cloud.open_round import OpenRound  # noqa: PLC0415 - in the child only

    world, nodes = field_world(state), [f"node{n:04}" for n in range(count)]
    coordinator: Any = SimpleNamespace(
        world=world, edges=list, fleet=SimpleNamespace(edges={}), rooms=Rooms(2), vectors=Rooms(3)
    )
    pace, terms = Pace(world.now(), world.now() + 600.0, count), Terms(alone=True, least=open_rule(rule).least)
    machine = GlobalRound("job", 1, PARAMETERS, nodes, pace, terms=terms)
    message = RoundOpen("job", 1, "", b"", "", 600.0, {}, count, "fp32", 0, (), Plan(upward="fp32", alone=True))
    layout = Layout.of({"w": np.zeros(PARAMETERS, np.float32)})
    opened = OpenRound(
        coordinator,
        message,
        machine,
        {node: n for n, node in enumerate(nodes)},
        layout,
        Durations(4.0),
        open_rule(rule),
    )
    update, slots = _update(), asyncio.Semaphore(STREAMS)

    async def send(node: str) -> None:
        async with slots:
            meta = UpdateMeta("job", 1, {node: 10}, "me/1", "fp32", PARAMETERS)
            await opened.arrived(meta, joined([update]))

    before = _from_here()
    await asyncio.gather(*map(send, nodes))
    await asyncio.wait_for(opened.over, 300)
    await opened.mean()
    await opened.close()
    return {"before": before, "peak": _memory("VmHWM")}


def _update() -> bytes:
    flat = np.random.default_rng(0).standard_normal(PARAMETERS).astype(np.float32) * np.float32(0.01)
    return bytes(open_codec("fp32", PARAMETERS).encode(flat))


def _from_here() -> float:
    """Bytes resident now; the peak counts from here."""
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return before


def _memory(which: str) -> float:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(which + ":")).split()[1]) * 1024


def _measured(count: int, rule: str, where: str = "region") -> float:
    """What the round takes at its peak, in updates."""
    argv = [sys.executable, "-m", "tests.bench.aggregation", where, str(count), rule]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=300)
    seen = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, float])
    return (seen["peak"] - seen["before"]) / (4 * PARAMETERS)


def memory_rows() -> list[Row]:
    """The peak of a region's round over its process before, in updates of 10 MB."""
    most = 1 + STREAMS + 2
    rows = [
        Row(f"peak memory of a region summing {count} clients that send at once", _measured(count, ""), "updates", "<=",
            float(most), f"the sum, {STREAMS} streams, and the sum as it is sent")
        for count in CLIENTS
    ]  # fmt: skip
    for rule, count in (("median", 64), ("median", 256), ("multi-krum:4:8", 64)):
        what = f"peak memory of a region that takes {rule} of {count} clients"
        rows.append(Row(what, _measured(count, rule), "updates", "<=", 10.0, f"{count} updates wait on the disk"))
    for rule, count in (("mean", 64), ("median", 64)):
        what = f"peak memory of the cloud that takes {rule} of {count} updates which come up alone"
        peak = _measured(count, rule, "cloud")
        rows.append(Row(what, peak, "updates", "<=", 10.0, f"{STREAMS} come at a time and wait on the disk"))
    return rows


def rows() -> list[Row]:
    """All of them."""
    return [*sum_rows(), *rule_rows(), *server_rows(), *memory_rows()]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="msrt-bench-") as folder:
        child = {"region": _region, "cloud": _cloud}[sys.argv[1]]
        result = asyncio.run(child(int(sys.argv[2]), sys.argv[3], Path(folder)))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
