"""The root of all errors, whose fault they are, and how one comes back from the wire."""

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
