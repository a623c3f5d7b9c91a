"""A worker's place in its group: rank, device, and how it joined."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from msrt.errors import InvalidJob
from msrt.training.settings import ClusterSettings

__all__ = ["Place", "join"]

SIOCGIFADDR: Final = 0x8915
COLLECTIVE_WITHIN: Final = timedelta(minutes=10)
"""A rank that waits longer for the others gives up; the agent starts all again."""


@dataclass(frozen=True)
class Place:
    """`store`: shared by the ranks of this life of the group; `local`: the rank among those of node `machine`."""

    rank: int
    world: int
    device: torch.device
    store: Store
    local: int = 0
    machine: int = 0


def join(settings: ClusterSettings, address: str, port: int) -> Place:
    """Join the process group, as the agent's environment says: of several nodes at the store of rank 0's agent.

    Raises InvalidJob where there is no such backend.
    """
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    backend = settings.backend
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl" and not torch.cuda.is_available():
        raise InvalidJob("[cluster] backend = 'nccl' on a node without a GPU", hint="backend = 'auto' takes gloo there")
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    life, machine = os.environ["TORCHELASTIC_RESTART_COUNT"], 0
    if settings.nodes > 1:  # each of their lives has a store of its own
        life, machine = "workers", int(os.environ["GROUP_RANK"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        os.environ["GLOO_SOCKET_IFNAME"] = _interface(_own(address, port))
    store = PrefixStore(life, TCPStore(address, port, is_master=False))
    dist.init_process_group(
        backend, store=PrefixStore("group", store), rank=rank, world_size=world, timeout=COLLECTIVE_WITHIN
    )
    return Place(rank, world, device, store, local, machine)


def _own(address: str, port: int) -> str:
    """The address by which this node reaches that one; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        found: str = probe.getsockname()[0]
        return found


def _interface(address: str) -> str:
    """The name of the interface that has this address: gloo wants to be told. Empty: none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                asked = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(asked[20:24]) == address:
                    return name
    return ""
