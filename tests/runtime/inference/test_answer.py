import numpy as np
import pytest
from onnx import TensorProto, helper

from msrt.errors import InvalidTensor, ModelFailed
from msrt.inference.answer import infer, run_slot
from msrt.inference.engine import Engine
from msrt.inference.signature import join_rows, split_rows
from msrt.inference.slots import Slots
from msrt.inference.tensors import array_of, frame_of, spec_of
from msrt.protocol.messages import Infer, TensorSpec

from .models import manifest_of, mlp, model_of, placed

X = np.random.default_rng(1).random((6, 4), np.float32)


def device_with(data, **fields):
    manifest = manifest_of({"fp32": data}, **fields)
    slots = Slots()
    slots.assign(1, [placed(manifest)])
    slot = slots.next_to_load(0.0)
    slots.loading(slot, manifest)
    slots.ready(slot, "fp32", Engine().load(data), {"fp32": 5})
    return slots


def ask(slots, arrays, *, rows=None, ids=None, outputs=(), version=0):
    specs = tuple(spec_of(name, array) for name, array in arrays.items())
    rows = rows or (len(next(iter(arrays.values()))),)
    message = Infer(ids or tuple(range(len(rows))), rows, "net", specs, version, outputs=outputs)
    return infer(slots, message, [frame_of(array) for array in arrays.values()], device="dev", now=lambda: 0.0)


def test_answer_is_what_the_bare_model_says():
    """Through frames and back, bit for bit, with the version, variant and device named."""
    reply, frames = ask(device_with(mlp()), {"x": X}, ids=(42,))
    assert (reply.ids, reply.rows, reply.version, reply.variant, reply.device) == ((42,), (6,), 1, "fp32", "dev")
    assert reply.outputs == (TensorSpec("y", "FP32", (6, 3)),)
    assert np.array_equal(array_of(reply.outputs[0], frames[0]), Engine().load(mlp()).run({"x": X})[0])


def test_riders_get_what_they_would_get_alone():
    """Three requests joined at the edge, run once, split: each answer is its own."""
    slots = device_with(mlp())
    parts = [X[:1], X[1:4], X[4:]]
    specs, frames = join_rows([((spec_of("x", part),), [frame_of(part)]) for part in parts])
    reply, answers = infer(slots, Infer((7, 8, 9), (1, 3, 2), "net", specs), frames, device="dev", now=lambda: 0.0)
    for part, (its_specs, its_frames) in zip(parts, split_rows(reply.outputs, answers, reply.rows), strict=True):
        alone, alone_frames = ask(slots, {"x": part})
        assert its_specs == alone.outputs
        assert np.allclose(
            array_of(its_specs[0], its_frames[0]), array_of(alone.outputs[0], alone_frames[0]), rtol=1e-5
        )
    assert slots.serving("net").requests == 6


def test_fixed_batch_is_run_row_by_row():
    """A graph that takes one row answers six of them, in order."""
    fields = {
        "inputs": (TensorSpec("x", "FP32", (1, 4)),),
        "outputs": (TensorSpec("y", "FP32", (1, 3)),),
        "batchable": False,
        "rowwise": True,
    }
    reply, frames = ask(device_with(mlp(rows=1), **fields), {"x": X}, rows=(2, 4))
    assert np.allclose(array_of(reply.outputs[0], frames[0]), Engine().load(mlp()).run({"x": X})[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "ids", "fault"),
    [((2, 3), None, "do not add up"), ((6,), (1, 2), "2 requests"), ((7, -1), None, "do not add up")],
)
def test_riders_that_do_not_add_up_are_refused(rows, ids, fault):
    """Rows and ids must tell the same story as the tensors."""
    with pytest.raises(InvalidTensor, match=fault):
        ask(device_with(mlp()), {"x": X}, rows=rows, ids=ids)


def test_riders_of_a_model_that_takes_none_are_refused():
    """Where axis 0 is not free, two requests in one message are an error, one is fine."""
    slots = device_with(mlp(), batchable=False)
    with pytest.raises(InvalidTensor, match="cannot ride together"):
        ask(slots, {"x": X}, rows=(3, 3))
    ask(slots, {"x": X}, rows=(6,))


def test_only_wanted_outputs_come_back():
    """Named outputs in the order named; an unknown name is an error."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    spec = [TensorProto.FLOAT, ["n", 4]]
    data = model_of(nodes, [("x", *spec)], [("y", *spec), ("z", *spec)]).SerializeToString()
    outputs = tuple(TensorSpec(name, "FP32", (-1, 4)) for name in "yz")
    slots = device_with(data, outputs=outputs)
    reply, frames = ask(slots, {"x": X}, outputs=("z",))
    assert [spec.name for spec in reply.outputs] == ["z"]
    assert np.array_equal(array_of(reply.outputs[0], frames[0]), -X)
    with pytest.raises(InvalidTensor, match="no output 'q'"):
        ask(slots, {"x": X}, outputs=("q",))


def test_bad_request_leaves_the_model_blameless():
    """A caller's error counts neither as a request of the version nor as its failure, and gives the slot back."""
    slots = device_with(mlp())
    with pytest.raises(InvalidTensor):
        ask(slots, {"x": X[:, :3]})
    slot = slots.serving("net")
    assert (slot.requests, slot.failures, slot.in_flight) == (0, 0, 0)


def test_failing_model_is_counted():
    """A version that raises on good inputs shows in its health."""
    data = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("y", TensorProto.FLOAT, ["m", 5])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [7, 5])],
    ).SerializeToString()
    slots = device_with(data, outputs=(TensorSpec("y", "FP32", (-1, 5)),))
    with pytest.raises(ModelFailed):
        ask(slots, {"x": X}, rows=(3, 3))
    slot = slots.serving("net")
    assert (slot.requests, slot.failures, slot.in_flight) == (2, 2, 0)


def test_nan_answers_are_counted():
    """A canary that answers NaN is not healthy, though it never raises."""
    slots = device_with(mlp())
    ask(slots, {"x": np.full((1, 4), np.nan, np.float32)})
    assert slots.serving("net").failures == 1


def test_unloaded_slot_says_so():
    """Who holds a slot over its unloading gets an error, not a crash."""
    slots = device_with(mlp())
    slot = slots.serving("net")
    slots.assign(2, [])
    with pytest.raises(ModelFailed, match="not loaded"):
        run_slot(slot, {"x": X}, ("y",), 6)
