"""Microcontrollers: C firmware in QEMU and the agent in MicroPython (WebAssembly) against onnxruntime's int8 on real
data, what they need, what they cost.

`python -m tests.bench mcu` prints the rows. All of it is emulated (mps2-an385, TCG): instructions are counted with
`-icount`, rates are those of the emulator on this machine. The keywords are read from $MSRT_DATA.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from msrt.inference.micro import Blob
from msrt.inference.micro.host import from_board, to_board
from msrt.protocol import mcu
from msrt.world.field import field_world
from msrt_device.flash.targets.cortex_m import TARGET
from msrt_device.gateway.board import Board as Known
from msrt_device.gateway.line import open_line
from tests.bench.keywords import DATA, samples
from tests.bench.table import Row
from tests.bench.tree import MSRT, Proc, Tree, until
from tests.device.micropython.wasm import WasmBoard, lacking
from tests.processes.board import QEMU, Board, firmware, free_port
from tests.runtime.inference.micro.graphs import compiled, quantised
from tests.runtime.inference.models import model_of

SAME, POINTS = 0.995, 0.5
SHIFT = 3
"""With -icount an instruction takes 2**SHIFT ns of the board's time."""
HTTP_S = 10.0


@dataclass
class Case:
    """One int8 model and labelled inputs."""

    name: str
    file: bytes
    rows: np.ndarray
    labels: np.ndarray


@dataclass
class Seen:
    """What the board said."""

    outputs: np.ndarray
    seconds: float
    """Of the host, for all rows."""
    compute_us: float
    """Of the board's clock, for one."""


def rows() -> list[Row]:
    """For each model: agreement, accuracy, bytes, instructions, rates."""
    missing = TARGET.needs() + ([] if shutil.which(QEMU) else [f"no {QEMU}"])
    if missing:
        return [Row("microcontroller", None, "", peer=f"skipped: {missing[0]}")]
    with tempfile.TemporaryDirectory(prefix="msrt-bench-") as name:
        folder = Path(name)
        image = firmware(folder)
        made = [digits(folder)]
        if (DATA / "kws01_dscnn_int8.onnx").exists():
            made.append(Case("DS-CNN of kws", (DATA / "kws01_dscnn_int8.onnx").read_bytes(), *samples()))
        table = [Row("firmware for Cortex-M3 with all its kernels", text_bytes(image), "bytes")]
        for case in made:
            table += of_case(case, image, folder)
        if len(made) == 1:
            table.append(Row("DS-CNN of kws", None, "", peer="skipped: MSRT_DATA has no kws"))
        return [*table, through_the_tree(made[0], image, folder), *of_micropython(made[0], folder)]


def digits(folder: Path) -> Case:
    """64-32-10, trained on two thirds of scikit-learn's digits, quantised as at a push, judged on the rest."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    test = np.arange(len(x)) % 3 == 0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    steps = torch.optim.Adam(net.parameters(), 0.01)
    inputs, labels = torch.from_numpy(x[~test]), torch.from_numpy(y[~test])
    for _ in range(200):
        steps.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), labels).backward()
        steps.step()
    weights = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in net.state_dict().items()]
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["y"], transB=1),
    ]  # fmt: skip
    ends = [("x", TensorProto.FLOAT, ["n", 64])], [("y", TensorProto.FLOAT, ["n", 10])]
    file = model_of(nodes, *ends, weights).SerializeToString()
    return Case("MLP 64-32-10 on digits", quantised(file, x[~test][:512], folder), x[test], y[test])


def text_bytes(image: Path) -> float:
    """Bytes of flash that the firmware takes."""
    raw = image.with_suffix(".bin")
    TARGET.build({"format": "bin"}, raw, lambda *_: None)
    return float(raw.stat().st_size)


def of_case(case: Case, image: Path, folder: Path) -> list[Row]:
    blob = compiled(case.file)
    session = ort.InferenceSession(case.file)
    wanted = session.run(None, {session.get_inputs()[0].name: case.rows})[0].argmax(1)
    seen = asked(blob, case.rows, Board(image, folder), folder)
    counted = asked(blob, case.rows[:20], Board(image, folder, icount=SHIFT), folder)
    name = f"{case.name}, C in QEMU"
    return [
        *agreement(name, case, wanted, seen),
        Row(
            f"{name}: flash for the model", float(blob.board_bytes), "bytes", peer=f"the ONNX file has {len(case.file)}"
        ),
        Row(f"{name}: RAM for its tensors", float(blob.arena), "bytes"),
        Row(f"{name}: instructions", counted.compute_us * 1000 / 2**SHIFT / 1000, "k", peer="Cortex-M3, -icount"),
        Row(
            f"{name}: compute, emulated",
            seen.compute_us / 1000,
            "ms",
            peer="by the board's clock, no cycles of silicon",
        ),
        Row(f"{name}: asked over its serial line, emulated", len(wanted) / seen.seconds, "/s"),
    ]


def agreement(name: str, case: Case, wanted: np.ndarray, seen: Seen) -> list[Row]:
    """With onnxruntime's labels, and with the true ones."""
    found = seen.outputs.argmax(1)
    points = 100 * float(np.mean(wanted == case.labels) - np.mean(found == case.labels))
    said = f"of {len(wanted)} inputs; onnxruntime int8 is right on {np.mean(wanted == case.labels):.4f}"
    return [
        Row(f"{name}: same label as onnxruntime int8", float(np.mean(found == wanted)), "", ">=", SAME, said),
        Row(f"{name}: accuracy less than onnxruntime int8's", points, "points", "<=", POINTS),
    ]


def of_micropython(case: Case, folder: Path) -> list[Row]:
    """The same inputs, asked of the agent in the official WebAssembly build."""
    name = f"{case.name}, MicroPython in WebAssembly"
    if why := lacking():
        return [Row(name, None, "", peer=f"skipped: {why}")]
    session = ort.InferenceSession(case.file)
    wanted = session.run(None, {session.get_inputs()[0].name: case.rows})[0].argmax(1)
    seen = asked(compiled(case.file), case.rows, WasmBoard(free_port(), folder / "wasm.log"), folder)
    return [
        *agreement(name, case, wanted, seen),
        Row(f"{name}: compute, bytecode on this machine", seen.compute_us / 1000, "ms"),
        Row(f"{name}: asked over TCP", len(wanted) / seen.seconds, "/s"),
    ]


def asked(blob: Blob, given: np.ndarray, board: Board | WasmBoard, folder: Path) -> Seen:
    """Every row, through the gateway's own session with the board, which ends with it."""
    try:
        return asyncio.run(_asked(blob, given, board.port, folder))
    finally:
        board.kill()


async def _asked(blob: Blob, given: np.ndarray, port: int, folder: Path) -> Seen:
    known = Known(field_world(folder / "world"), lease_s=3600.0, sense_ms=0)
    await known.start(await open_line("", f"127.0.0.1:{port}", known.heard, known.ended))
    tag = mcu.tag_of(await known.load(blob.board, blob.arena))
    begun = time.perf_counter()
    answers = [await known.infer(tag, row.tobytes()) for row in to_board(blob, given)]
    seconds = time.perf_counter() - begun
    known.close()
    raw = np.frombuffer(b"".join(one.data for one in answers), np.int8).reshape(len(answers), -1)
    return Seen(from_board(blob, raw), seconds, float(np.median([one.compute_us for one in answers])))


def through_the_tree(case: Case, image: Path, folder: Path) -> Row:
    """A client, an edge, a gateway and the board."""
    import msrt  # noqa: PLC0415 - the client, for this one

    board = Board(image, folder)
    try:
        with Tree() as tree:
            edge = tree.edge("e1", "north")
            argv = [MSRT, "device", "gateway", "--tcp", f"127.0.0.1:{board.port}", "--name", "board"]
            argv += ["--invite", tree.invite("device", "--region", "north"), "--state", str(tree.path / "gateway")]
            tree.procs["gateway"] = Proc(argv, tree.path / "gateway.log").ready()
            (tree.path / "m.onnx").write_bytes(case.file)
            tree.cli("model", "push", str(tree.path / "m.onnx"), "--name", "m", "--for", "mcu")
            tree.cli("model", "rollout", "m", "--to", "class=mcu", "--window", "0.5")
            log = tree.path / "gateway.log"
            until("the model is ready", lambda: "model.ready" in log.read_text(), 60)
            with msrt.connect([edge.field("http")], state=tree.path / "cloud") as client:
                done, end = 0, time.perf_counter() + HTTP_S
                while time.perf_counter() < end:
                    client.infer("m", {"x": case.rows[done % len(case.rows)][None]})
                    done += 1
            return Row(f"{case.name}, HTTP to the board and back, one at a time, emulated", done / HTTP_S, "/s")
    finally:
        board.kill()
