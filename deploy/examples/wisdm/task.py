"""Which of six activities a phone's wearer is at, learned from users and judged on users whom nobody trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from walks import ACTIVITIES, FEATURES, strangers, walks

from msrt.training.task import Node, Task

Part = tuple[NDArray[np.float32], NDArray[np.int64]]


class Wisdm(Task):
    """A perceptron of 43-64-6 with dropout: 3,206 parameters."""

    def model(self) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 64), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(64, len(ACTIVITIES))
        )

    def data(self, node: Node) -> tuple[Part, Part]:
        """A user, or several where nodes are few, to train on; an equal share of the held-out users' rows to judge by.

        So all nodes together judge on every row of the strangers, as none of them could alone in the field.
        """
        values, labels, users = walks(node.data)
        away = strangers(users, int(self.options.get("fold", 0)), int(self.options.get("seed", 0)))
        known = np.setdiff1d(users, away)
        mine = np.isin(users, known[node.index :: node.count])
        judged = np.flatnonzero(np.isin(users, away))[node.index :: node.count]
        return (values[mine], labels[mine]), (values[judged], labels[judged])

    def example(self) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(2, FEATURES),)
