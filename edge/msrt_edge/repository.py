"""The models of a region: what is known of them here, and their loading and unloading for this region alone, which the
cloud writes down and this edge then follows as everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msrt import errors
from msrt.protocol.messages import ModelState
from msrt.serving.backend import IndexRow, ModelConfig, ModelStatistics
from msrt.serving.repository import LOAD_S, config_from, index_row, settled
from msrt_edge.master import Edge

__all__ = ["EdgeModels"]


class EdgeModels:
    """Implements msrt.serving.backend.Models."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def index(self) -> Sequence[IndexRow]:
        held: dict[tuple[str, int], list[ModelState]] = {}
        for state in self._edge.fleet.held():
            held.setdefault((state.model, state.version), []).append(state)
        rolled = self._rolled()
        return [
            index_row(model, version, held.get((model, version), ()), rolled_out=model in rolled)
            for model, versions in sorted(self._edge.follower.state.models.items())
            for version in sorted(versions)
        ]

    def config(self, model: str, version: int = 0) -> ModelConfig:
        edge = self._edge
        manifest = edge.fleet.manifests.get((model, edge.fleet.serving(model, version)))
        if manifest is None:
            raise errors.Unavailable(f"{model} is not here yet")
        return config_from(manifest, edge.setup.config.batch_rows)

    def statistics(self, model: str = "", version: int = 0) -> Sequence[ModelStatistics]:
        edge, world = self._edge, self._edge.world
        versions = edge.follower.state.models.get(model, {})
        if model and not versions:
            raise errors.NotFound(f"no model {model!r} is known here", hint="msrt model list")
        if version and version not in versions:
            raise errors.NotFound(f"{model} has no version {version}", hint=f"see GET /v2/models/{model}")
        rows = {(r.name, r.version): r for r in edge.tally.statistics(model, version, world.now(), world.wall())}
        for state in edge.fleet.held():
            if state.state == "ready" and model in ("", state.model) and version in (0, state.version):
                key = (state.model, state.version)
                rows.setdefault(key, ModelStatistics(*key))
        return [row for _, row in sorted(rows.items())]

    async def load(self, model: str, version: int = 0) -> None:
        known = self._edge.follower.state.models.get(model, {})
        wanted = version or max(known, default=0)
        now = self._rolled().get(model)
        if now is not None and (now.state, now.version) == ("live", wanted) and self._has(model, wanted, "ready"):
            return  # a rollout of this region's own would only cut it off from the tree's next one
        said = await self._ask("model.load", {"model": model, "version": version})
        wanted = int(said["version"])

        def over() -> bool:
            if self._edge.fleet.settled(model) == wanted and self._has(model, wanted, "ready"):
                return True
            failed = sum(state.state == "failed" for state in self._held(model, wanted))
            return 0 < self._edge.fleet.awaited(model, wanted) <= failed

        if not await settled(over, self._edge.world.now):
            raise errors.Unavailable(f"nobody here loaded {model}@{wanted} within {LOAD_S:g} s")
        if not self._has(model, wanted, "ready"):
            reasons = {state.error for state in self._held(model, wanted) if state.error}
            raise errors.Unavailable(
                f"nobody here could load {model}@{wanted}: {min(reasons, default='no reason given')}"
            )

    async def unload(self, model: str) -> None:
        await self._ask("model.unload", {"model": model})

        def over() -> bool:
            return model not in self._rolled() and not any(
                s.model == model and s.state == "ready" for s in self._edge.fleet.held()
            )

        if not await settled(over, self._edge.world.now):
            raise errors.Unavailable(f"{model} was withdrawn, and somebody here still has it after {LOAD_S:g} s")

    def _rolled(self) -> dict[str, Any]:
        return self._edge.follower.state.rollouts_in(self._edge.region)

    def _held(self, model: str, version: int) -> list[ModelState]:
        return [s for s in self._edge.fleet.held() if s.model == model and s.version == version]

    def _has(self, model: str, version: int, state: str) -> bool:
        return any(one.state == state for one in self._held(model, version))

    async def _ask(self, method: str, params: dict[str, object]) -> dict[str, Any]:
        """The cloud writes it down. Raises Unavailable without it."""
        cloud = self._edge.uplink.peer
        hint = "loading and unloading need it, what is loaded does not"
        if cloud is None or not cloud.live:
            raise errors.Unavailable("the cloud is away", hint=hint)
        try:
            said = await cloud.call(method, params, LOAD_S)
        except (errors.Disconnected, errors.DeadlineExceeded) as error:
            raise errors.Unavailable(f"the cloud is away: {error.text}", hint=hint) from None
        return dict(said)  # type: ignore[call-overload,no-any-return]
