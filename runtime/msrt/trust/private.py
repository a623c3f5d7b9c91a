"""Small private files: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from msrt.errors import DiskFull, KeysExposed, StateUnusable
from msrt.world.files import sync_directory

__all__ = ["read_private", "write_private"]


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once (temporary file, fsync, rename), mode 0600.

    Raises DiskFull or StateUnusable; what was there before is then still there.
    """
    draft = path.with_name(path.name + ".new")
    try:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()  # left by a crash; O_EXCL below then surely makes a file of ours
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFull(f"the disk of {path.parent} is full") from error
        raise StateUnusable(f"cannot write {path}: {error.strerror}") from error


def read_private(path: Path, *, secret: bool = True) -> bytes | None:
    """The bytes of `path`, None if there is no such file.

    Raises KeysExposed when others may read a secret one, StateUnusable when we may not.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if secret and mode & 0o077:
                raise KeysExposed(f"{path} may be read by others (mode {mode:04o})", hint=f"chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateUnusable(f"cannot read {path}: {error.strerror}") from error
