"""A device that is one node of a training group: what its agent asks goes to the edge, with this node's address."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import msgspec

from msrt import errors
from msrt.hop import Uplink
from msrt.training.cluster.meeting import Meet, Met
from msrt.world.world import World

__all__ = ["ask"]

WITHIN_S = 5.0


async def ask(world: World, uplink: Uplink, word: Meet) -> Met:
    """What the edge says; without a turn, the address by which others reach this node.

    Raises Unavailable, Disconnected, and what the edge refuses.
    """
    if not word.turn:
        return Met(address=await world.offload(_own_address, uplink))
    said = await uplink.call("cluster.meet", msgspec.to_builtins(word), timeout=WITHIN_S)
    return msgspec.convert(said, Met)


def _own_address(uplink: Uplink) -> str:
    """That of the interface towards the edge: whoever reaches the edge is taken to reach this node there. No packet is
    sent, but a name may have to be looked up.
    """
    peer = uplink.peer
    parent = next((one for one in uplink.parents if peer is not None and one.node == peer.node), None)
    url = urlsplit(parent.zmq or parent.mqtt) if parent is not None else urlsplit("")
    if not url.hostname or not url.port:
        raise errors.Unavailable("the edge is away: nobody can be met")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((url.hostname, url.port))
            found: str = probe.getsockname()[0]
    except OSError as error:
        raise errors.Unavailable(f"no way to the edge at {url.hostname}: {error}") from error
    return found
