"""What is larger than a message, or grows: ordered chunks under the receiver's credit, verified at the end. Pure.

Few bytes ride with the opening, and the receiver answers with its verdict at once. Of others the sender says
`StreamOpen` until `StreamCredit` names where the receiver stands and how far it may go; then chunks,
go-back-N by byte offset (RFC 9293's cumulative acknowledgement and RFC 6298's timer, with bytes for segments);
`StreamEnd`; and `StreamDone` once the receiver has verified the whole. All of it may be lost, doubled or reordered.
Either side may cancel; the one that gave up says so again to whatever still comes.

How a shell drives both halves: hand over every message of the stream, perform the actions in order, call `tick` when
`deadline` is reached, `reconnected` when the session is live again. Give the receiver its next message only after
its `Write` was performed: then at most a window of chunks waits, and a slow disk slows the sender. When more than
`window` bytes wait, drop chunks: they come again. Answer `Read` when the link has room, so that chunks yield to
messages. Keep an ended half for a while: it repeats its last word to a peer that did not hear it.
"""

from __future__ import annotations

from msrt.protocol.stream_half import (
    CHUNK_FIRST,
    DEFAULT_PATIENCE_S,
    DEFAULT_WINDOW,
    INLINE,
    RTO_FIRST_S,
    RTO_MAX_S,
    Action,
    Complete,
    FailedStream,
    Finished,
    Read,
    Send,
    Write,
)
from msrt.protocol.stream_receiver import StreamReceiver
from msrt.protocol.stream_sender import StreamSender

__all__ = [
    "CHUNK_FIRST",
    "DEFAULT_PATIENCE_S",
    "DEFAULT_WINDOW",
    "INLINE",
    "RTO_FIRST_S",
    "RTO_MAX_S",
    "Action",
    "Complete",
    "FailedStream",
    "Finished",
    "Read",
    "Send",
    "StreamReceiver",
    "StreamSender",
    "Write",
]
