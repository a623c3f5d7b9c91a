"""The agent's files onto a board that runs MicroPython, by its raw REPL; the only file that imports mpremote."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from msrt.cli import MissingExtra
from msrt.errors import LocalError

if TYPE_CHECKING:
    from mpremote.transport_serial import SerialTransport

__all__ = ["BoardFailed", "put_files"]

BAUD: Final = 115200
WAIT_S: Final = 5
"""For the next byte of an answer."""
MAIN: Final = "main.py"
"""What starts the agent."""


class BoardFailed(LocalError):
    """A board on a serial line does not answer, or not as it should."""

    code = "board_failed"


def put_files(port: str, files: Mapping[str, bytes], progress: Callable[[str, int, int], None]) -> str:
    """Write, read back, compare, start; the board's own word of what it is.

    What starts the agent is removed first and comes last: a copy that was cut off leaves a board with nothing to start.
    Raises BoardFailed, MissingExtra.
    """
    total, done = sum(len(data) for data in files.values()), 0
    with _board(port) as board:
        board.exec("import sys")
        what, version = board.eval("sys.implementation[0]"), board.eval("sys.implementation[1]")
        if MAIN in files:
            board.exec(f"import os\ntry:\n os.remove({MAIN!r})\nexcept OSError:\n pass")
        for file in sorted(files, key=lambda one: one == MAIN):
            before = done
            board.fs_writefile(
                file,
                files[file],
                progress_callback=lambda part, _, before=before: progress("write", before + part, total),
            )
            done += len(files[file])
        checked = 0
        for file, data in files.items():
            if bytes(board.fs_readfile(file)) != data:
                board.exec(f"import os\nos.remove({MAIN!r})")
                raise BoardFailed(
                    f"{file} does not read back from {port} as written", hint="its flash is full, or worn out"
                )
            checked += len(data)
            progress("verify", checked, total)
        board.exit_raw_repl()
        board.serial.write(b"\x04")  # a soft reset: it starts as from power-on
    return f"{what} {version[0]}.{version[1]}"


@contextlib.contextmanager
def _board(port: str) -> Iterator[SerialTransport]:
    """In the raw REPL. Raises BoardFailed, MissingExtra."""
    try:
        from mpremote.transport import TransportError  # noqa: PLC0415 - an extra
        from mpremote.transport_serial import SerialTransport  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingExtra("device flash to a serial line", "mpremote", "flash") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot make sense of
            board = SerialTransport(port, BAUD, timeout=WAIT_S)
        with contextlib.closing(board):
            with contextlib.redirect_stdout(io.StringIO()):
                board.enter_raw_repl()
            yield board
    except (TransportError, OSError) as error:
        raise BoardFailed(
            f"the board at {port} does not do as it is told: {error}",
            hint="is MicroPython on it, and nothing else at the line? An agent that has the line for its gateway does "
            "not let go of it: flash the whole chip (ESP32), or copy a .uf2 (RP2)",
        ) from None
