"""A gateway's session with the firmware's agent, which runs here as a process of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from msrt.errors import Disconnected, InvalidModel, Unavailable
from msrt.inference.micro.interpret import interpret
from msrt.protocol import mcu
from msrt.telemetry.metrics import Metrics
from msrt.world.field import field_world
from msrt_device.flash.targets.cortex_m import SOURCES
from msrt_device.gateway.board import Board
from msrt_device.gateway.counts import Counts, observe
from msrt_device.gateway.line import open_line
from tests.device.gateway.native import FLAGS, compiler
from tests.runtime.inference.micro.graphs import compiled, quantised
from tests.runtime.inference.models import mlp

NAMES = ("agent.c", "engine.c", "frame.c", "kernels.c", "sha256.c")


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """The program."""
    out = tmp_path_factory.mktemp("agent") / "agent"
    units = [str(SOURCES / name) for name in NAMES] + [str(Path(__file__).with_name("board_posix.c"))]
    words = ["-std=gnu99", *FLAGS[1:], '-DMSRT_VERSION="0"', f"-I{SOURCES}"]
    subprocess.run([compiler(), *words, *units, "-o", str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    rows = np.random.default_rng(1).normal(size=(60, 16)).astype(np.float32)
    return compiled(quantised(mlp((16, 24, 5)), rows, tmp_path_factory.mktemp("blob")))


class Bench:
    """One agent and its port."""

    def __init__(self, agent):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.agent = agent
        self.start()

    def start(self):
        number = self.server.fileno()
        self.popen = subprocess.Popen([str(self.agent), str(number)], pass_fds=(number,))

    def stop(self):
        self.popen.kill()
        self.popen.wait()

    async def known(self, folder, lease_s=5.0, sense_ms=0):
        board = Board(field_world(folder), lease_s=lease_s, sense_ms=sense_ms)
        await board.start(await open_line("", f"127.0.0.1:{self.port}", board.heard, board.ended))
        return board


@pytest.fixture
def bench(agent):
    made = Bench(agent)
    yield made
    made.stop()
    made.server.close()


def rows_of(blob, count=20):
    return np.random.default_rng(5).integers(-128, 128, (count, blob.input[1])).astype(np.int8)


def test_a_model_is_handed_over_and_answers(bench, blob, tmp_path):
    """By chunks, digest at the end; its answers are the reference's, bit for bit. A second time nothing is sent."""

    async def main():
        board = await bench.known(tmp_path)
        assert (board.hello.serial, board.hello.flash, board.hello.ram) == ("posix-1", 16384, 2048)
        digest = await board.load(blob.board, blob.arena)
        answers = [(await board.infer(mcu.tag_of(digest), row.tobytes())).data for row in rows_of(blob)]
        assert b"".join(answers) == interpret(blob, rows_of(blob)).tobytes()
        board.close()
        again = await bench.known(tmp_path)
        assert again.holds == digest
        again.close()

    asyncio.run(main())


def test_what_was_said_is_counted(bench, blob, tmp_path):
    """Frames both ways, those that were damaged, inferences, bytes of models; over all boards of one gateway."""

    async def main():
        counts = Counts()
        metrics = Metrics()
        observe(metrics, counts)
        for cut in (True, False):
            board = Board(field_world(tmp_path), lease_s=5.0, sense_ms=0, counts=counts)
            await board.start(await open_line("", f"127.0.0.1:{bench.port}", board.heard, board.ended))
            digest = await board.load(blob.board, blob.arena)
            for row in rows_of(blob, 2):
                await board.infer(mcu.tag_of(digest), row.tobytes())
            if cut:
                board.heard(b"\x03ab\0")
                board.close("cut")
                assert b"msrt_board_here 0.0" in metrics.render()
        with pytest.raises(Unavailable, match="lost the thread"):
            await board.infer(mcu.tag_of(digest), b"\0")
        page = metrics.render().decode()
        board.close()
        return page, counts

    page, counts = asyncio.run(main())
    for line in (
        "msrt_board_here 1.0", "msrt_board_joined_total 2.0", f"msrt_board_chunk_bytes_total {len(blob.board)}.0",
        'msrt_board_inferences_total{code="ok"} 4.0', 'msrt_board_inferences_total{code="failed"} 1.0',
        "msrt_board_damaged_frames_total 1.0", f'msrt_board_frames_total{{direction="out"}} {counts.sent}.0',
    ):  # fmt: skip
        assert line in page.splitlines()
    assert counts.received >= counts.answered + 2
    assert counts.sent - counts.again == counts.received


def test_what_has_no_room_is_refused_before_anything_is_sent(bench, blob, tmp_path):
    """With what it needs and what there is; the model before stays."""

    async def main():
        board = await bench.known(tmp_path)
        digest = await board.load(blob.board, blob.arena)
        with pytest.raises(InvalidModel, match="needs 20000 bytes of flash and 96 of RAM, and posix posix-1 has 16384"):
            await board.load(bytes(20000), 96)
        with pytest.raises(InvalidModel, match="5000 of RAM"):
            await board.load(bytes(100), 5000)
        assert board.holds == digest
        await board.infer(mcu.tag_of(digest), rows_of(blob)[0].tobytes())
        board.close()

    asyncio.run(main())


def test_what_is_no_model_is_refused_by_the_board(bench, tmp_path):
    """It trusts nobody: not the gateway's compiler either."""

    async def main():
        board = await bench.known(tmp_path)
        with pytest.raises(InvalidModel, match="no model, or a damaged one"):
            await board.load(b"no model at all" * 10, 96)
        board.close()

    asyncio.run(main())


def test_a_late_lease_is_renewed_and_the_question_asked_again(bench, blob, tmp_path):
    """A gateway that slept past it does not blame the model."""

    async def main():
        board = await bench.known(tmp_path, lease_s=0.2)
        digest = await board.load(blob.board, blob.arena)
        board._renewing.cancel()
        await asyncio.sleep(0.3)
        answer = await board.infer(mcu.tag_of(digest), rows_of(blob)[0].tobytes())
        assert answer.data == interpret(blob, rows_of(blob)[:1]).tobytes()
        board.close()

    asyncio.run(main())


def test_a_board_that_started_again_is_lost(bench, blob, tmp_path):
    """Its line ends with it; who asks hears that it is away."""

    async def main():
        board = await bench.known(tmp_path)
        digest = await board.load(blob.board, blob.arena)
        bench.stop()
        bench.start()
        with pytest.raises(Disconnected):
            await board.infer(mcu.tag_of(digest), rows_of(blob)[0].tobytes())
        async with asyncio.timeout(5):
            await board.lost.wait()
        again = await bench.known(tmp_path)
        assert again.holds == bytes(32)
        again.close()

    asyncio.run(main())


def test_an_event_is_said_until_it_is_taken(bench, blob, tmp_path):
    """Of its own sensor: what the reference finds in the same reading."""

    async def main():
        board = await bench.known(tmp_path, sense_ms=60)
        heard = asyncio.Queue()
        board.on_event(heard.put_nowait)
        digest = await board.load(blob.board, blob.arena)
        async with asyncio.timeout(10):
            first = await heard.get()
            assert await heard.get() == first
            board.taken(first)
            while (following := await heard.get()).number == first.number:
                pass
        assert following.number == first.number + 1
        ramp = (following.reading * 37 + np.arange(16) * 5).astype(np.uint8).astype(np.int8)
        assert following.tag == mcu.tag_of(digest)
        assert following.data == interpret(blob, ramp[None]).tobytes()
        assert following.best == np.frombuffer(following.data, np.int8).argmax()
        board.close()

    asyncio.run(main())


def test_a_question_that_is_repeated_is_not_done_again(bench, blob, tmp_path):
    """Nor is one that comes out of order done at all: the bare protocol, byte by byte."""
    with socket.create_connection(("127.0.0.1", bench.port)) as line:
        line.settimeout(5)
        decoder = mcu.Decoder()

        def ask(message, sequence):
            line.sendall(mcu.encode(message, sequence))
            while not (found := decoder.feed(line.recv(4096))):
                pass
            return found[0].message

        board = blob.board
        assert isinstance(ask(mcu.Ask(), 1), mcu.Hello)
        assert isinstance(ask(mcu.Lease(1, 60_000, 0), 2), mcu.Done)
        assert ask(mcu.Infer(1, 4, 0, b"1234"), 3).code == mcu.Fault.NO_MODEL
        assert ask(mcu.Load(len(board), blob.arena), 4) == mcu.Done(0)
        assert ask(mcu.Chunk(0, board[:500]), 5) == mcu.Done(500)
        assert ask(mcu.Chunk(0, board[:500]), 5) == mcu.Done(500)
        assert ask(mcu.Chunk(0, board[:500]), 6).code == mcu.Fault.OUT_OF_ORDER
        assert ask(mcu.Finish(hashlib.sha256(board).digest()), 7).code == mcu.Fault.OUT_OF_ORDER
        for number, at in enumerate(range(500, len(board), 900)):
            assert ask(mcu.Chunk(at, board[at : at + 900]), 8 + number) == mcu.Done(min(at + 900, len(board)))
        assert ask(mcu.Finish(bytes(32)), 100).code == mcu.Fault.DIGEST
        assert ask(mcu.Finish(hashlib.sha256(board).digest()), 101) == mcu.Done(len(board))
