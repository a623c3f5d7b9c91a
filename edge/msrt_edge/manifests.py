"""Model versions and images that the journal names become known here once somebody vouched for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import structlog

from msrt import errors
from msrt.inference.bundle import Manifest, read_manifest
from msrt.journal.facts import ImagePushed, ModelPushed
from msrt.journal.state import State
from msrt.trust.tuf.claims import Vouch, manifest_claim
from msrt_edge.offering import Offering

__all__ = ["Manifests"]

log = structlog.get_logger()
AGAIN_S: Final = (1.0, 30.0)
"""First and longest pause before those that were refused are asked for again: what is signed may come later."""
AT_ONCE: Final = 64
"""So many become known before the others hear of it."""


class Manifests:
    """`known` is filled by `run`, and so is `offering`; `learned` is called after something was added."""

    def __init__(
        self, state: Callable[[], State], vouch: Vouch, offering: Offering, learned: Callable[[], None]
    ) -> None:
        self._state, self._vouch, self._offering, self._learned = state, vouch, offering, learned
        self.known: dict[tuple[str, int], Manifest] = {}
        self._told: set[tuple[str, int | str]] = set()
        """Refused, and said so."""
        self._due = asyncio.Event()
        self._again_s = AGAIN_S[0]

    def look(self) -> None:
        """The journal names more, or more is signed for."""
        self._again_s = AGAIN_S[0]
        self._due.set()

    def _unknown(self) -> Iterator[ModelPushed]:
        """Those that a rollout names come first."""
        state = self._state()
        wanted = {(r.model, v) for r in state.rollouts.values() for v in (r.version, r.previous)}
        wanted |= {(r.model, v) for r in state.regional.values() for v in (r.version, r.previous)}
        every = [(name, number) for name, versions in state.models.items() for number in versions]
        for name, number in sorted(every, key=lambda one: one not in wanted):
            if (name, number) not in self.known:
                yield state.models[name][number]

    async def run(self) -> None:
        """Until cancelled."""
        refused = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._again_s if refused else None):
                    await self._due.wait()
            self._due.clear()
            refused = await self._look()
            self._again_s = min(2 * self._again_s, AGAIN_S[1])

    async def _look(self) -> bool:
        """Whether some were refused."""
        refused, new = False, 0
        unknown: list[ModelPushed | ImagePushed] = [*self._unknown(), *self._offering.unknown()]
        for pushed in unknown:
            model = isinstance(pushed, ModelPushed)
            key = (pushed.model if isinstance(pushed, ModelPushed) else pushed.kind, pushed.version)
            try:
                await self._learn(pushed)
            except errors.MsrtError as error:
                refused = True
                if key not in self._told:
                    self._told.add(key)
                    what = "model.manifest_refused" if model else "update.image_refused"
                    log.warning(what, name=key[0], version=key[1], error=errors.words_of(error))
                continue
            self._told.discard(key)
            new += 1
            if new % AT_ONCE == 0:
                self._learned()
        if new % AT_ONCE:
            self._learned()
        return refused

    async def _learn(self, pushed: ModelPushed | ImagePushed) -> None:
        if isinstance(pushed, ImagePushed):
            await self._offering.learn(pushed, self._vouch)
            return
        await self._vouch(manifest_claim(pushed.model, pushed.version, pushed.manifest, pushed.signature))
        self.known[pushed.model, pushed.version] = read_manifest(pushed.manifest)
