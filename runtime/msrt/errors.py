"""Every error msrt raises, under one root, split by who is at fault.

`CallerError`: what you passed cannot work. `PeerError`: the other side broke a rule or refused.
`LocalError`: this machine (disk, port, state directory) is in the way. Each error carries a stable `code`
that crosses the wire, a sentence that names the fault, and a `hint` that says what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["CallerError", "LocalError", "MsrtError", "PeerError", "from_wire", "words_of"]

_by_code: dict[str, type[MsrtError]] = {}


class MsrtError(Exception):
    """Root of all errors. `str(error)` is the sentence and, if there is one, the hint."""

    code: ClassVar[str] = "error"
    hint: str = ""
    exit_status: ClassVar[int] = 1
    """With which a process ends that cannot go on because of it."""
    traceparent: str = ""
    """Where its request was traced: the span in which it ended."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            _by_code[cls.code] = cls

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.text}; {self.hint}" if self.hint else self.text


class CallerError(MsrtError):
    """The caller asked for something that cannot work."""

    code = "bad_request"


class PeerError(MsrtError):
    """The other side of a link broke a rule, refused us, or went away."""

    code = "peer"


class LocalError(MsrtError):
    """Something on this machine is in the way."""

    code = "local"


def from_wire(code: str, text: str, hint: str = "") -> MsrtError:
    """Rebuild an error that a peer reported; an unknown code becomes a `PeerError` that keeps the text."""
    cls = _by_code.get(code, PeerError)
    error = cls.__new__(cls)
    MsrtError.__init__(error, text, hint=hint or None)
    return error


def words_of(error: BaseException) -> str:
    """What to tell of any exception: `str()` of some is empty, as of asyncio's TimeoutError; their type has a name."""
    return str(error) or type(error).__name__


class InvalidAddress(CallerError):
    """A name, node id, region, label, topic or endpoint is malformed."""

    code = "invalid_address"


class InvalidConfig(CallerError):
    """A setting is unknown or out of range."""

    code = "invalid_config"


class InvalidTensor(CallerError):
    """A tensor has the wrong name, shape, dtype or byte count."""

    code = "invalid_tensor"


class InvalidModel(CallerError):
    """An ONNX file cannot be accepted: truncated, external data, unknown operator, fails to run."""

    code = "invalid_model"


class QualityGate(CallerError):
    """A model did not pass the quality gate."""

    code = "quality_gate"


class InvalidJob(CallerError):
    """A training job's bundle or settings cannot work."""

    code = "invalid_job"


class InvalidImage(CallerError):
    """An image of an agent, system or firmware cannot be used: damaged, of another kind, for other devices."""

    code = "invalid_image"


class NotFound(CallerError):
    """A model, version, node, job or artifact of that name does not exist."""

    code = "not_found"


class Conflict(CallerError):
    """The request contradicts the present state."""

    code = "conflict"


class Unauthorized(CallerError):
    """No API key where one is needed, or one that is unknown, expired or revoked."""

    code = "unauthorized"
    hint = "send it as Authorization: Bearer KEY or X-API-Key: KEY"


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


class DiskFull(LocalError):
    """The disk took no more; nothing that was acknowledged is lost."""

    code = "disk_full"
    hint = "free some space, or raise the bound in the config"


class NoRoom(DiskFull):
    """The disk has not as much room as what should come; nothing of it was written."""

    code = "no_room"
    hint = "free some space"

    def __init__(self, what: str, size: int, free: int, where: str) -> None:
        super().__init__(f"{what} has {size} bytes, {free} are free in {where}")
        self.size, self.free = size, free


class PortInUse(LocalError):
    """Another process listens on that address."""

    code = "port_in_use"
    hint = "name another with --listen, --mqtt, --http or --grpc (port 0 takes a free one)"


class StateLocked(LocalError):
    """Another process holds the state directory."""

    code = "state_locked"
    hint = "stop it, or name another directory with --state"


class StateForeign(LocalError):
    """The state directory belongs to another kind of node or to another tree."""

    code = "state_foreign"
    hint = "name another directory with --state"


class StateNewer(LocalError):
    """The state directory was written by a newer msrt."""

    code = "state_newer"
    hint = "upgrade msrt, or name another directory with --state"


class StateUnusable(LocalError):
    """A file or folder of the state directory cannot be made, read or written."""

    code = "state_unusable"
    hint = "check its owner and mode, or name another directory with --state"


class KeysExposed(LocalError):
    """Others on this machine may read a secret key."""

    code = "keys_exposed"


class Corrupt(LocalError):
    """Bytes on disk do not match their digest."""

    code = "corrupt"


class BrokerFailed(LocalError):
    """The MQTT broker could not be started or reached."""

    code = "broker_failed"


class JobFailed(LocalError):
    """A job's process died, ran over a limit, or raised."""

    code = "job_failed"


class ModelFailed(LocalError):
    """A model raised while it ran on inputs that fit it."""

    code = "model_failed"


class OutOfMemory(ModelFailed):
    """This machine had too little free memory to load or run a model."""

    code = "out_of_memory"
    hint = "free some memory, or hold fewer models: msrt device join --model-memory"
