"""What of a node's round may leave its process, where the job is private. In the runner, before anything is encoded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from msrt.errors import InvalidJob
from msrt.learning.aggregate import scale_down
from msrt.learning.noise import KEY, add_noise
from msrt.learning.vector import Vector, l2_norm
from msrt.training.pipe import Asked
from msrt.training.settings import Privacy
from msrt.training.settings.privacy import noise_of

__all__ = ["SPENT", "Shield", "shielded"]

SPENT: Final = "the privacy budget of this node is spent"
"""How a node begins that refuses a round."""
HARMLESS: Final = frozenset({"seconds", "work"})
"""Metrics that say nothing of what is in the data."""


def shielded(
    settings: Privacy, delta: Vector, metrics: Mapping[str, float], asked: float, key: bytes
) -> tuple[Vector, dict[str, float]]:
    """(update, metrics) as they may go: clipped, with mode `local` also noisy.

    A node clips although masters do it again: what it sends through a lossy codec is hardly longer than the clip then.
    """
    if settings.mode != "sample":
        delta = delta * np.float32(scale_down(l2_norm(delta), settings.clip))
    if settings.mode == "local":
        delta = add_noise(delta, noise_of(settings, asked) * settings.clip, key)
    return delta, {name: value for name, value in metrics.items() if settings.metrics or name in HARMLESS}


class Shield:
    """One round of one node. `work` is the job's directory: it holds how often this node gave an update away.

    Where it is the node that adds the noise it keeps count itself, before an update leaves: a round that is trained
    again has fresh noise, and so tells more. The number outlives this process and the node's.
    """

    def __init__(self, settings: Privacy, work: Path, asked: Asked) -> None:
        self._settings, self._asked, self._ledger = settings, asked, work / "releases"

    def leave(self, delta: Vector, metrics: Mapping[str, float]) -> tuple[Vector, dict[str, float]]:
        """`shielded`, and counted. Raises InvalidJob where this node may give nothing away any more."""
        if self._settings.mode != "central":
            self._count()
        return shielded(self._settings, delta, metrics, self._asked.noise, os.urandom(KEY))

    def _count(self) -> None:
        known, most = self.released, self._asked.releases
        if most and known >= most:
            raise InvalidJob(f"{SPENT}: it gave {known} updates away")
        fresh = self._ledger.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(str(known + 1))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._ledger)

    @property
    def released(self) -> int:
        """Updates that may have left so far. Raises InvalidJob where the number is lost: it may not be guessed."""
        try:
            return int(self._ledger.read_text())
        except FileNotFoundError:
            return 0
        except ValueError:
            raise InvalidJob("it is not known how many updates this node gave away", hint=str(self._ledger)) from None
