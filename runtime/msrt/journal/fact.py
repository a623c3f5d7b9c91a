"""What every fact of the journal is."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["CLOUD", "GLOBAL", "Fact", "Key"]

Key = tuple[str, ...]

GLOBAL: Final = "global"
"""Followed by every edge. Any other scope without a dot is the name of a region."""
CLOUD: Final = ".cloud"
"""Never leaves the cloud. (No region's name begins with a dot.)"""


class Fact(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """One thing that the journal says: a later fact of the same key takes its place."""

    @property
    def key(self) -> Key:
        raise NotImplementedError

    @property
    def scope(self) -> str:
        return GLOBAL

    @property
    def forgets(self) -> tuple[Key, ...]:
        """Keys whose facts end with this one; such a fact leaves no trace of its own in a snapshot."""
        return ()
