"""What a floor trusts, at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from msrt.telemetry.metrics import Metrics
from msrt.trust.tuf.floor import Floor

__all__ = ["observe_trust"]


def observe_trust(metrics: Metrics, floor: Callable[[], Floor | None]) -> None:
    """Register them. floor: None while it is not there yet."""

    def value(name: str) -> dict[tuple[str, ...], float]:
        found = floor()
        values = found.values() if found is not None else {}
        return {(): values[name]} if name in values else {}

    def refused() -> dict[tuple[str, ...], float]:
        found = floor()
        return {} if found is None else {("ended",): found.expired, ("wrong",): found.refused - found.expired}

    metrics.gauges("trust_left_seconds", "Until the signed timestamp ends, after which nothing new is accepted.", (),
                   lambda: value("trust_left_s"))  # fmt: skip
    metrics.gauges("trust_root_version", "Of the root that is trusted.", (), lambda: value("trust_root"))
    metrics.tally(
        "trust_refused_total", "Artifacts and metadata that were not accepted, because what was signed has ended or "
        "because it is not what was signed.", ("why",), refused,
    )  # fmt: skip
