"""This machine (disk, port, state directory) is in the way."""

from __future__ import annotations

from msrt.errors.base import LocalError

__all__ = [
    "BrokerFailed",
    "Corrupt",
    "DiskFull",
    "JobFailed",
    "KeysExposed",
    "ModelFailed",
    "NoRoom",
    "OutOfMemory",
    "PortInUse",
    "StateForeign",
    "StateLocked",
    "StateNewer",
    "StateUnusable",
]


class DiskFull(LocalError):
    """The disk took no more; nothing that was acknowledged is lost."""

    code = "disk_full"
    hint = "free some space, or raise the bound in the config"


class NoRoom(DiskFull):
    """The disk has not as much room as what should come; nothing of it was written."""

    code = "no_room"
    hint = "free some space"

    def __init__(self, what: str, size: int, free: int, where: str) -> None:
        super().__init__(f"{what} has {size} bytes, {free} are free in {where}")
        self.size, self.free = size, free


class PortInUse(LocalError):
    """Another process listens on that address."""

    code = "port_in_use"
    hint = "name another with --listen, --mqtt, --http or --grpc (port 0 takes a free one)"


class StateLocked(LocalError):
    """Another process holds the state directory."""

    code = "state_locked"
    hint = "stop it, or name another directory with --state"


class StateForeign(LocalError):
    """The state directory belongs to another kind of node or to another tree."""

    code = "state_foreign"
    hint = "name another directory with --state"


class StateNewer(LocalError):
    """The state directory was written by a newer msrt."""

    code = "state_newer"
    hint = "upgrade msrt, or name another directory with --state"


class StateUnusable(LocalError):
    """A file or folder of the state directory cannot be made, read or written."""

    code = "state_unusable"
    hint = "check its owner and mode, or name another directory with --state"


class KeysExposed(LocalError):
    """Others on this machine may read a secret key."""

    code = "keys_exposed"


class Corrupt(LocalError):
    """Bytes on disk do not match their digest."""

    code = "corrupt"


class BrokerFailed(LocalError):
    """The MQTT broker could not be started or reached."""

    code = "broker_failed"


class JobFailed(LocalError):
    """A job's process died, ran over a limit, or raised."""

    code = "job_failed"


class ModelFailed(LocalError):
    """A model raised while it ran on inputs that fit it."""

    code = "model_failed"


class OutOfMemory(ModelFailed):
    """This machine had too little free memory to load or run a model."""

    code = "out_of_memory"
    hint = "free some memory, or hold fewer models: msrt device join --model-memory"
