"""What an update of an agent sends when a twentieth of it changed, and what cutting costs.

`python -m tests.bench.delta` prints the rows. The agent is the one that `msrt device pack-agent` makes here, with all
that it needs; changed are whole files (as other versions of packages are), or lines in many files.
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msrt.artifacts.chunks import index_of, pack_index
from msrt.artifacts.delta import known_chunks, plan
from msrt_device.updater.packing import pack_agent
from tests.bench.table import Row

SHARE = 0.05
MUST = 0.15
Change = Callable[[bytes, random.Random], bytes]


def changed(agent: bytes, change: Change, share: float, seed: int = 1) -> tuple[bytes, float]:
    """The agent with files changed that hold this share of its bytes, and that share exactly."""
    draw = random.Random(seed)
    out = io.BytesIO()
    touched = 0
    with tarfile.open(fileobj=io.BytesIO(agent)) as source:
        members = source.getmembers()
        order = draw.sample(range(len(members)), len(members))
        chosen: set[int] = set()
        for number in order:
            if touched + members[number].size <= share * len(agent):
                chosen.add(number)
                touched += members[number].size
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as to:
            for number, member in enumerate(members):
                opened = source.extractfile(member)
                data = opened.read() if opened is not None else b""
                data = change(data, draw) if number in chosen else data
                member.size = len(data)
                to.addfile(member, io.BytesIO(data))
    return out.getvalue(), touched / len(agent)


def rewritten(data: bytes, draw: random.Random) -> bytes:
    """Nothing of the file is as it was, and it is a little longer."""
    return draw.randbytes(len(data) + 40)


def edited(data: bytes, draw: random.Random) -> bytes:
    """A line was put in somewhere."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + b"# a line that was put in\n" + data[at:]


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: data[offset : offset + size]


def sent(old: bytes, new: bytes) -> float:
    """Share of the new bytes that travels: chunks that the old one has not, and the index."""
    index = index_of(reader(new), len(new))
    pieces = plan(index, 0, known_chunks(reader(old), len(old)))
    made = b"".join(
        new[p.offset : p.offset + p.size] if p.seed is None else p.seed.read(p.seed.offset, p.size) for p in pieces
    )
    assert made == new
    return (sum(p.size for p in pieces if p.seed is None) + len(pack_index(index))) / len(new)


def rows() -> list[Row]:
    """Of the agent as it is installed here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.tar"
        pack_agent(path)
        agent = path.read_bytes()
    files, share = changed(agent, rewritten, SHARE)
    lines, touched = changed(agent, edited, SHARE)
    began = time.process_time()
    index = index_of(reader(agent), len(agent))
    seconds = time.process_time() - began
    mib = len(agent) / (1 << 20)
    return [
        Row(f"delta: agent of {mib:.0f} MiB, {share:.1%} of its bytes in files that were rewritten, bytes sent / all",
            sent(agent, files), "", "<=", MUST),
        Row(f"delta: a line put into files of {touched:.1%} of its bytes, bytes sent / all",
            sent(agent, lines), "", "<=", MUST),
        Row("delta: the same agent again, bytes sent / all (the index)", sent(agent, agent), "", "<=", 0.01),
        Row("delta: cutting and naming, MiB a CPU second", mib / seconds, "MiB/s"),
        Row("delta: mean chunk", len(agent) / (len(index.sizes) // 4) / 1024, "KiB"),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write(f"{row}\n")
