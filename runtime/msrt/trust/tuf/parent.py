"""How a floor below a parent asks it."""

from __future__ import annotations

from typing import Final

from msrt.hop import Uplink
from msrt.trust.tuf.floor import GET, Ask

__all__ = ["ask_parent"]

ASK_S: Final = 10.0


def ask_parent(uplink: Uplink) -> Ask:
    """Puts `trust.get` to whoever is the parent now; who has none hears so at once. Raises Disconnected,
    DeadlineExceeded, and what the parent says."""

    async def ask(params: dict[str, object]) -> object:
        peer = await uplink.wait(0.0)
        return await peer.call(GET, params, ASK_S)

    return ask
