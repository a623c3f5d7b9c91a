"""The state directory: all that one node keeps, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final, Self

import msgspec

from msrt.errors import (
    Corrupt,
    InvalidConfig,
    MsrtError,
    StateForeign,
    StateLocked,
    StateNewer,
    StateUnusable,
)
from msrt.trust.private import read_private, write_private

__all__ = ["GONE", "StateDir", "default_state", "split_address"]

GONE: Final = "decommissioned"
"""A file that is left of a node which the cloud had wiped."""

STATE_VERSION: Final = 1
"""Raised when an older msrt could not read what we write."""


class _Version(msgspec.Struct, frozen=True):
    """Read first, and leniently: what a newer msrt wrote is only asked for its version."""

    version: int


class _Owner(msgspec.Struct, omit_defaults=True):
    version: int
    role: str
    tree: str = ""
    ports: dict[str, int] = {}


class StateDir:
    """The directory one node keeps everything in. Held by one process at a time; mode 0700, files 0600."""

    def __init__(self, path: Path, lock: int, owner: _Owner) -> None:
        self.path: Final = path
        self._lock = lock
        self._owner = owner

    @classmethod
    def open(cls, path: Path, role: str, tree: str = "") -> Self:
        """Make or take the directory for a node of this role, in this tree (the cloud's node id) if it is known.

        Raises StateLocked (another process has it), StateForeign (another role or tree, or not ours at all),
        StateNewer, Corrupt, DiskFull, StateUnusable. A directory that is refused is left as it was.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = not any(entry.name not in {"lock", "owner.json.new", GONE} for entry in path.iterdir())
            if not fresh and not (path / "owner.json").exists():
                raise StateForeign(f"{path} holds files that are not msrt's")
            lock = _lock(path)
        except OSError as error:
            raise StateUnusable(f"cannot use {path}: {error.strerror}") from error
        try:
            owner = _read_owner(path) or _Owner(STATE_VERSION, role, tree)
            if owner.role != role:
                raise StateForeign(f"{path} belongs to a node of role {owner.role!r}, not {role!r}")
            if tree and owner.tree and owner.tree != tree:
                raise StateForeign(f"{path} belongs to another tree ({owner.tree})")
            owner.tree = owner.tree or tree
            path.chmod(0o700)
            self = cls(path, lock, owner)
            self._write()
        except OSError as error:
            os.close(lock)
            raise StateUnusable(f"cannot use {path}: {error.strerror}") from error
        except MsrtError:
            os.close(lock)
            raise
        return self

    @property
    def role(self) -> str:
        return self._owner.role

    @property
    def tree(self) -> str:
        """Node id of the tree's cloud, empty before the first join."""
        return self._owner.tree

    def adopt(self, tree: str) -> None:
        """The node has joined this tree. Raises StateForeign when it is in another."""
        if self.tree and self.tree != tree:
            raise StateForeign(f"{self.path} belongs to another tree ({self.tree})")
        self._owner.tree = tree
        self._write()

    def port(self, name: str) -> int:
        """The port a listener had the last time, 0 if it had none."""
        return self._owner.ports.get(name, 0)

    def remember(self, name: str, port: int) -> None:
        """Keep a listener's port for the next start."""
        if self.port(name) != port:
            self._owner.ports[name] = port
            self._write()

    def address(self, name: str, given: str = "") -> tuple[str, int]:
        """Host and port to bind: as given (HOST:PORT); an unnamed listener is on loopback; port 0 becomes the last one.

        At the first start it stays 0: `remember` what came. Raises InvalidConfig.
        """
        host, port = split_address(given or "127.0.0.1:0", name)
        return host, port or self.port(name)

    def close(self) -> None:
        """Let another process have it. Also happens when this one dies."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        write_private(self.path / "owner.json", msgspec.json.encode(self._owner))


def default_state(role: str) -> Path:
    """$XDG_STATE_HOME/msrt/ROLE, the home being ~/.local/state where the variable is unset."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "msrt" / role


def split_address(text: str, what: str = "address") -> tuple[str, int]:
    """`127.0.0.1:8000`, `[::1]:8000`, `:8000` (all of this machine's) to host and port. Raises InvalidConfig."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and host[0] != "["):
        raise InvalidConfig(f"{what} {text!r} is not an address", hint="write it as HOST:PORT, e.g. 127.0.0.1:8000")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - what an empty host means everywhere


def _lock(path: Path) -> int:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise StateLocked(f"{path} is held by another process" + (f" (pid {holder})" if holder else "")) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _read_owner(path: Path) -> _Owner | None:
    data = read_private(path / "owner.json", secret=False)
    if data is None:
        return None
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version > STATE_VERSION:
            raise StateNewer(f"{path} was written by a newer msrt (state version {version}, ours is {STATE_VERSION})")
        return msgspec.json.decode(data, type=_Owner)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path / 'owner.json'} is damaged", hint="restore it from a backup, or join again") from error
