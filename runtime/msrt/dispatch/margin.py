"""How much longer than expected a wait may turn out, learnt so that hardly anyone let in comes too late. Pure."""

from __future__ import annotations

__all__ = ["Margin"]

MISSED = 0.0005
"""The share of those who waited that may take longer than expected times the margin."""
STEP = 0.05


class Margin:
    """The quantile of time taken over time expected, followed one by one: a miss raises it by `STEP`, a hit lowers it
    by as much of that as keeps the share (the online step of Gibbs and Candes, 2021, "Adaptive Conformal Inference
    Under Distribution Shift")."""

    __slots__ = ("_least", "_most", "value")

    def __init__(self, least: float, most: float) -> None:
        """Between `least`, where it begins, and `most`."""
        self.value = self._least = least
        self._most = max(least, most)

    def add(self, ratio: float) -> None:
        """Someone waited for so many times what was expected; infinite: was given up."""
        if ratio > self.value:
            self.value = min(self.value + STEP * (1 - MISSED), self._most)
        else:
            self.value = max(self.value - STEP * MISSED, self._least)
