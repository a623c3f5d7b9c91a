"""A real cloud on real sockets, and the command line beside it."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time

import pytest
import structlog

from msrt import cli
from msrt.settings import CloudConfig
from msrt_cloud.field import serve


class Cloud:
    """Runs in a thread of its own; `state` holds the operator's identity."""

    def __init__(self, state):
        self.state = state
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.error = None

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.stop = asyncio.Event()
        try:
            self.loop.run_until_complete(serve(CloudConfig(state=str(self.state)), self.stop))
        except Exception as error:
            self.error = error
            raise
        finally:
            self.loop.close()

    def start(self):
        self.thread.start()
        until = time.monotonic() + 20
        while not (self.state / "operator" / "identity.json").exists():
            assert self.thread.is_alive(), self.error
            assert time.monotonic() < until
            time.sleep(0.02)
        # What it says at its start it says in one turn of its loop: after the next one, standard output is the tests'.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(20)

    def end(self):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    made = Cloud(tmp_path_factory.mktemp("tree") / "cloud")
    made.start()
    yield made
    made.end()
    structlog.reset_defaults()


class Result:
    """What a command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def msrt(capsys, monkeypatch, tmp_path):
    """The command line as from a shell: call it with the words of a command."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))

    def call(*argv, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call
