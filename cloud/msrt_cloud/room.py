"""No space where a push's files lie for a while is our fault and not the model's: it is said as DiskFull."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from msrt.errors import DiskFull

__all__ = ["file_name", "is_full", "of_disk"]

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
NAME_LENGTH: Final = 100


def is_full(error: BaseException) -> bool:
    """Did the disk take no more?"""
    return isinstance(error, OSError) and error.errno in FULL


@contextmanager
def of_disk() -> Iterator[None]:
    """Turn the system's word for a full disk into ours."""
    try:
        yield
    except OSError as error:
        if not is_full(error) and "usable temporary directory" not in str(error):
            raise
        raise DiskFull(
            f"no space left for the files of a push in {tempfile.tempdir or 'any temporary directory'}",
            hint="free some, or start the cloud with TMPDIR on a larger disk",
        ) from error


def file_name(said: str, default: str) -> str:
    """The name of the user's own file, for a file of ours: errors then speak of what the user knows."""
    name = Path(said).name[-NAME_LENGTH:]
    return name if name.strip(". ") and name.isprintable() and "\\" not in name else default
