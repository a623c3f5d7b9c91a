"""How much devices found, by model: what [trigger] of a job looks at. On disk with the events themselves."""

from __future__ import annotations

from typing import Final

import msgspec

from msrt.protocol.messages import Event
from msrt.world.world import Store

__all__ = ["DRIFT", "Drift", "Seen", "Tally"]

DRIFT: Final = "drift"
"""What an event's data says when it is no finding but a report that the readings are not what they were."""


class Drift(msgspec.Struct, frozen=True, array_like=True):
    """The last report of one device: how far its readings are from the model's, and which of the events it was."""

    drift: float
    number: int
    name: str


class Seen(msgspec.Struct):
    """Of one model: events ever, reports of drift among them, and the last such report of each device."""

    events: int = 0
    drifted: dict[str, Drift] = {}


class Tally:
    """Counts on the events' own `store`: whoever commits an event commits that it was counted."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, Seen] = {}
        self._changed: set[str] = set()
        for key, value in store.scan("tally/"):
            self._seen[key.removeprefix("tally/")] = Seen(int.from_bytes(value, "big"))
        for key, value in store.scan("drift/"):
            model, _, node = key.removeprefix("drift/").rpartition("/")
            self._seen.setdefault(model, Seen()).drifted[node] = msgspec.msgpack.decode(value, type=Drift)

    def of(self, model: str) -> Seen:
        """What was seen of a model; nothing of one that nobody runs."""
        return self._seen.get(model) or Seen()

    def note(self, event: Event) -> None:
        """One more event, seen for the first time."""
        seen = self._seen.setdefault(event.model, Seen())
        seen.events += 1
        self._changed.add(event.model)
        drift = event.data.get(DRIFT)
        if isinstance(drift, float | int):
            report = seen.drifted[event.node] = Drift(float(drift), seen.events, event.name)
            self._store.put(f"drift/{event.model}/{event.node}", msgspec.msgpack.encode(report))

    def flush(self) -> None:
        """Ready for the store's commit."""
        for model in sorted(self._changed):
            self._store.put(f"tally/{model}", self._seen[model].events.to_bytes(8, "big"))
        self._changed.clear()
