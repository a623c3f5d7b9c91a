"""Small agent images."""

from __future__ import annotations

import hashlib
import io
import tarfile

from msrt.artifacts.images import Image, Kind


def tar(files):
    """A tar of these files, by name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def described(data, version, kind=Kind.AGENT, **more):
    """An image of these bytes."""
    return Image(kind, version, hashlib.sha256(data).hexdigest(), len(data), **more)


def reader(data):
    """Its bytes by offset."""
    return lambda offset, size: data[offset : offset + size]


def agent(version, program=b"print('agent')\n"):
    """An agent's image, and its bytes."""
    data = tar({"agent.py": program, "lib/version.txt": version.encode()})
    return described(data, version), data
