"""Where jobs train on a real machine: processes, and one that they are forked from. Loaded with the first job."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from msrt.hop import Uplink
from msrt.settings import DeviceConfig
from msrt.training.tails import Tails
from msrt.world.world import World

if TYPE_CHECKING:
    from msrt.training.forks import ForkServer
    from msrt.training.trainer import Trainer

__all__ = ["Hosts"]


class Hosts:
    """Of the device `node`. `uplink`: by which the nodes of a group find each other."""

    def __init__(
        self, world: World, folder: Path, config: DeviceConfig, tails: Tails, uplink: Callable[[], Uplink], node: str
    ) -> None:
        self._world, self._folder, self._config, self._tails, self._uplink = world, folder, config, tails, uplink
        self._forks: ForkServer | None = None
        self._node = node

    @staticmethod
    def prepare() -> None:
        """Blocking: what `trainer` imports, the time of which no event loop has."""
        for name in ("msrt.training.forks", "msrt.training.host", "msrt_device.meeting"):
            import_module(name)

    def trainer(self, job: str) -> Trainer:
        """A job's, by its name."""
        from msrt.training.forks import ForkServer  # noqa: PLC0415 - loaded with the first job
        from msrt.training.host import TrainerHost  # noqa: PLC0415
        from msrt_device import meeting  # noqa: PLC0415

        config, world = self._config, self._world
        self._forks = self._forks or ForkServer.lasting(config.train_forkserver_s)
        return TrainerHost(
            world, self._folder / "jobs" / job, config.data, self._tails.of(job), self._forks,
            lambda word: meeting.ask(world, self._uplink(), word),
        )  # fmt: skip

    def clear(self, job: str) -> None:
        """It is over, and its process is gone. Blocking."""
        from msrt.training.leavings import clear  # noqa: PLC0415 - few devices train

        clear(self._folder / "jobs" / job, self._node)

    async def close(self) -> None:
        """End the process that they are forked from."""
        if self._forks is not None:
            await self._forks.close()
