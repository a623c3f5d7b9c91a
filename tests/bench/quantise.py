"""What int8 costs and saves: the workshop on real models and data, judged on samples it was not calibrated with.

`python -m tests.bench.quantise` prints the rows. Reads $MSRT_DATA; what is absent there is left out and said.
"""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from msrt_cloud.prepare import Prepared, PrepareOptions, prepare_inline
from tests.bench.training import Row

DATA = Path(os.environ.get("MSRT_DATA", Path(__file__).parents[3] / "shared" / "data"))
CALIBRATE = 100
RATIO, DROP, GIVEN = 0.30, 0.01, 0.90
EPOCHS = 2
TRAINED_ON = 20_000
"""Images: enough to tell a good int8 from a bad one, in seconds."""


def prepared(model: bytes | Path, x: np.ndarray | None, judged: tuple[np.ndarray, np.ndarray] | None) -> Prepared:
    """Through the door that `msrt model push` uses. The gate is left open: the table judges."""
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        (room / "out").mkdir()
        path = room / "model.onnx"
        path.write_bytes(model.read_bytes() if isinstance(model, Path) else model)
        files = {}
        if x is not None:
            np.save(room / "x.npy", x)
            files["calibrate"] = str(room / "x.npy")
        if judged is not None:
            np.savez(room / "xy.npz", x=judged[0], y=judged[1])
            files["evaluate"] = str(room / "xy.npz")
        options = PrepareOptions(**files, max_drop=DROP)
        result = prepare_inline(path, room / "out", options, time.perf_counter)
        given = result.files.get("int8")
        if given and given.method == "as given":
            assert Path(given.path).read_bytes() == path.read_bytes()
        return result


def keywords() -> Iterator[Row]:
    """MLPerf Tiny keyword spotting: our int8 from their fp32, and their int8 as it is."""
    files = sorted((DATA / "kws" / "eval").glob("*.bin"))
    raw = np.stack([np.frombuffer(file.read_bytes(), np.int8).reshape(49, 10, 1) for file in files])
    labels = np.array([int(file.stem.rpartition("_")[2]) for file in files])
    x = (raw.astype(np.float32) - 83) * np.float32(0.5847029)
    ours = prepared(DATA / "kws/kws01_dscnn_fp32.onnx", x[:CALIBRATE], (x[CALIBRATE:], labels[CALIBRATE:]))
    yield from judged("KWS DS-CNN, ours", ours)
    given = prepared(DATA / "kws/kws01_dscnn_int8.onnx", None, (raw, labels))
    yield Row("KWS DS-CNN, given int8 served unchanged: accuracy", number(given, "accuracy_int8"), "", ">=", GIVEN)


def mnist() -> Iterator[Row]:
    """A perceptron and a convolutional network of over 100,000 parameters, trained here on MNIST."""
    x, y = (_idx("train", name) for name in ("images-idx3", "labels-idx1"))
    test_x, test_y = (_idx("t10k", name) for name in ("images-idx3", "labels-idx1"))
    images, test = (a.reshape(-1, 1, 28, 28).astype(np.float32) / 255 for a in (x, test_x))
    labels = y.astype(np.int64)
    for what, make, export in (("MLP 784-128-10", _mlp, _export_mlp), ("CNN 16-32-128", _cnn, _export_cnn)):
        network = _trained(make, images[:TRAINED_ON], labels[:TRAINED_ON])
        result = prepared(export(network), images[:CALIBRATE], (test, test_y.astype(np.int64)))
        yield from judged(f"MNIST {what}", result)
        yield ratio(f"MNIST {what}", result)


def tiny() -> Iterator[Row]:
    """MLPerf Tiny models of over 100,000 parameters: no images come with them, so size and agreement only."""
    generator = np.random.default_rng(0)
    for what, file, shape, scale in (
        ("VWW MobileNet", "vww01_mobilenet_fp32.onnx", (96, 96, 3), 1.0),
        ("anomaly autoencoder", "ad01_autoencoder_fp32.onnx", (640,), 10.0),
    ):
        x = (generator.random((CALIBRATE, *shape)) * scale).astype(np.float32)
        result = prepared(DATA / "tiny-models" / file, x, None)
        yield ratio(what, result)
        yield Row(f"{what}: outputs off by (noise in)", number(result, "relative_error"), "of fp32")
        yield speed(what, result)


def judged(what: str, result: Prepared) -> Iterator[Row]:
    drop = number(result, "accuracy_fp32") - number(result, "accuracy_int8")
    yield Row(f"{what}: accuracy fp32", number(result, "accuracy_fp32"), "")
    yield Row(f"{what}: accuracy int8", number(result, "accuracy_int8"), "")
    yield Row(f"{what}: accuracy lost by int8", round(drop * 100, 3), "points", "<=", DROP * 100)
    yield speed(what, result)


def ratio(what: str, result: Prepared) -> Row:
    return Row(f"{what}: int8 weights, scales included", number(result, "weight_bytes_ratio"), "of fp32", "<=", RATIO)


def speed(what: str, result: Prepared) -> Row:
    fp32, int8 = result.files["fp32"].latency_us, result.files["int8"].latency_us
    return Row(f"{what}: one call, int8 / fp32 ({int8} / {fp32} us)", round(int8 / fp32, 2), "x")


def number(result: Prepared, key: str) -> float:
    """A figure of the report; one that is missing (int8 refused) fails every bound."""
    value = result.report.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def rows() -> list[Row]:
    """All of them; a part whose data is absent is named on standard error."""
    found: list[Row] = []
    parts: tuple[tuple[str, Callable[[], Iterator[Row]]], ...] = (
        ("kws", keywords),
        ("mnist", mnist),
        ("tiny-models", tiny),
    )
    for folder, part in parts:
        if (DATA / folder).is_dir():
            found += part()
        else:
            sys.stderr.write(f"skipped: no {folder} under {DATA}\n")
    return found


def _trained(make: Callable[[], nn.Sequential], images: np.ndarray, labels: np.ndarray) -> nn.Sequential:
    torch.manual_seed(0)
    network = make()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(256):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimiser.step()
    return network


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def _export_mlp(network: nn.Sequential) -> bytes:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "1.weight", "1.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "3.weight", "3.bias"], ["y"], transB=1),
    ]
    return _saved(nodes, network)


def _export_cnn(network: nn.Sequential) -> bytes:
    window = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["c0"], **window),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "2.weight", "2.bias"], ["c1"], **window),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Flatten", ["r1"], ["f"]),
        helper.make_node("Gemm", ["f", "5.weight", "5.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r2"]),
        helper.make_node("Gemm", ["r2", "7.weight", "7.bias"], ["y"], transB=1),
    ]
    return _saved(nodes, network)


def _saved(nodes: list[object], network: nn.Sequential) -> bytes:
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in network.state_dict().items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "mnist", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _idx(part: str, name: str) -> np.ndarray:
    data = gzip.decompress((DATA / "mnist" / f"{part}-{name}-ubyte.gz").read_bytes())
    dims = [int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(dims)).reshape(dims)


if __name__ == "__main__":
    table = rows()
    for row in table:
        bound = f"{row.bound} {row.limit:g}" if row.bound else ""
        sys.stdout.write(f"{'ok ' if row.holds else 'NO '} {row.what:62} {row.value:10.4f} {row.unit:8} {bound}\n")
    sys.exit(not all(row.holds for row in table))
