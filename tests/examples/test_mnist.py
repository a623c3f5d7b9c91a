from __future__ import annotations

import numpy as np
import pytest

from msrt.training.task import Node
from tests.examples.simulated import DATA, needs, simulation, task_of

pytestmark = needs("mnist")


@pytest.mark.parametrize("split", ["iid", "shards"])
def test_every_image_has_one_owner(split: str) -> None:
    """60,000 to train on and 10,000 to judge by, 600 and 100 for each of a hundred; of shards most hold two digits."""
    task, _ = task_of("mnist", split=split)
    parts = [task.data(Node("n", index=at, count=100, data=str(DATA))) for at in range(100)]
    for (train, test), length in ((part, (600, 100)) for part in parts):
        assert (len(train[1]), len(test[1])) == length
    for which, digits in ((0, 6000), (1, 1000)):
        counts = np.bincount(np.concatenate([part[which][1] for part in parts]))
        assert counts.sum() == 10 * digits
        assert (abs(counts - digits) < 0.15 * digits).all()
    kinds = [len(np.unique(train[1])) for train, _ in parts]
    assert min(kinds) == 10 if split == "iid" else np.median(kinds) <= 2


def test_a_tenth_of_a_hundred_nodes_learn_in_a_few_rounds() -> None:
    """Three rounds of ten nodes, int8 on both links: four of five digits are told apart."""
    job = simulation("mnist", 100, rounds=3)
    lines = list(job.run())
    assert job.judge()["accuracy"] > 0.8
    assert [line["nodes"] for line in lines] == [10] * 3
    assert lines[-1]["update_bytes_ratio"] < 0.255


def test_a_node_without_the_files_is_told_what_to_do() -> None:
    """Which file is missing, and where it is looked for."""
    task, _ = task_of("mnist")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/mnist/train-images.*`data` names the folder"):
        task.data(Node("n", data="/nowhere"))
