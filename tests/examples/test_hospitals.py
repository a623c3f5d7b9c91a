from __future__ import annotations

from msrt.training.task import Node
from tests.examples.simulated import simulation, task_of


def test_every_patient_is_at_one_hospital_in_one_fold() -> None:
    """569 of them, of both kinds everywhere."""
    seen, shares = 0, set()
    for fold in range(5):
        task, _ = task_of("hospitals", fold=fold)
        for at in range(5):
            train, test = task.data(Node("n", index=at, count=5))
            seen += len(test[1])
            assert set(train[1]) == {0, 1}
            shares.add(round(float(train[1].mean()), 1))
    assert seen == 569
    assert len(shares) > 3, "hospitals differ in their patients"
    train, test = task.data(Node("all"))
    assert len(train[1]) + len(test[1]) == 569
    assert abs(train[0].mean()) < 0.1


def test_hospitals_together_know_more_than_each_alone() -> None:
    """Five of them, int8 updates: above the mean of each alone, near all patients in one place."""
    job = simulation("hospitals", 5, rounds=10)
    list(job.run())
    job.finish()
    told = job.report()
    assert told["accuracy"] > told["alone_mean"]
    assert told["accuracy"] > told["pooled"] - 0.03
    assert told["accuracy"] > 0.95
