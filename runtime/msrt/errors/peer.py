"""The other side of a link broke a rule, refused us, or went away."""

from __future__ import annotations

from msrt.errors.base import PeerError

__all__ = [
    "BadSignature",
    "BadUpdate",
    "DeadlineExceeded",
    "Disconnected",
    "Forbidden",
    "FrameTooLarge",
    "InviteExpired",
    "InviteForged",
    "InviteSpent",
    "InviteUnknown",
    "JournalDiverged",
    "JournalGap",
    "MalformedFrame",
    "NotEnrolled",
    "NotTrusted",
    "OutOfOrder",
    "Overloaded",
    "RateLimited",
    "Revoked",
    "SequenceLost",
    "StaleEpoch",
    "StreamCancelled",
    "TrustExpired",
    "Unavailable",
    "UnknownMessage",
    "VersionMismatch",
    "WrongServerKey",
]


class MalformedFrame(PeerError):
    """Bytes that are not a message: garbage, too deep, wrong types."""

    code = "malformed_frame"


class FrameTooLarge(PeerError):
    """A packet, frame or string over its limit."""

    code = "frame_too_large"

    def __init__(self, size: int, limit: int, what: str = "packet") -> None:
        super().__init__(f"{what} of {size} bytes is over the limit of {limit}", hint="send it as a stream")
        self.size, self.limit = size, limit


class UnknownMessage(PeerError):
    """A message type this version does not know."""

    code = "unknown_message"


class VersionMismatch(PeerError):
    """The peer speaks a wire version that we do not."""

    code = "version_mismatch"


class OutOfOrder(PeerError):
    """A message that the session's state does not allow."""

    code = "out_of_order"


class StaleEpoch(PeerError):
    """A node spoke under a lease that was taken from it."""

    code = "stale_epoch"


class InviteUnknown(PeerError):
    """The cloud never issued this invite."""

    code = "invite_unknown"
    hint = "ask for a new one: msrt invite"


class InviteSpent(PeerError):
    """The invite was used before."""

    code = "invite_spent"
    hint = "ask for a new one: msrt invite"


class InviteExpired(PeerError):
    """The invite is past its time."""

    code = "invite_expired"
    hint = "ask for a new one: msrt invite"


class InviteForged(PeerError):
    """The invite's text or secret does not match what the cloud signed."""

    code = "invite_forged"
    hint = "copy the whole string that msrt invite printed"


class WrongServerKey(PeerError):
    """The server at the address does not hold the key that the invite names."""

    code = "wrong_server_key"


class NotEnrolled(PeerError):
    """The key is not of an enrolled node."""

    code = "not_enrolled"
    hint = "join with an invite: msrt invite"


class Revoked(PeerError):
    """The node was removed from the tree."""

    code = "revoked"
    order: bytes = b""
    """The cloud's signature over the node's id, where the node is to wipe itself."""
    hint = "join again with a new invite"


class Forbidden(PeerError):
    """The caller's role may not do that."""

    code = "forbidden"


class BadSignature(PeerError):
    """A signature or digest does not match."""

    code = "bad_signature"


class NotTrusted(PeerError):
    """An artifact that nobody signed for, or metadata that contradicts what is trusted."""

    code = "not_trusted"


class TrustExpired(NotTrusted):
    """Signed metadata has ended: nothing new is accepted, what was accepted before goes on."""

    code = "trust_expired"
    hint = "nothing new is accepted until the cloud signs again; what was accepted goes on: msrt status"

    def __init__(self, role: str, ended: float) -> None:
        super().__init__(f"the signed {role} metadata has ended")
        self.role, self.ended = role, ended


class Disconnected(PeerError):
    """The peer went away before it answered."""

    code = "disconnected"


class DeadlineExceeded(PeerError):
    """No answer within the deadline."""

    code = "deadline_exceeded"


class Overloaded(PeerError):
    """A queue is full; try again after `retry_after` seconds."""

    code = "overloaded"
    retry_after: float = 1.0
    reason: str = ""
    """Which bound was reached: queue_full, or hopeless (it could not make its deadline)."""
    need_s: float = 0.0
    """What was expected of a hopeless one."""


class SequenceLost(PeerError):
    """The worker that kept a sequence's state is gone, or nobody knows the sequence: begin it again."""

    code = "sequence_lost"


class RateLimited(Overloaded):
    """An API key asks more often than it may; try again after `retry_after` seconds."""

    code = "rate_limited"
    hint = "ask less often, or have its rate raised: msrt key create --rate"


class Unavailable(PeerError):
    """Nobody can do this work now (no device has the model ready, the cloud is away)."""

    code = "unavailable"


class BadUpdate(PeerError):
    """A training update is NaN, huge, of the wrong size, or of a closed round."""

    code = "bad_update"


class JournalGap(PeerError):
    """A journal block does not follow on what the replica holds."""

    code = "journal_gap"


class JournalDiverged(PeerError):
    """A replica and its master do not share one history: another log, or the master lost entries the replica has."""

    code = "journal_diverged"
    hint = "restore the master's newest state, or remove the replica's journal to let it start over"


class StreamCancelled(PeerError):
    """The other side gave up a stream."""

    code = "stream_cancelled"
