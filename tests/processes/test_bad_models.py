"""Files that are no model, data that does not fit it, and requests that do not fit either. One tree for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess

import numpy as np
import onnx
import pytest

import msrt
from msrt import errors
from msrt.client.known import ask_cloud, load_caller
from msrt.client.peers import Quiet
from msrt.hop import Uplink
from msrt.joining import endpoint_for, hello_of
from msrt.protocol.messages import Infer, InferFailed, Inferred, TensorSpec
from tests.bench.tree import BODY, MSRT, Tree, X, mlp, post

ROW = np.array([X], np.float32)


@pytest.fixture(scope="module")
def house():
    """One device behind one edge, and a good model of 64 inputs on it."""
    with Tree() as tree:
        tree.edge("e1", "north")
        tree.device("d1", "north")
        tree.push()
        tree.serving(tree.procs["e1"].field("http"))
        yield tree
        [row] = json.loads(tree.cli("model", "list", "--json"))
        assert (row["model"], row["versions"]) == ("mlp", [1]), "nothing else was registered"
        for name, process in tree.procs.items():
            assert "Traceback" not in process.log.read_text(), name


@pytest.fixture(autouse=True)
def whole(house):
    """Whatever a test does: every process lives, and a right request is answered."""
    yield
    assert all(process.popen.poll() is None for process in house.procs.values())
    status, body = infer(house, BODY)
    assert status == 200, body


def infer(house, body):
    return post(f"{house.procs['e1'].field('http')}/v2/models/mlp/infer", body)


# --- files that are no model ----------------------------------------------------------------------------------


def refused(house, *argv):
    """What `msrt model push` of such a file says: one line, with status 1."""
    state = ["--state", str(house.path / "cloud")]
    done = subprocess.run(
        [MSRT, "model", "push", *map(str, argv), "--name", "bad", *state],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    assert done.stderr.startswith("msrt: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def file(house, name, data):
    path = house.path / name
    path.write_bytes(data)
    return path


def changed(change):
    """The good model, after `change` of it."""
    model = onnx.load_from_string(mlp())
    change(model.graph)
    return model.SerializeToString()


def outside(graph):
    """Keep the first weights in another file."""
    onnx.external_data_helper.set_external_data(graph.initializer[0], location="weights.bin")
    graph.initializer[0].ClearField("raw_data")


def unknown(graph):
    graph.node[1].op_type = "Frobnicate"


def foreign(graph):
    graph.node[1].domain = "my.own"


def misfit(graph):
    graph.initializer[0].dims[:] = [32, 256]


MODELS = {
    "truncated": (lambda: mlp()[:-1000], "truncated", "export it again"),
    "cut in its header": (lambda: mlp()[:20], "truncated", "export it again"),
    "empty": (lambda: b"", "is empty", "export it again"),
    "text": (lambda: b"this is no model at all", "not an ONNX model", "export it again"),
    "external data": (lambda: changed(outside), "w1 in an external file", "single file"),
    "unknown operator": (lambda: changed(unknown), "Frobnicate", "standard ONNX operators"),
    "unknown domain": (lambda: changed(foreign), "my.own:Relu", "standard ONNX operators"),
    "weights that do not fit": (lambda: changed(misfit), "cannot load it", "between 32 and 64"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_that_is_no_good_model_is_refused(house, kind):
    """One sentence names what is wrong with it and what to do; nothing is registered."""
    make, fault, what_to_do = MODELS[kind]
    said = refused(house, file(house, "bad.onnx", make()))
    assert fault in said, said
    assert what_to_do in said, said


@pytest.mark.parametrize("option", ["", "--calibrate", "--eval", "--labels"])
def test_a_file_that_is_not_there_is_named(house, option):
    """Before anything is sent, and without a lesson in the usage of the command."""
    good, gone = file(house, "good.onnx", mlp()), house.path / "gone"
    said = refused(house, *([good, option, gone] if option else [gone]))
    assert str(gone) in said
    assert "does not exist" in said


def test_a_folder_is_no_model(house):
    """It is named for what it is."""
    assert "is a directory" in refused(house, house.path)


def test_labels_must_be_text(house):
    """A binary file in their place is named."""
    good = file(house, "good.onnx", mlp())
    assert "good.onnx is no text" in refused(house, good, "--labels", good)


# --- data that does not fit the model ---------------------------------------------------------------------------


def rows(width, count=20):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


CALIBRATION = {
    "wider": (rows(65), ("takes [-1, 64]", "is [20, 65]")),
    "flat": (rows(64)[0], ("takes [-1, 64]", "is [64]")),
    "words": (np.array(["a"] * 20), ("takes FP32", "<U1")),
    "nothing": (rows(64, 0), ("at least one",)),
    "garbage": (b"no array", ("neither .npy nor .npz", "np.save")),
    "empty": (b"", ("neither .npy nor .npz", "np.save")),
    "cut short": (b"\x93NUMPY\x01\x00v\x00", ("cannot read", "np.save")),
}
EVALUATION = {
    "wider": ({"x": rows(65), "y": np.zeros(20, int)}, ("takes [-1, 64]", "is [20, 65]")),
    "another name": ({"image": rows(64), "y": np.zeros(20, int)}, ("['image']", "inputs ['x']")),
    "no labels": ({"x": rows(64)}, ("no labels", "np.savez")),
    "too few labels": ({"x": rows(64), "y": np.zeros(19, int)}, ("20 samples and 19 labels",)),
    "half a label": ({"x": rows(64), "y": np.zeros(20)}, ("whole numbers", "float64")),
}


@pytest.mark.parametrize("kind", CALIBRATION)
def test_calibration_data_that_does_not_fit_is_refused(house, kind):
    """The sentence says what the model takes and what the file holds."""
    data, words = CALIBRATION[kind]
    path = house.path / "x.npy"
    path.write_bytes(data) if isinstance(data, bytes) else np.save(path, data)
    said = refused(house, file(house, "good.onnx", mlp()), "--calibrate", path)
    assert all(word in said for word in words), said


@pytest.mark.parametrize("kind", EVALUATION)
def test_evaluation_data_that_does_not_fit_is_refused(house, kind):
    """The same for labelled data."""
    arrays, words = EVALUATION[kind]
    path = house.path / "xy.npz"
    np.savez(path, **arrays)
    said = refused(house, file(house, "good.onnx", mlp()), "--eval", path)
    assert all(word in said for word in words), said


# --- requests that do not fit, over HTTP ------------------------------------------------------------------------


def asking(**fields):
    """The body of a good request, but for these fields of its input; None takes one out."""
    given = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": X} | fields
    return json.dumps({"inputs": [{key: value for key, value in given.items() if value is not None}]})


REQUESTS = {
    "wrong name": (asking(name="z"), "'z'"),
    "wrong width": (asking(shape=[1, 63], data=X[:-1]), "[1, 63]"),
    "wrong rank": (asking(shape=[64]), "2 dimensions"),
    "no rows": (asking(shape=[0, 64], data=[]), "[0, 64]"),
    "negative shape": (asking(shape=[-1, 64]), "[-1, 64]"),
    "overflowing shape": (asking(shape=[1 << 62, 64]), "elements"),
    "shape that is no list": (asking(shape="1,64"), "shape"),
    "wrong dtype": (asking(datatype="FP64"), "must be FP32"),
    "unknown dtype": (asking(datatype="COMPLEX"), "'COMPLEX' is not supported"),
    "too few elements": (asking(data=X[:-1]), "data has 63"),
    "too many elements": (asking(data=[*X, 1.0]), "data has 65"),
    "words": (asking(data=["a"] * 64), "no array of FP32"),
    "number too large": (asking(data=[1e39] * 64), "FP32"),
    "no data": (asking(data=None), "data is missing"),
    "missing input": ('{"inputs": []}', "'x' is missing"),
    "no inputs": ("{}", "`inputs`"),
    "input given twice": (json.dumps({"inputs": json.loads(BODY)["inputs"] * 2}), "twice"),
    "unknown output": (json.dumps(json.loads(BODY) | {"outputs": [{"name": "nope"}]}), "nope"),
    "truncated JSON": (BODY[:-5], "not JSON"),
    "no JSON": ("hello", "not JSON"),
    "NaN": (BODY.replace("0.48", "NaN"), "not JSON"),
    "another kind of JSON": ("[1, 2]", "no inference request"),
    "deep JSON": ('{"inputs": ' + "[" * 100_000, "request"),
    "nothing": ("", "not JSON"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_that_does_not_fit_is_a_400_over_http(house, kind):
    """{"error": ...} names the fault."""
    body, fault = REQUESTS[kind]
    status, answer = infer(house, body)
    assert status == 400, answer
    error = json.loads(answer)
    assert list(error) == ["error"]
    assert fault in error["error"], error


# --- and over the client library --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(house):
    with msrt.connect([house.procs["e1"].field("zmq")], state=house.path / "cloud") as made:
        yield made


INPUTS = {
    "wrong name": ({"z": ROW}, "unknown input 'z'"),
    "wrong width": ({"x": ROW[:, :-1]}, "[1, 63]"),
    "wrong rank": ({"x": ROW[0]}, "2 dimensions"),
    "wrong dtype": ({"x": ROW.astype(np.int64)}, "must be FP32, not INT64"),
    "no tensor": ({"x": ROW.astype(complex)}, "complex128"),
    "one too many": ({"x": ROW, "y": ROW}, "'y'"),
    "missing input": ({}, "at least one input"),
    "list of words": ([["a"] * 64], "FP32"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_do_not_fit_are_an_invalid_tensor(client, kind):
    """A typed error, and the next question of the same client is answered."""
    inputs, fault = INPUTS[kind]
    with pytest.raises(errors.InvalidTensor) as caught:
        client.infer("mlp", inputs)
    assert fault in str(caught.value)
    assert client.infer("mlp", {"x": ROW})["y"].shape == (1, 10)


class Heard(Quiet):
    """Keeps what an edge says of requests."""

    def __init__(self):
        self.answers = asyncio.Queue()

    def message(self, _peer, message, _frames):
        if isinstance(message, Inferred | InferFailed):
            self.answers.put_nowait(message)


@contextlib.asynccontextmanager
async def session(house):
    """A session with the edge that sends what the library never would."""
    member = world, identity, membership = await load_caller(house.path / "cloud")
    heard = Heard()
    [edge] = await ask_cloud(member, 10)
    hello = hello_of(world, identity, membership)
    uplink = Uplink(world, hello, [edge], endpoint_for(identity, membership), heard, roams=False)
    task = asyncio.get_running_loop().create_task(uplink.run())
    try:
        yield await uplink.wait(10), heard.answers
    finally:
        uplink.close()
        await asyncio.wait([task])


X_SPEC = TensorSpec("x", "FP32", (1, 64))
FRAMES = {
    "too few bytes": ((X_SPEC,), (ROW.tobytes()[:-4],), "252"),
    "half an element": ((X_SPEC,), (ROW.tobytes()[:-2],), "254"),
    "too many bytes": ((X_SPEC,), (ROW.tobytes() + b"\0" * 4,), "260"),
    "no bytes": ((X_SPEC,), (b"",), "got 0"),
    "no frame": ((X_SPEC,), (), "0 came along"),
    "a frame too many": ((X_SPEC,), (ROW.tobytes(),) * 2, "2 came along"),
    "no input": ((), (), "'x' is missing"),
    "negative shape": ((TensorSpec("x", "FP32", (-1, 64)),), (ROW.tobytes(),), "[-1, 64]"),
    "unknown dtype": ((TensorSpec("x", "FP31", (1, 64)),), (ROW.tobytes(),), "FP31"),
}


def test_frames_that_do_not_fit_their_tensors_are_refused(house):
    """Each is answered by its id with the code and the fault, and the session goes on to serve the right one."""

    async def main():
        async with session(house) as (peer, answers):
            for ident, (kind, (specs, frames, fault)) in enumerate(FRAMES.items(), 1):
                peer.send(Infer((ident,), (1,), "mlp", specs, deadline_ms=5000), frames)
                answer = await asyncio.wait_for(answers.get(), 5)
                assert isinstance(answer, InferFailed), kind
                assert (answer.ids, answer.code) == ((ident,), "invalid_tensor"), (kind, answer)
                assert fault in answer.text, (kind, answer)
            peer.send(Infer((99,), (1,), "mlp", (X_SPEC,), deadline_ms=5000), (ROW.tobytes(),))
            answer = await asyncio.wait_for(answers.get(), 5)
            assert isinstance(answer, Inferred), answer

    asyncio.run(main())
