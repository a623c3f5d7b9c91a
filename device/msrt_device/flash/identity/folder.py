"""The mounted identity: what a boot reads, and what is left of it once the claim is spent."""

from __future__ import annotations

import os
from pathlib import Path

from msrt.errors import LocalError, NotFound
from msrt.world.files import sync_directory
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings, InvalidIdentity

__all__ = ["IdentityFolder", "IdentityUnusable"]


class IdentityUnusable(LocalError):
    """The identity's folder cannot be read or written."""

    code = "identity_unusable"


class IdentityFolder:
    """Where MSRTID is mounted. FAT has no owners and no modes: the mount's options keep others out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path / IDENTITY_FILE

    def read(self) -> IdentitySettings:
        """Raises NotFound, InvalidIdentity, IdentityUnusable."""
        try:
            return IdentitySettings.parse(self._file.read_text("utf-8"), str(self._file))
        except FileNotFoundError:
            raise NotFound(
                f"there is no {self._file}", hint="write one: msrt device flash IMAGE TARGET --invite INVITE"
            ) from None
        except UnicodeDecodeError:
            raise InvalidIdentity(f"{self._file} is not UTF-8 text") from None
        except OSError as error:
            raise IdentityUnusable(f"cannot read {self._file}: {error.strerror}") from error

    def spend(self) -> bool:
        """Wipe the claim, durably: whether there was one. Raises what `read` raises.

        The file without it takes the old one's place first; then the old one, held open, is overwritten with zeros
        where it lies. A power cut in between leaves the bytes of a claim that the cloud has marked as spent before.
        """
        settings = self.read()
        if not settings.invite:
            return False
        draft = self._file.with_name(IDENTITY_FILE + ".new")
        try:
            with self._file.open("r+b", buffering=0) as old:
                _write(draft, settings.without_claim().render().encode())
                draft.replace(self._file)
                with self._file.open("rb") as renamed:  # on FAT the name leads nowhere before that
                    os.fsync(renamed.fileno())
                sync_directory(self.path)
                _zero(old.fileno())
        except OSError as error:
            raise IdentityUnusable(f"cannot wipe the claim in {self._file}: {error.strerror}") from error
        return True

    def wipe(self, name: str = IDENTITY_FILE) -> bool:
        """Overwrite and remove a file, durably: whether there was one. Raises IdentityUnusable."""
        file = self.path / name
        try:
            with file.open("r+b", buffering=0) as old:
                _zero(old.fileno())
                file.unlink()
            sync_directory(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise IdentityUnusable(f"cannot wipe {file}: {error.strerror}") from error
        return True


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _zero(fd: int) -> None:
    os.pwrite(fd, bytes(os.fstat(fd).st_size), 0)
    os.fsync(fd)
