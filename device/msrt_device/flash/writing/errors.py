"""What goes wrong with a medium or an image."""

from __future__ import annotations

from msrt.errors import CallerError, LocalError

__all__ = ["BadImage", "MediumFailed", "MediumRefused", "NotVerified"]


class MediumRefused(CallerError):
    """The target may not be written. `reason` is one of: partition, system, mounted, swap, holder, read_only, in_use,
    too_small, not_removable, kind."""

    code = "medium_refused"

    def __init__(self, reason: str, text: str, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.reason = reason


class MediumFailed(LocalError):
    """The medium could not be read or written: the place and the system's word for it are in the sentence."""

    code = "medium_failed"


class NotVerified(LocalError):
    """The medium does not hold what was written."""

    code = "not_verified"
    hint = "the medium may be worn out or a fake: try another one"

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(f"the medium does not hold what was written: bytes {offset} to {offset + length - 1} differ")
        self.offset, self.length = offset, length


class BadImage(CallerError):
    """The image or its block map is damaged, or of a kind that is not known."""

    code = "bad_image"
