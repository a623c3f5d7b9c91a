"""A board in QEMU, and a line to it that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from msrt_device.flash.targets.cortex_m import TARGET
from tests.bench.tree import until

QEMU = "qemu-system-arm"


def firmware(folder: Path) -> Path:
    """Built here, or a visible skip."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    if TARGET.needs():
        pytest.skip(TARGET.needs()[0])
    out = folder / "firmware.elf"
    TARGET.build({}, out, lambda *_: None)
    return out


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


class Board:
    """mps2-an385; its serial port is a TCP port, or with `pty` a terminal."""

    def __init__(self, image: Path, folder: Path, *, pty: bool = False, icount: int | None = None) -> None:
        self.image, self.pty, self.icount = image, pty, icount
        self.port = free_port()
        self.monitor = folder / "monitor"
        self.log = folder / "qemu.log"
        self.start()

    def start(self) -> None:
        serial = "pty" if self.pty else f"tcp:127.0.0.1:{self.port},server=on,wait=off,nodelay=on"
        argv = [
            QEMU, "-M", "mps2-an385", "-kernel", str(self.image), "-display", "none", "-serial", serial, "-monitor",
            f"unix:{self.monitor},server=on,wait=off", "-accel", "tcg",
        ]  # fmt: skip
        if self.icount is not None:
            argv += ["-icount", f"shift={self.icount},sleep=off"]
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        until("QEMU is there", lambda: self.tty if self.pty else self._listens())

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    @property
    def tty(self) -> str:
        """Where `pty` is."""
        said = self.log.read_text()
        return said.partition("redirected to ")[2].split(" ")[0] if "redirected" in said else ""

    def reset(self) -> None:
        """As by its button."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            monitor.settimeout(5)
            said = b""
            for prompts, line in ((1, b"system_reset\n"), (2, b"")):  # hung up on sooner, QEMU forgets the line
                while said.count(b"(qemu)") < prompts:
                    said += monitor.recv(4096)
                monitor.sendall(line)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


class Cable:
    """A TCP port in front of another that can be cut, and damaged."""

    def __init__(self, port: int) -> None:
        self.target, self.port = port, 0
        self.loop = asyncio.new_event_loop()
        self.writers: set[asyncio.StreamWriter] = set()
        self.noise = 0
        """One byte in so many is flipped; 0: none."""
        self._seen = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(5)

    def _run(self, started: threading.Event) -> None:
        async def main() -> None:
            async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
                self.port = server.sockets[0].getsockname()[1]
                started.set()
                await asyncio.Event().wait()

        self._main = self.loop.create_task(main())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._main)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        for one in (writer, back):
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)
        self.writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                writer.write(self._struck(data))
                await writer.drain()
        finally:
            writer.close()

    def _struck(self, data: bytes) -> bytes:
        if not self.noise:
            return data
        out = bytearray(data)
        for at in range(len(out)):
            self._seen += 1
            if self._seen % self.noise == 0:
                out[at] ^= 0x55
        return bytes(out)

    def cut(self) -> None:
        """Every connection through it ends; the next one is let through."""

        def abort() -> None:
            for writer in self.writers:
                writer.transport.abort()

        self.loop.call_soon_threadsafe(abort)

    def close(self) -> None:
        self.cut()
        self.loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(5)
