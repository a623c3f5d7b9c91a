"""The models of the tree: what is registered and how it fares, and its loading and unloading everywhere, which are a
rollout and a withdrawal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msrt import errors
from msrt.protocol.messages import ModelState
from msrt.serving.backend import IndexRow, ModelConfig, ModelStatistics
from msrt.serving.repository import LOAD_S, config_from, index_row, settled
from msrt_cloud.master import Cloud

__all__ = ["CloudModels"]


class CloudModels:
    """Implements msrt.serving.backend.Models. All raise Unavailable while the cloud starts."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def index(self) -> Sequence[IndexRow]:
        self._cloud.check_open()
        held: dict[tuple[str, int], list[ModelState]] = {}
        for one in self._held():
            held.setdefault((one.model, one.version), []).append(one)
        state = self._cloud.writer.state
        return [
            index_row(model, version, held.get((model, version), ()), rolled_out=self._rolled(model))
            for model, versions in sorted(state.models.items())
            for version in sorted(versions)
        ]

    def config(self, model: str, version: int = 0) -> ModelConfig:
        self._cloud.check_open()
        manifest, _ = self._cloud.registry.find(model, version)
        return config_from(manifest, self._cloud.serving.dispatcher.config.max_batch_rows)

    def statistics(self, model: str = "", version: int = 0) -> Sequence[ModelStatistics]:
        """Of what this cloud itself answered."""
        cloud, world = self._cloud, self._cloud.world
        cloud.check_open()
        if model:
            cloud.registry.find(model, version)
        rows = {
            (r.name, r.version): r for r in cloud.serving.tally.statistics(model, version, world.now(), world.wall())
        }
        for state in cloud.serving.engine.models:
            if state.state == "ready" and model in ("", state.model) and version in (0, state.version):
                key = (state.model, state.version)
                rows.setdefault(key, ModelStatistics(*key))
        return [row for _, row in sorted(rows.items())]

    async def load(self, model: str, version: int = 0) -> None:
        cloud = self._cloud
        cloud.check_open()
        state = cloud.writer.state
        wanted = version or max(state.models.get(model, {}), default=0)
        now = state.rollouts.get(model)
        apart = any(name == model for _, name in state.regional)
        if (
            now is not None
            and (now.state, now.version) == ("live", wanted)
            and not apart
            and self._ready(model, wanted)
        ):
            return
        said = await cloud.rollouts.begin(model, version, "", "", 0.0)
        wanted = int(str(said["version"]))
        if not said["matching"]:
            raise errors.Unavailable(f"{model}@{wanted} is rolled out, and no device is here that could run it")
        targets = int(str(said["matching"]))

        def over() -> bool:
            return self._ready(model, wanted) or sum(s.state == "failed" for s in self._of(model, wanted)) >= targets

        if not await settled(over, cloud.world.now):
            raise errors.Unavailable(f"nobody loaded {model}@{wanted} within {LOAD_S:g} s")
        if not self._ready(model, wanted):
            reasons = {state.error for state in self._of(model, wanted) if state.error}
            raise errors.Unavailable(f"nobody could load {model}@{wanted}: {min(reasons, default='no reason given')}")

    async def unload(self, model: str) -> None:
        cloud = self._cloud
        cloud.check_open()
        await cloud.rollouts.withdraw(model)

        def over() -> bool:
            return not any(state.model == model and state.state == "ready" for state in self._held())

        if not await settled(over, cloud.world.now):
            raise errors.Unavailable(f"{model} was withdrawn, and somebody still has it after {LOAD_S:g} s")

    def _held(self) -> Iterator[ModelState]:
        """What everybody has who lives."""
        for edge in self._cloud.fleet.edges.values():
            if edge.alive:
                for device in edge.devices.values():
                    if device.alive:
                        yield from device.models
        yield from self._cloud.serving.engine.models

    def _of(self, model: str, version: int) -> list[ModelState]:
        return [state for state in self._held() if (state.model, state.version) == (model, version)]

    def _ready(self, model: str, version: int) -> bool:
        return any(state.state == "ready" for state in self._of(model, version))

    def _rolled(self, model: str) -> bool:
        """Somewhere."""
        state = self._cloud.writer.state
        if model in state.rollouts_in(""):
            return True
        return any(name == model and fact.state != "withdrawn" for (_, name), fact in state.regional.items())
