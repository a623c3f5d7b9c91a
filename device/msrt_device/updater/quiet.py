"""When a device may restart: in its maintenance time, or when nobody has asked it anything for a while. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from msrt.errors import InvalidConfig

__all__ = ["Quiet", "parse_window"]

DAY: Final = 24 * 60
_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def parse_window(text: str) -> tuple[int, int] | None:
    """`02:00-05:30` as minutes of the day; the second may be the smaller one. None: any time. Raises InvalidConfig."""
    if not text:
        return None
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise InvalidConfig(f"update_window = {text!r} is no time of the day", hint="write HH:MM-HH:MM, local time")
    hour, minute, until_hour, until_minute = map(int, found.groups())
    return hour * 60 + minute, until_hour * 60 + until_minute


class Quiet:
    """Asked every half second or so with the count of what was answered and what is at work."""

    def __init__(self, window: str, idle_s: float, patience_s: float) -> None:
        self._window, self._idle_s, self._patience_s = parse_window(window), idle_s, patience_s
        self._seen: tuple[object, float] = (None, 0.0)

    def now(self, work: object, busy: bool, waited_s: float, now: float, wall: float) -> bool:  # noqa: FBT001 - one of five
        """`work` changes whenever something was answered; `busy`: something is under way; `waited_s` for this."""
        if work != self._seen[0] or busy:
            self._seen = work, now
        idle = not busy and now - self._seen[1] >= self._idle_s
        if self._window is None:
            return idle or waited_s >= self._patience_s  # who never rests is left to the other devices for a moment
        local = datetime.fromtimestamp(wall, UTC).astimezone()
        minute, (begin, end) = local.hour * 60 + local.minute, self._window
        return (minute - begin) % DAY < (end - begin) % DAY
