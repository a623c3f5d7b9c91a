"""Who may log in at this edge's MQTT broker. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["Accounts"]

INVITE: Final = "invite-"
GRACE_S: Final = 60.0


class Accounts:
    """The journal's accounts, and for a while those of invites that were just spent: the answer to who spent one comes
    to that account, and the journal may be faster than the answer.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._leaving: dict[str, tuple[str, float]] = {}
        """User to line and to when it ends."""

    def changed(self, known: Mapping[str, str], now: float) -> dict[str, str]:
        """User to line of those in force, after the journal said which it knows."""
        for user, line in self._known.items():
            if user not in known and user.startswith(INVITE):
                self._leaving[user] = (line, now + GRACE_S)
        self._known = dict(known)
        return self._in_force(now)

    def expired(self, now: float) -> dict[str, str] | None:
        """The same once the time of one is over, None while it is not."""
        if all(until > now for _, until in self._leaving.values()):
            return None
        return self._in_force(now)

    def _in_force(self, now: float) -> dict[str, str]:
        self._leaving = {
            user: (line, until)
            for user, (line, until) in self._leaving.items()
            if until > now and user not in self._known
        }
        return {user: line for user, (line, _) in self._leaving.items()} | self._known
