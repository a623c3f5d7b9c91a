"""A model with what belongs to it: keyword spotting on raw features, by words, from the push to the answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import msrt
from tests.bench.tree import Tree
from tests.cloud.models import data_file, kws, save

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]
SHAPE = [1, 49, 10, 1]


def features() -> bytes:
    """What the microphone's code gives, as the model was trained on it: 83 is nothing."""
    constants = {"zero": np.float32(83), "scale": np.float32(0.5847029)}
    nodes = [
        helper.make_node("Cast", ["features"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "zero"], ["c"]),
        helper.make_node("Mul", ["c", "scale"], ["x"]),
    ]
    return save(
        nodes, [("features", TensorProto.INT8, SHAPE)], [("x", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip


def word() -> bytes:
    """The scores as they are, and the number of the word."""
    nodes = [
        helper.make_node("Identity", ["y"], ["scores"]),
        helper.make_node("ArgMax", ["y"], ["word"], axis=1, keepdims=0),
    ]
    outputs = [("scores", TensorProto.FLOAT, [1, 12]), ("word", TensorProto.INT64, [1])]
    return save(nodes, [("y", TensorProto.FLOAT, [1, 12])], outputs)


def words() -> list[str]:
    """By their numbers."""
    names = (file.stem.split("_") for file in data_file("kws", "eval").glob("*.bin"))
    return [name for _, name in sorted({(int(parts[-1]), "_".join(parts[2:-1])) for parts in names})]


@pytest.fixture(scope="module")
def told():
    """A tree that serves the bundle; the raw features and their labels."""
    file = data_file("kws", "kws01_dscnn_fp32.onnx")
    raw, labels = kws()
    with Tree() as tree:
        edge = tree.edge("edge", "north")
        tree.device("one", "north")
        given = {"pre.onnx": features(), "post.onnx": word(), "words.txt": "\n".join(words()).encode()}
        for name, data in given.items():
            (tree.path / name).write_bytes(data)
        np.save(tree.path / "x.npy", raw[::4])
        np.savez(tree.path / "xy.npz", x=raw[1::2], y=labels[1::2])
        paths = {"pre": "pre.onnx", "post": "post.onnx", "labels": "words.txt", "calibrate": "x.npy", "eval": "xy.npz"}
        options = [part for name, path in paths.items() for part in (f"--{name}", str(tree.path / path))]
        tree.cli("model", "push", str(file), "--name", "kws", *options)
        tree.cli("model", "rollout", "kws", "--window", "1")
        yield tree, edge.field("http"), raw, labels


def test_raw_features_in_words_out(told):
    """As right as the model is, by names, over the client library."""
    tree, url, raw, labels = told
    names = words()
    with msrt.connect([url], state=tree.path / "cloud") as client:
        found = [client.classify("kws", {"features": one[None]}, top=2)[0] for one in raw[:200]]
        answer = client.infer("kws", {"features": raw[:1]}, outputs=["word"])
    said = [row[0].label for row in found]
    assert np.mean([name == names[label] for name, label in zip(said, labels[:200], strict=True)]) > 0.85
    assert names[int(answer["word"][0])] == said[0]


def test_a_word_from_the_command_line(told):
    """`msrt infer --top` says it."""
    tree, url, raw, labels = told
    sure = int(np.flatnonzero(labels == labels[0])[0])
    np.save(tree.path / "one.npy", raw[sure : sure + 1])
    printed = tree.cli("infer", "kws", str(tree.path / "one.npy"), "--url", url, "--top", "3")
    assert printed.splitlines()[0].split() == ["row", "class", "score"]
    assert len(printed.splitlines()) == 4
    assert printed.splitlines()[1].split()[1] in words()


def test_show_is_a_page(told):
    """What goes in and out of it, the graphs around it, labels, how sure it is, its files and the gate's report."""
    tree, *_ = told
    page = tree.cli("model", "show", "kws")
    rows = [line.split(maxsplit=1) for line in page.splitlines() if line.strip()]
    lines = {row[0]: row[-1] for row in reversed(rows)}
    assert "features INT8 [1, 49, 10, 1]" in lines["inputs"]
    assert "word INT64 [1]" in lines["outputs"]
    assert "-> x FP32" in lines["pre"]
    assert "-> scores FP32" in lines["post"]
    assert words()[0] in lines["labels"]
    assert "probabilities at temperature" in lines["confidence"]
    assert "KiB" in lines["fp32"]
    assert "KiB" in lines["int8"]
    assert "accuracy_int8" in lines
    found = json.loads(tree.cli("model", "show", "kws", "--json"))
    assert found["scores"] == "probabilities"
    assert found["calibration_error"] < 0.1
    assert found["accuracy_int8"] > 0.88
