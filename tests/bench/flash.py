"""Images onto a medium beside `dd conv=fsync` of the same bytes, and identities. `python -m tests.bench flash`.

The medium is a file of this machine's disk; each round writes it by dd and by us, in turn, from a warm cache.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import zstandard

from msrt_device.flash.identity.medium import write_identity
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.writing.grid import cut
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.journal import Forgetful
from msrt_device.flash.writing.machine import Machine
from msrt_device.flash.writing.medium import OpenMedium, describe
from msrt_device.flash.writing.verify import verify
from msrt_device.flash.writing.writer import write_image
from tests.bench.table import Row
from tests.device.flash.media import disk, tools

SIZE = 512 << 20
ROUNDS = 5


def rows() -> list[Row]:
    """Medians over the rounds; a ratio is of one round's two writes."""
    with tempfile.TemporaryDirectory(prefix="msrt-bench-", ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        raw, packed, framed, out = path / "base.img", path / "one.img.zst", path / "base.img.zst", path / "medium"
        _image(raw, packed)
        _frames(raw, framed)
        kinds = {"raw": raw, "zstd": framed, "zstd of one frame": packed}
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        reads, piped = [], []
        for _ in range(ROUNDS):
            for kind, source in kinds.items():
                theirs = _dd(raw, out)
                ours, read = _write(source, out)
                found[kind].append((ours, theirs))
                reads.append(read)
            piped.append(_pipe(packed, out))
        shown = [
            Row(
                f"flash: writing {SIZE >> 20} MiB, {kind}, beside dd bs=4M conv=fsync",
                statistics.median(theirs / ours for ours, theirs in pairs), "x", ">=", 0.9,
                f"{_rate(statistics.median(o for o, _ in pairs))} MB/s; "
                f"dd {_rate(statistics.median(t for _, t in pairs))} MB/s",
            )
            for kind, pairs in found.items()
        ]  # fmt: skip
        read, dd = statistics.median(reads), statistics.median(theirs for _, theirs in found["zstd"])
        limit = statistics.median(piped)
        shown.append(Row(
            "flash: the peer of zstd: zstd -dc | dd bs=4M conv=fsync, beside the same dd", dd / limit, "x",
            peer=f"{_rate(limit)} MB/s",
        ))  # fmt: skip
        return [*shown, Row("flash: read back past the cache, hashed", SIZE / read / 1e6, "MB/s"), *_identity(path)]


def _rate(seconds: float) -> str:
    return f"{SIZE / seconds / 1e6:,.0f}"


def _image(raw: Path, packed: Path) -> None:
    """Bytes that pack to about a half, as programs do: six of eight bits are noise, and every third MiB repeats."""
    random = np.random.default_rng(1)
    piece = random.integers(0, 64, 1 << 20, dtype=np.uint8).tobytes()
    with raw.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(piece if number % 3 == 0 else random.integers(0, 64, 1 << 20, dtype=np.uint8).tobytes())
    with raw.open("rb") as source, packed.open("wb") as sink:
        zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(source, sink, size=SIZE)


def _frames(raw: Path, packed: Path) -> None:
    """As `msrt device image` packs it, at a level that takes no minutes: a frame for each piece of the grid."""
    pack = zstandard.ZstdCompressor(level=3, write_checksum=True)
    with raw.open("rb") as source, packed.open("wb") as sink:
        for _, length in cut(0, SIZE):
            sink.write(pack.compress(source.read(length)))


def _fresh(out: Path) -> None:
    out.unlink(missing_ok=True)
    os.sync()


def _dd(source: Path, out: Path) -> float:
    _fresh(out)
    began = time.perf_counter()
    subprocess.run(["dd", f"if={source}", f"of={out}", "bs=4M", "conv=fsync"], check=True, capture_output=True)
    return time.perf_counter() - began


def _pipe(packed: Path, out: Path) -> float:
    _fresh(out)
    began = time.perf_counter()
    with subprocess.Popen(["zstd", "-dcq", str(packed)], stdout=subprocess.PIPE) as unpack:
        subprocess.run(
            ["dd", f"of={out}", "bs=4M", "iflag=fullblock", "conv=fsync"],
            stdin=unpack.stdout, check=True, capture_output=True,
        )  # fmt: skip
    return time.perf_counter() - began


def _write(source: Path, out: Path) -> tuple[float, float]:
    """Seconds of the write phase, and of the read-back."""
    _fresh(out)
    began = time.perf_counter()
    with OpenMedium.open(describe(out, Machine())) as sink:
        sink.blank()
        written = write_image(Image.open(source), sink, lambda *_: None, Forgetful())
        wrote = time.perf_counter() - began
        verify(written.ranges, sink, lambda *_: None)
        return wrote, time.perf_counter() - began - wrote


def _identity(path: Path) -> list[Row]:
    what = "flash: an identity onto a medium, read back"
    if tools.args[0]:
        return [Row(what, None, "", peer=tools.kwargs["reason"])]
    out = path / "board"
    out.write_bytes(disk(path))
    settings = IdentitySettings(invite="msrt1-" + "a" * 600, name="oven-7", serial="SN-1", labels={"site": "a"})
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with OpenMedium.open(describe(out, Machine())) as sink:
            write_identity(sink, out.stat().st_size, settings)
        times.append(time.perf_counter() - began)
    return [Row(what, statistics.median(times), "s", "<=", 2.0)]
