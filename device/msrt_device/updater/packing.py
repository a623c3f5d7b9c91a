"""An agent's image: a tar of msrt and what it needs, as it is installed here, with the program that starts it.

Files are stored as they are (no compression), in the order of their names, without times and owners: equal parts of two
versions are equal bytes, so a delta finds them.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from msrt.errors import NotFound

__all__ = ["PROGRAM", "pack_agent"]

PROGRAM: Final = '''"""Starts the agent of this slot: the packages beside this file go before those of the machine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "site"))

from msrt.cli import main  # noqa: E402

sys.exit(main())
'''
"""agent.py"""
_SKIPPED: Final = ("__pycache__", ".pyc", "INSTALLER", "RECORD", "REQUESTED", "direct_url.json")
"""Ends of names: byte code, and what pip notes of this machine."""
_OTHERS: Final = frozenset({"msrt_cloud", "msrt_edge", "msrt_examples"})
"""What a device has no use for."""


def pack_agent(out: Path, *, alone: bool = False) -> int:
    """Write the image of the installed msrt[device]; its bytes. `alone`: without the packages that it needs, for
    machines that have them. Raises NotFound (one of them is not installed)."""
    files = {"agent.py": PROGRAM.encode()}
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        found = {name: path for one in _distributions(alone=alone) for name, path in _files(one)}
        for name in sorted({*files, *found}):
            data = files[name] if name in files else found[name].read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.stat().st_size


def _distributions(*, alone: bool) -> list[Distribution]:
    """msrt, and with it all that its extra `device` needs, each once."""
    queue: list[tuple[str, frozenset[str]]] = [("msrt", frozenset({"device"}))]
    done: dict[str, Distribution] = {}
    while queue:
        name, extras = queue.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in done:
            continue
        try:
            found = done[key] = distribution(name)
        except PackageNotFoundError as error:
            raise NotFound(f"the package {name} is not installed", hint="pip install 'msrt[device]'") from error
        if not alone:
            queue += _needs(found, extras)
    return list(done.values())


def _needs(found: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    from packaging.requirements import Requirement  # noqa: PLC0415 - only where images are made

    for line in found.requires or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in (*extras, "")]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):
            yield requirement.name, frozenset(requirement.extras)


def _files(found: Distribution) -> Iterator[tuple[str, Path]]:
    """Name within the image, and where it lies."""
    editable = _editable(found)
    if editable:
        yield from editable
    for path in found.files or ():
        source, top = Path(str(path.locate())), path.parts[0]
        if top == ".." or top in _OTHERS or any(part.endswith(_SKIPPED) for part in path.parts):
            continue
        if source.is_file() and not (editable and path.suffix == ".pth"):
            yield f"site/{path.as_posix()}", source


def _editable(found: Distribution) -> list[tuple[str, Path]]:
    """Of a development install: the packages where they are written."""
    if found.metadata["Name"] != "msrt" or not any(path.suffix == ".pth" for path in found.files or ()):
        return []
    import msrt  # noqa: PLC0415 - to see where it lies
    import msrt_device  # noqa: PLC0415

    return [
        (f"site/{path.relative_to(folder.parent).as_posix()}", path)
        for folder in (Path(package.__file__ or "").parent for package in (msrt, msrt_device))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(_SKIPPED) for part in path.parts)
    ]
