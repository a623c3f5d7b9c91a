"""What can hold two versions of one thing (an agent, a system, a firmware), one of which starts next.

Every backend keeps these promises, whatever instant the power goes:

- The slot in force is whole, and is never written to.
- `write` makes the other slot whole, or leaves it as one that `arm` refuses. It takes back an arming first.
- After `arm(tries)` the other slot is started at most `tries` times; whoever starts it counts down *before* the start.
  When none is left, or it did not `commit` in time, the slot in force starts again, and `state().fallen` says why.
- Only `commit`, called by what runs from the other slot, makes that one the slot in force. It is one atomic step.
- Each of them may be repeated after a crash in the middle of it.

All of them block: call them through `World.offload`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from msrt.artifacts.images import Image
from msrt.buffers import Buffer

__all__ = ["Found", "Held", "ReadAt", "SlotState", "Slots", "pieces"]

PIECE: Final = 1 << 20

ReadAt = Callable[[int, int], Buffer]
"""read(offset, size) of an image: shorter only at its end. Blocking."""


@dataclass(frozen=True)
class Held:
    """What is in a slot."""

    version: str
    digest: str = ""
    """SHA-256 of the image it was written from; empty: it was installed in another way."""


@dataclass(frozen=True)
class SlotState:
    """What a backend knows of itself."""

    active: str
    """Name of the slot from which this process (or system) was started."""
    inactive: str
    """Name of the slot that `write` writes to."""
    held: dict[str, Held]
    """What is in each slot that is whole, by its name."""
    trial: bool = False
    """`active` is on trial: another one starts next unless it commits."""
    armed: str = ""
    """Name of the slot that starts next for a trial; empty: the one in force."""
    fallen: Held = Held("")
    """What was on trial last and fell; its reason is `why`."""
    why: str = ""

    @property
    def running(self) -> Held:
        return self.held.get(self.active, Held(""))


class Found(NamedTuple):
    """The image in a slot, as a seed for another one."""

    size: int
    read: ReadAt
    """Its bytes as they are now: they may have changed, check what you read."""
    chunks: bytes = b""
    """Their index, packed (`msrt.artifacts.chunks`); empty: they have to be cut."""


class Slots(Protocol):
    """Two slots of one kind."""

    def state(self) -> SlotState: ...

    def write(self, image: Image, read: ReadAt, index: bytes = b"") -> None:
        """Put an image (its digest was verified) into the inactive slot. `index`: what `seed` is to give back, empty
        where it is not at hand. Raises DiskFull, InvalidImage, LocalError."""

    def arm(self, tries: int, trial_s: float) -> None:
        """Start the inactive slot next, for at most `tries` starts and `trial_s` seconds each; 0 tries: take an arming
        back, that of what runs now too. Raises Conflict when that slot is not whole."""

    def commit(self) -> None:
        """What runs now is in force. Raises Conflict when it is not on trial (any more)."""

    def restart(self) -> None:
        """Have what is due started in place of this process or system, soon; returns."""

    def seed(self) -> Found | None:
        """The image in the active slot; None: it cannot be read back."""


def pieces(image: Image, read: ReadAt, size: int = PIECE) -> Iterator[Buffer]:
    """All bytes of an image, in order."""
    for offset in range(0, image.size, size):
        yield read(offset, min(size, image.size - offset))
