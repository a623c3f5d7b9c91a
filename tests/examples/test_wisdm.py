from __future__ import annotations

import numpy as np

from msrt.training.task import Node
from tests.examples.simulated import DATA, needs, simulation, task_of

pytestmark = needs("wisdm")


def test_nobody_is_judged_on_a_user_that_was_trained_on() -> None:
    """27 users train, one a node; every row of the nine others judges once; each user is held out in one fold."""
    judged = 0
    for fold in range(4):
        task, _ = task_of("wisdm", fold=fold)
        parts = [task.data(Node("n", index=at, count=27, data=str(DATA))) for at in range(27)]
        trained = np.concatenate([train[0] for train, _ in parts])
        tested = np.concatenate([test[0] for _, test in parts])
        assert len(trained) + len(tested) == 5418
        assert min(len(train[1]) for train, _ in parts) >= 60
        judged += len(tested)
    assert judged == 5418
    assert np.isfinite(trained).all()
    assert abs(trained).mean() < 1.5, "features are about 0"


def test_users_together_know_what_strangers_do() -> None:
    """A few rounds of 27 users: better than to say of everybody that they walk."""
    job = simulation("wisdm", 27, rounds=4)
    list(job.run())
    assert job.judge()["accuracy"] > 0.5
