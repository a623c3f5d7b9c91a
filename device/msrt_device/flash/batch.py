"""Many boards at once: an identity each, with a claim of its own, and a manifest of who got which.

The manifest grows by a line, synced, as a board is finished and verified. Started again with the same one, a batch
goes on with the boards that are not in it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from msrt.errors import CallerError
from msrt.operator.session import Ask, ask
from msrt.trust.invite import Invite
from msrt.trust.private import write_private
from msrt_device.flash.identity.settings import IdentitySettings

__all__ = ["Board", "boards_from", "claims", "make_batch", "numbered"]

COLUMNS: Final = ("serial", "name", "claim", "expires", "region", "file", "identity_sha256", "base_sha256")
LIMIT: Final = 100_000
PIECE: Final = 1 << 20

Board = Mapping[str, Any]
"""Settings of one board: a name, and what else is its own."""


def numbered(count: int, name: str, serial: str) -> list[Board]:
    """NAME-001 to NAME-500, and serial numbers that begin with `serial`, if it says anything."""
    if not 1 <= count <= LIMIT:
        raise CallerError(f"a batch of {count} boards", hint=f"1 to {LIMIT}")
    width = len(str(count))
    return [
        {"name": f"{name or 'board'}-{n:0{width}}"} | ({"serial": f"{serial}{n:0{width}}"} if serial else {})
        for n in range(1, count + 1)
    ]


def boards_from(path: Path) -> list[Board]:
    """A line a board, of a CSV file with the columns name, serial, label.KEY. Raises CallerError naming the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CallerError(f"cannot read {path}: {error}") from error
    boards: list[Board] = []
    for number, line in enumerate(lines, 2):
        board: dict[str, Any] = {}
        for column, value in line.items():
            if column is None:
                raise CallerError(f"{path}:{number}: it has more fields than there are columns")
            plain, _, label = column.partition(".")
            if plain not in ("name", "serial", "label") or (plain == "label") != bool(label):
                raise CallerError(f"{path}: unknown column {column!r}", hint="name, serial, label.KEY")
            if value and label:
                board.setdefault("labels", {})[label] = value
            elif value:
                board[plain] = value
        board.setdefault("name", board.get("serial", "").lower())
        if not board["name"]:
            raise CallerError(f"{path}:{number}: neither a name nor a serial number")
        boards.append(board)
    for key, words in (("name", "are named"), ("serial", "have the serial number")):
        seen = Counter(board[key] for board in boards if key in board)
        if twice := [value for value, times in seen.items() if times > 1]:
            raise CallerError(f"{path}: two boards {words} {min(twice)!r}")
    return boards


def claims(state: Path | None, count: int, region: str, hours: float) -> list[str]:
    """So many one-time invites for devices, made by the cloud in one session under the operator's identity."""

    async def work(cloud: Ask) -> list[str]:
        params: dict[str, object] = {"role": "device", "region": region, "ttl_s": hours * 3600}
        return [(await cloud("invite.create", 30.0, **params))["invite"] for _ in range(count)]

    return ask(state, work)


def make_batch(
    boards: Iterable[Board], common: Mapping[str, Any], manifest: Path, folder: Path, *,
    claim: Callable[[int], list[str]], base: Path | None, put: Callable[[Path, IdentitySettings], None],
    progress: Callable[[str, int, int], None],
) -> int:  # fmt: skip
    """Make what is not in the manifest yet; how many that were.

    `base`: `put` writes DIR/NAME.img with it; without one DIR/NAME.toml is written. Raises what `put` and `claim`
    raise, CallerError for a manifest that is none.
    """
    wanted, known = list(boards), _names(manifest)
    left = [board for board in wanted if board["name"] not in known]
    for board in left:
        _settings(board, common, "")  # all of them are sound before the first is made
    folder.mkdir(parents=True, exist_ok=True)
    digest = _digest(base) if base is not None else ""
    done = len(wanted) - len(left)
    progress("boards", done, len(wanted))
    for board, text in zip(left, claim(len(left)) if left else [], strict=True):
        parsed = Invite.parse(text, time.time())  # noqa: TID251 - a command in the foreground: nothing is simulated here
        settings = _settings(board, {**common, "region": parsed.region}, text)
        out = folder / f"{settings.name}.{'img' if base is not None else 'toml'}"
        if base is not None:
            put(out, settings)
        else:
            write_private(out, settings.render().encode())
            if IdentitySettings.parse(out.read_text("utf-8"), str(out)) != settings:
                raise CallerError(f"{out} does not hold what was written")
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(parsed.expires))
        own = hashlib.sha256(settings.render().encode()).hexdigest()
        line = (settings.serial, settings.name, parsed.id, expires, parsed.region, out.name, own, digest)
        _append(manifest, line)
        done += 1
        progress("boards", done, len(wanted))
    return len(left)


def _settings(board: Board, common: Mapping[str, Any], claim: str) -> IdentitySettings:
    labels = {**common.get("labels", {}), **board.get("labels", {})}
    values = {**common, **board, **({"labels": labels} if labels else {}), **({"invite": claim} if claim else {})}
    return IdentitySettings.of(values, f"board {board['name']}")


def _names(manifest: Path) -> set[str]:
    if not manifest.exists():
        return set()
    try:
        with manifest.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise CallerError(f"{manifest} is no manifest of a batch", hint="name a new file")
            return {line["name"] for line in reader if line["base_sha256"] is not None}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CallerError(f"cannot read {manifest}: {error}") from error


def _append(manifest: Path, line: tuple[str, ...]) -> None:
    """A line that was cut off by a crash is ended first: it is not in the way of the next."""
    with manifest.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if not size:
            writer.writerow(COLUMNS)
        else:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                text.write("\n")
        writer.writerow(line)
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(PIECE):
            whole.update(data)
    return whole.hexdigest()
