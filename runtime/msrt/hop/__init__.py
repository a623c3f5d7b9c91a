"""The asyncio shell of one hop: a pure `Session` and its streams, performed over a `Link`.

`Peer` is the other end while a session lives. `Uplink` is a child's way to its parents, `Downlink` a parent's to its
children. A tier implements `Handler` and never sees a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msrt.public import on_use

if TYPE_CHECKING:
    from msrt.hop.downlink import Downlink
    from msrt.hop.gather import Gather
    from msrt.hop.handler import Handler, StreamSink
    from msrt.hop.peer import Peer
    from msrt.hop.uplink import Uplink

__all__ = ["Downlink", "Gather", "Handler", "Peer", "StreamSink", "Uplink"]

__getattr__ = on_use(
    __name__,
    {
        "Downlink": "downlink", "Gather": "gather", "Handler": "handler", "Peer": "peer", "StreamSink": "handler",
        "Uplink": "uplink",
    },
)  # fmt: skip
