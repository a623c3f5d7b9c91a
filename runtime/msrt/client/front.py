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

    def answered(self, ident: int, answer: Answer) -> None:
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

    @property
    def live(self) -> bool:
        """Can be asked now."""

    def send(self, requests: Sequence[Request]) -> None:
        """Ask; each request is answered or failed later, unless the front goes down."""

    def cancel(self, ident: int) -> None:
        """Nobody waits for it any more."""

    async def metadata(self, model: str, version: int) -> ModelInfo:
        """Raises NotFound, Unavailable, Disconnected."""

    async def edges(self) -> list[Parent]:
        """All edges that this one knows, itself first."""

    async def run(self) -> None:
        """Keep it reachable until cancelled."""
