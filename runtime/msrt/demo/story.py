"""The chapters of the demo, in order. Each leaves its numbers in the report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from msrt.demo.data import example, held_out, record
from msrt.demo.http import HttpInfer
from msrt.demo.judge import Answer, Judge
from msrt.demo.load import Tally, drive
from msrt.demo.report import Model, Report, Training
from msrt.demo.tree import DemoFailed, Tree
from msrt.inference.bundle import MICRO
from msrt.operator.session import Ask, cloud, patient
from msrt.operator.show import console, progress
from msrt.training.bundle import pack
from msrt.world.files import FileBlobs

__all__ = ["DEVICES", "EDGES", "MODEL", "Story"]

T = TypeVar("T")
MODEL: Final = "digits"
EDGES: Final = {"edge-north": "north", "edge-south": "south"}
DEVICES: Final = {
    "camera": ("north", "zmq"), "north-2": ("north", "mqtt"), "north-3": ("north", "zmq"),
    "south-1": ("south", "mqtt"), "south-2": ("south", "zmq"), "south-3": ("south", "mqtt"),
}  # fmt: skip
"""Name to region and link; `camera` has the sensor."""
READINGS: Final = 300
READING_S: Final = 0.1
HTTP_REQUESTS: Final = 2880
"""Each held-out image eight times."""
HTTP_WORKERS: Final = 8


class Story:
    """What the chapters share."""

    def __init__(self, tree: Tree, report: Report) -> None:
        self.tree, self.report = tree, report
        self.job = example()
        self.urls: dict[str, str] = {}
        self.files: dict[int, dict[str, str]] = {}
        self._began = asyncio.get_running_loop().time()
        self.judge: Judge

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return asyncio.get_running_loop().time() - self._began

    def say(self, text: str) -> None:
        """One line of the story."""
        console().print(f"[dim]{self.seconds:5.1f} s[/]  {text}")

    def session(self) -> Any:
        """A session with the cloud under the operator identity that it made at its first start."""
        return cloud(self.tree.state("cloud"))

    async def wait(self, what: str, seen: Callable[[Any], T], within_s: float, method: str = "status") -> T:
        """Ask the cloud until `seen` finds what it looks for. Raises DemoFailed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        async with self.session() as ask:
            while not (found := seen(await ask(method, within_s))):
                if loop.time() > until:
                    raise DemoFailed(f"{what} did not come within {within_s:g} s", hint=f"logs: {self.tree.folder}")
                await asyncio.sleep(0.1)
            return found

    # --- the tree -----------------------------------------------------------------------------------------------

    async def build(self) -> None:
        """One cloud, two edges in two regions, six devices, one of them with a sensor."""
        tree = self.tree
        self.say("[bold]a tree[/]: one cloud, two edges in two regions, six devices, three on ZeroMQ and three on MQTT")
        await tree.start("cloud", "cloud", "start")
        rows, labels = await asyncio.to_thread(held_out, self.job)  # noqa: TID251 - our own process, no World
        self.judge = Judge(rows, labels, self._model_bytes)
        config = record(tree.folder / "camera-recording", rows[np.arange(READINGS) % len(rows)], READING_S)
        await tree.ready("cloud")
        async with self.session() as ask:
            for edge, region in EDGES.items():
                invite = await _invite(ask, "edge", region)
                await tree.start(edge, "edge", "join", "--name", edge, first=(invite,))
        await tree.ready(*EDGES)
        self.urls = {edge: tree[edge].said("http") for edge in EDGES}
        regions = set(EDGES.values())
        await self.wait("the edges", lambda s: regions == {e["region"] for e in s["edges"] if e["alive"]}, 10)
        async with self.session() as ask:
            invites = {name: await _invite(ask, "device", region) for name, (region, _) in DEVICES.items()}
        for name, (_, link) in DEVICES.items():
            sensor = ("--config", str(config)) if name == "camera" else ()
            await tree.start(name, "device", "join", "--link", link, *sensor, first=(invites[name], "--name", name))
        await tree.ready(*DEVICES)
        await self.wait("the devices", lambda s: _living(s) == set(DEVICES), 10)
        self.say("all nine processes are up and enrolled")

    def _model_bytes(self, version: int, variant: str) -> bytes:
        blobs = FileBlobs(self.tree.state("cloud") / "blobs")
        digest = self.files[version][variant]
        return blobs.read(digest)

    # --- training -----------------------------------------------------------------------------------------------

    async def train(self) -> None:
        """Federated averaging over the six devices' own data; the result goes to the registry."""
        self.say("[bold]training[/], federated, on handwritten digits split unevenly by class: msrt train run")
        async with self.session() as ask:
            digest = await ask.upload_bytes(pack(self.job).data)
            job = (await ask("train.run", bundle=digest))["job"]
            row: dict[str, Any] = {"state": "queued", "rounds": 0, "round": 0}
            with progress("training", (await patient(ask, "train.status", job=job))[0]["rounds"]) as advance:
                while row["state"] in ("queued", "running"):
                    row = (await patient(ask, "train.status", job=job))[0]
                    accuracy = row["metrics"].get("accuracy")
                    note = f"accuracy {accuracy:.3f}" if accuracy is not None else ""
                    advance(row["round"], row["reason"] or note)
                    await asyncio.sleep(0.2)
            if row["state"] != "finished":
                raise DemoFailed(f"training {row['state']}: {row['reason']}")
            found = await patient(ask, "train.report", job=job)
        self.report.training = t = Training(
            len(found["rounds"]), found["accuracy"], found["alone_mean"], found["pooled"], found["update_bytes_ratio"]
        )
        self.say(
            f"accuracy [bold]{t.accuracy:.3f}[/]; a device alone {t.alone_mean:.3f}, pooled data {t.pooled:.3f}; "
            f"updates of {t.update_bytes_ratio:.1%} of their float32 bytes"
        )

    # --- the model ----------------------------------------------------------------------------------------------

    async def roll_out(self) -> None:
        """Quantised and gated by the registry; one region first, then all, when it is healthy."""
        async with self.session() as ask:
            shown = await patient(ask, "model.show", model=MODEL)
            version = shown["version"]
            self.files[version] = {name: one["digest"] for name, one in shown["variants"].items() if name != MICRO}
            self.say(f"[bold]rollout[/] of {MODEL}@{version}, north first: msrt model rollout {MODEL} --canary north")
            begun = await ask("model.rollout", model=MODEL, version=version, canary="north", window_s=1.0)
            state = begun["state"]
            with progress("rollout", begun["matching"]) as advance:
                while state not in ("done", "rolled_back"):
                    now = await patient(ask, "model.rollout.status", model=MODEL)
                    state = now["state"]
                    advance(now["ready"], state)
                    await asyncio.sleep(0.1)
            if state != "done":
                raise DemoFailed(f"the rollout was taken back: {now['reason']}")
            tree = await ask("status")
        accuracy = {variant: self.judge.accuracy(version, variant) for variant in self.files[version]}
        serving = {m["variant"] for e in tree["edges"] for d in e["devices"] for m in d["models"]}
        self.report.model = m = Model(
            accuracy.get("fp32", 0.0), accuracy.get("int8", 0.0), shown.get("weight_bytes_ratio") or 0.0,
            ", ".join(sorted(serving)),
        )  # fmt: skip
        self.say(
            f"accuracy fp32 {m.accuracy_fp32:.3f}, int8 {m.accuracy_int8:.3f}, weights {m.weight_bytes_ratio:.1%}; "
            f"measured on the devices and chosen: {m.chosen}"
        )

    async def serve(self) -> None:
        """Open Inference Protocol over HTTP, both edges, every answer judged."""
        self.say(f"[bold]serving[/] over HTTP: POST {next(iter(self.urls.values()))}/v2/models/{MODEL}/infer")
        fronts = [HttpInfer(url, MODEL, self.judge.rows, "input") for url in self.urls.values()]

        async def infer(row: int) -> Answer:
            return await fronts[row % len(fronts)](row)

        tally = Tally()
        await drive(infer, self.judge, tally, asyncio.Event(), workers=HTTP_WORKERS, pause_s=0.0, limit=HTTP_REQUESTS)
        for front in fronts:
            front.close()
        self.report.served(tally)
        s = self.report.serving
        self.say(
            f"{s.requests} requests, {s.failed} failed, {s.wrong} wrong, p50 {s.p50_ms:.2f} ms, p99 {s.p99_ms:.2f} ms, "
            f"accuracy of the answers {s.accuracy:.3f}"
        )
        self.explain(tally)

    def explain(self, tally: Tally) -> None:
        """Say why requests failed, if any did."""
        for text, count in tally.errors.most_common(3):
            self.say(f"[red]{count} failed:[/] {text}")

    async def account(self) -> None:
        """Every reading of the sensor became one event at the cloud, through all three deaths."""
        report = self.report.events
        report.sent = READINGS
        seen: dict[int, int] = {}
        loop = asyncio.get_running_loop()
        until = loop.time() + READINGS * READING_S / 2 + 10
        after = shown = 0
        with progress("events", READINGS) as advance:
            async with self.session() as ask:
                while len(seen) < READINGS and loop.time() < until:
                    found = await ask("events.after", after=after, device="camera", limit=500, wait_s=0.5)
                    after = found["next"]
                    for event in found["events"]:
                        reading = event["data"]["reading"]
                        seen[reading] = seen.get(reading, 0) + 1
                    if len(seen) >= shown + READINGS // 6 or len(seen) == READINGS:
                        shown = len(seen)
                        advance(shown, "")
        report.received = len(seen)
        twice = sum(count - 1 for count in seen.values())
        self.say(f"[bold]events[/]: {report.received} of {report.sent} readings arrived, {twice} of them twice")
        if twice:
            raise DemoFailed(f"{twice} events were recorded twice")


async def _invite(ask: Ask, role: str, region: str) -> str:
    return str((await ask("invite.create", role=role, region=region))["invite"])


def _living(status: dict[str, Any]) -> set[str]:
    return {device["name"] for edge in status["edges"] for device in edge["devices"] if device["alive"]}
