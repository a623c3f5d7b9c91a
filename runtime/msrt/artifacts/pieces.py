"""Large bytes and files, piece by piece: a thread that hashes or writes them lets others run in between."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from msrt.buffers import SLICE

__all__ = ["hash_file", "pieces_of"]


def pieces_of(file: BinaryIO) -> Iterable[bytes]:
    """What a file holds from here on."""
    return iter(lambda: file.read(SLICE), b"")


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 hex and size. Blocking. Raises OSError."""
    running, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        for piece in pieces_of(file):
            running.update(piece)
            size += len(piece)
    return running.hexdigest(), size
