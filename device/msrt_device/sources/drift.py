"""A source's readings held against those that its model was made with, window by window."""

from __future__ import annotations

from typing import Any, Final

from msrt.inference.bundle import Manifest
from msrt.inference.drift import Window

__all__ = ["Meter"]

NONE: Final[dict[str, Any]] = {}


class Meter:
    """`limit`: a window of so many `readings` that drifted this far is reported; 0: nothing is measured."""

    def __init__(self, limit: float, readings: int) -> None:
        self._limit, self._readings = limit, readings
        self._window: Window | None = None
        self._of = ("", 0)
        self.value = 0.0
        """PSI of the last whole window."""

    def add(self, manifest: Manifest, reading: Any) -> dict[str, Any]:
        """Count one reading; what is to be reported, which is nothing most of the time."""
        if not self._limit or manifest.reference is None:
            return NONE
        of = (manifest.model, manifest.version)
        if of != self._of:  # another version knows other data: what was counted says nothing
            self._window, self._of, self.value = None, of, 0.0
        if self._window is None:
            self._window = Window(manifest.reference)
        self._window.add(reading)
        if self._window.readings < self._readings:
            return NONE
        self.value, feature = self._window.drift()
        self._window = None
        if self.value < self._limit:
            return NONE
        return {"drift": round(self.value, 4), "feature": feature, "readings": self._readings}
