"""The seam of the client: one edge that can be asked, over whatever it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from msrt.errors import MsrtError
from msrt.protocol.messages import Parent
from msrt.serving.backend import ModelInfo

if TYPE_CHECKING:
    from msrt.client.request import Answer, Request

__all__ = ["Front", "Owner"]


class Owner(Protocol):
    """Who is told what a front hears."""

    def answered(self, ident: int, answer: Answer, front: Front) -> None:
        """The answer to a request."""

    def failed(self, ident: int, error: MsrtError, front: Front, retry_after: float = 0.0) -> None:
        """No answer from this front, and why."""

    def up(self, front: Front) -> None:
        """It can be asked."""

    def down(self, front: Front) -> None:
        """It cannot; what it was asked is lost."""


class Front(Protocol):
    """One edge."""

    url: str
    forgetful: bool
    """Its link may lose a packet without a word: what stays unanswered for long is asked again, under the same id."""
    latency_s: float
    """There and back, by the last look; infinite before."""

    @property
    def live(self) -> bool:
        """Can be asked now."""

    @property
    def refused(self) -> MsrtError | None:
        """Why it sent us away for good, if it did."""

    @property
    def away(self) -> MsrtError | None:
        """Why it could not be reached when that was last tried."""

    def send(self, requests: Sequence[Request]) -> None:
        """Ask; each request is answered or failed later, unless the front goes down."""

    def cancel(self, idents: Sequence[int]) -> None:
        """Nobody waits for these any more."""

    async def metadata(self, model: str, version: int) -> ModelInfo:
        """Raises NotFound, Unavailable, Disconnected."""

    async def edges(self) -> list[Parent]:
        """All edges that this one knows, itself first."""

    async def run(self) -> None:
        """Keep it reachable until cancelled."""
