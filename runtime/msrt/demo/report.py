"""The verdict: what was measured, and whether everything held."""

from __future__ import annotations

from typing import Any

import msgspec

from msrt.demo.load import Tally

__all__ = ["Events", "Failover", "Model", "Report", "Serving", "Training"]


class Training(msgspec.Struct):
    """Federated against alone and pooled."""

    rounds: int = 0
    accuracy: float = 0.0
    alone_mean: float = 0.0
    pooled: float = 0.0
    update_bytes_ratio: float = 0.0
    """Bytes of the compressed updates / bytes of the same in float32."""


class Model(msgspec.Struct):
    """What the registry made of it."""

    accuracy_fp32: float = 0.0
    accuracy_int8: float = 0.0
    weight_bytes_ratio: float = 0.0
    chosen: str = ""


class Serving(msgspec.Struct):
    """HTTP, before anything dies."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    accuracy: float = 0.0


class Events(msgspec.Struct):
    """Of the device with a sensor."""

    sent: int = 0
    received: int = 0


class Failover(msgspec.Struct):
    """One kill under load."""

    killed: str
    requests: int
    failed: int
    wrong: int
    longest_gap_ms: float


class Report(msgspec.Struct):
    """`--report FILE`."""

    ok: bool = False
    seconds: float = 0.0
    training: Training = msgspec.field(default_factory=Training)
    model: Model = msgspec.field(default_factory=Model)
    serving: Serving = msgspec.field(default_factory=Serving)
    events: Events = msgspec.field(default_factory=Events)
    failover: list[Failover] = []

    def served(self, tally: Tally) -> None:
        """Note the serving chapter."""
        self.serving = Serving(
            tally.requests, tally.failed, tally.wrong, round(tally.quantile_ms(0.5), 3),
            round(tally.quantile_ms(0.99), 3), tally.accuracy,
        )  # fmt: skip

    def survived(self, killed: str, tally: Tally) -> None:
        """Note one kill."""
        gap = round(tally.longest_gap_ms, 1)
        self.failover.append(Failover(killed, tally.requests, tally.failed, tally.wrong, gap))

    def faults(self) -> list[str]:
        """What did not hold, in plain words; empty when everything did."""
        t, found = self.training, list[str]()
        if t.accuracy <= t.alone_mean:
            found.append("the federated model is no better than devices alone")
        if t.accuracy < t.pooled - 0.02:
            found.append("the federated model is more than two points below pooled data")
        if not 0 < t.update_bytes_ratio <= 0.26:
            found.append(f"updates of {t.update_bytes_ratio:.1%} of their float32 bytes")
        if not self.model.chosen:
            found.append("no variant was chosen")
        if self.model.accuracy_int8 < self.model.accuracy_fp32 - 0.01:
            found.append("int8 lost more than a point")
        loads: list[tuple[str, Serving | Failover]] = [("serving", self.serving)]
        loads += [(f"the {row.killed}'s death", row) for row in self.failover]
        for what, row in loads:
            if not row.requests or row.failed or row.wrong:
                found.append(f"{what}: {row.failed} failed and {row.wrong} wrong of {row.requests} requests")
        if [f.killed for f in self.failover] != ["device", "edge", "cloud"]:
            found.append("not every kill was tried")
        if not self.events.sent or self.events.received != self.events.sent:
            found.append(f"{self.events.received} of {self.events.sent} events arrived")
        return found

    def encode(self) -> bytes:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def rows(self) -> list[dict[str, Any]]:
        """The table at the end."""
        t, m, s = self.training, self.model, self.serving
        rows = [
            ("federated accuracy", f"{t.accuracy:.3f}", f"alone {t.alone_mean:.3f}, pooled {t.pooled:.3f}"),
            ("update bytes", f"{t.update_bytes_ratio:.1%}", f"of float32, {t.rounds} rounds"),
            ("model", m.chosen, f"accuracy fp32 {m.accuracy_fp32:.3f}, int8 {m.accuracy_int8:.3f}"),
            ("int8 weight bytes", f"{m.weight_bytes_ratio:.1%}", "of float32"),
            ("served", f"{s.requests} requests", f"{s.failed} failed, {s.wrong} wrong, accuracy {s.accuracy:.3f}"),
            ("latency", f"p50 {s.p50_ms:.2f} ms", f"p99 {s.p99_ms:.2f} ms"),
        ]
        for f in self.failover:
            held = f"{f.failed} failed, {f.wrong} wrong of {f.requests}"
            rows.append((f"{f.killed} killed", held, f"longest gap {f.longest_gap_ms:.0f} ms"))
        lost = self.events.sent - self.events.received
        rows.append(("events", f"{self.events.received} of {self.events.sent}", f"{lost} lost"))
        return [{"what": what, "value": value, "beside": beside} for what, value, beside in rows]
