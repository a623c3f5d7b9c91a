"""Who asks: an operator that only calls, and a client that asks for inference over its link and counts its answers."""

from __future__ import annotations

import asyncio

import numpy as np

from msrt import errors
from msrt.protocol.messages import Infer, InferFailed, Inferred, TensorSpec

__all__ = ["Asked", "Caller", "Quiet"]


class Quiet:
    """Hears nothing unasked."""

    def __init__(self, world):
        self.world = world

    def joined(self, peer):
        pass

    def left(self, peer, error, *, final):
        pass

    def message(self, peer, message, frames):
        pass

    async def called(self, _peer, method, _params):
        raise errors.Forbidden(f"nobody calls {method} here")

    def stream(self, _peer, opened):
        raise errors.Forbidden(f"no stream {opened.kind} here")

    async def stored(self, _peer, _messages):
        raise errors.Forbidden("nothing is kept here")


class Asked:
    """One request and everything that came back for it."""

    def __init__(self, message, frames, deadline):
        self.message, self.frames, self.deadline = message, frames, deadline
        self.answers, self.failures = [], []
        self.sent = 0
        self.settled = asyncio.get_running_loop().create_future()

    @property
    def done(self):
        return self.settled.done()


class Caller(Quiet):
    """Sends each request to the edge that is there, again with the same id to the next one when that is lost."""

    def __init__(self, world):
        super().__init__(world)
        self.asked = {}
        self._peer = None

    def joined(self, peer):
        self._peer = peer
        for one in self.asked.values():
            if not one.done:
                self._send(one)

    def left(self, peer, error, *, final):
        if peer is self._peer:
            self._peer = None

    def ask(self, row, model="net", timeout=5.0):
        """One row of four numbers."""
        ident = len(self.asked) + 1
        message = Infer((ident,), (1,), model, (TensorSpec("x", "FP32", (1, 4)),), deadline_ms=int(timeout * 1000))
        frame = np.asarray(row, np.float32).tobytes()
        one = self.asked[ident] = Asked(message, (frame,), self.world.now() + timeout)
        self._send(one)
        return one

    def _send(self, one):
        if self._peer is None or self.world.now() > one.deadline:
            return
        try:
            self._peer.send(one.message, one.frames)
            one.sent += 1
        except (errors.Disconnected, errors.Overloaded):
            pass

    def message(self, _peer, message, frames):
        match message:
            case Inferred(ids=ids):  # one row each, so that the answers of those who rode together part evenly
                size = len(frames[0]) // len(ids)
                for place, ident in enumerate(ids):
                    own = bytes(frames[0])[place * size : (place + 1) * size]
                    self._settle(self.asked[ident], "answers", (message, own))
            case InferFailed(ids=ids):
                for ident in ids:
                    self._settle(self.asked[ident], "failures", message)

    def _settle(self, one, kind, what):
        getattr(one, kind).append(what)
        if not one.done:
            one.settled.set_result(None)
