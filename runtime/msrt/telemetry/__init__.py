"""Seeing what a node does: structlog events, Prometheus metrics, the lag of its event loop."""

from __future__ import annotations

from msrt.telemetry.looplag import LoopLag
from msrt.telemetry.metrics import Metrics

__all__ = ["LoopLag", "Metrics"]
