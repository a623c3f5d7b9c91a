"""What of a model travels: shared tensors and controls; what a node keeps, over rounds and restarts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msrt.errors import InvalidJob
from msrt.inference.engine import Engine
from msrt.learning.control import parts
from msrt.learning.vector import Layout
from msrt.training.local import Local
from msrt.training.shelf import Shelf
from msrt.training.task import Node, Task
from msrt.training.travel import Travel
from tests.runtime.training.quadratic import config

LAYOUT = Layout.of(
    {name: np.zeros(size, np.float32) for name, size in (("a.w", 3), ("b.w", 2), ("b.n", 1), ("c.w", 4))}
)


def names(layout):
    return [slot.name for slot in layout.slots]


def test_what_is_kept_is_not_in_what_travels():
    """The rest travels in the model's order, and a vector that comes back is put together with what stayed."""
    travel = Travel(LAYOUT, ["b.*"])
    assert names(travel.layout) == ["a.w", "c.w"]
    model = np.arange(10, dtype=np.float32)
    assert travel.sent(model).tolist() == [0, 1, 2, 6, 7, 8, 9]
    assert travel.kept(model).tolist() == [3, 4, 5]
    assert travel.whole(-travel.sent(model), travel.kept(model)).tolist() == [0, -1, -2, 3, 4, 5, -6, -7, -8, -9]


def test_controls_travel_behind_the_model_for_what_is_trained_and_shared():
    """No control for a buffer, or for a tensor that stays."""
    travel = Travel(LAYOUT, ["c.*"], trained=("a.w", "b.w", "c.w"))
    assert names(travel.layout) == ["a.w", "b.w", "b.n", "control/a.w", "control/b.w"]
    assert [names(part) for part in parts(travel.layout)] == [["a.w", "b.w", "b.n"], ["control/a.w", "control/b.w"]]
    assert travel.trained(np.arange(10, dtype=np.float32)).tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_copied_where_everything_travels():
    """The plain job costs nothing."""
    travel, model = Travel(LAYOUT), np.arange(10, dtype=np.float32)
    assert travel.sent(model) is model
    assert np.shares_memory(travel.whole(model, travel.kept(model)), model)


@pytest.mark.parametrize(("keep", "why"), [(["hed.*"], "names no tensor"), (["*"], "nothing is left")])
def test_patterns_that_make_no_sense_are_refused(keep, why):
    """With the reason."""
    with pytest.raises(InvalidJob, match=why):
        Travel(LAYOUT, keep)


class Personal(Task):
    """Nodes agree on the body (features) and disagree on the head (which sign means which class)."""

    def model(self):
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    def data(self, node):
        rng = np.random.default_rng(node.index)
        x = rng.standard_normal((120, 4)).astype(np.float32)
        y = ((x[:, 0] + x[:, 1] > 0) ^ (node.index % 2)).astype(np.int64)
        return (x[:80], y[:80]), (x[80:], y[80:])


def rounds(local, count, keepers):
    """(weights, mean accuracy that the nodes measured) after so many rounds of two nodes that disagree."""
    vector, accuracy = local.initial(), 0.0
    for number in range(1, count + 1):
        done = []
        for i in range(2):
            delta, _, metrics = local.train(vector, Node(f"n{i}", index=i), number, keeper=keepers[i])
            done.append((delta.copy(), metrics))
        vector = (vector + np.mean([delta for delta, _ in done], axis=0)).astype(np.float32)
        accuracy = float(np.mean([metrics["accuracy"] for _, metrics in done]))
    return vector, accuracy


def test_nodes_that_disagree_are_served_by_heads_of_their_own(tmp_path):
    """A common head can serve only one of them; each judges the model with its own."""
    settings = {"epochs": 3, "batch": 16, "lr": 0.2}
    _, common = rounds(Local(Personal({}), config(**settings)), 12, [None, None])
    shelves = [Shelf(tmp_path / str(i)) for i in range(2)]
    for i in range(2):
        (tmp_path / str(i)).mkdir()
    vector, personal = rounds(Local(Personal({}), config(keep_local=["2.*"], **settings)), 12, shelves)
    assert vector.size == 4 * 8 + 8
    assert common < 0.7
    assert personal > 0.9


def test_a_head_outlives_its_process_and_a_round_trained_again_begins_with_the_one_before(tmp_path):
    """The second try of a round gives the same update and the same head."""
    settings = config(keep_local=["2.*"], epochs=2)
    shelf = Shelf(tmp_path)
    first = Local(Personal({}), settings)
    start = first.initial()
    for number in (1, 2, 3):
        delta, _, metrics = first.train(start, Node("n0"), number, keeper=shelf)
    again, _, judged = Local(Personal({}), settings).train(start, Node("n0"), 3, keeper=Shelf(tmp_path))
    assert np.array_equal(delta, again)
    assert metrics == judged


def test_the_model_of_a_node_is_the_shared_body_with_its_own_head(tmp_path):
    """As ONNX it is right on that node's data and wrong on the other's; a head of later rounds is not put to it."""
    settings = config(keep_local=["2.*"], epochs=3, batch=16, lr=0.2)
    shelves = [Shelf(tmp_path / str(i)) for i in range(2)]
    for i in range(2):
        (tmp_path / str(i)).mkdir()
    local = Local(Personal({}), settings)
    vector, _ = rounds(local, 12, shelves)
    shelves[0].keep("head", 13, np.zeros(18, np.float32).tobytes())  # of a round that no weights are of yet
    assert [local.personal(vector, shelves[i], 12, str(tmp_path / f"{i}.onnx")) for i in range(2)] == [12, 12]
    for i in range(2):
        model = Engine().load((tmp_path / f"{i}.onnx").read_bytes())
        right = []
        for other in range(2):
            x, y = Personal({}).data(Node("", index=other))[1]
            right.append(float((model.run({"input": x})[0].argmax(1) == y).mean()))
        assert right[i] > 0.9
        assert right[1 - i] < 0.3


def test_a_node_without_layers_of_its_own_has_no_model_of_its_own(tmp_path):
    """It never took part, or its job keeps nothing; either way it says so."""
    local = Local(Personal({}), config(keep_local=["2.*"]))
    with pytest.raises(InvalidJob, match="has kept no part"):
        local.personal(local.initial(), Shelf(tmp_path), 5, str(tmp_path / "m.onnx"))
    common = Local(Personal({}), config())
    with pytest.raises(InvalidJob, match="the same on all nodes"):
        common.personal(common.initial(), Shelf(tmp_path), 5, str(tmp_path / "m.onnx"))
