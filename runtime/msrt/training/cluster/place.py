"""A worker's place in its group: rank, device, and how it joined."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore

from msrt.errors import InvalidJob
from msrt.training.settings import ClusterSettings

__all__ = ["Place", "join"]

COLLECTIVE_WITHIN: Final = timedelta(minutes=10)
"""A rank that waits longer for the others gives up; the agent starts all again."""


@dataclass(frozen=True)
class Place:
    """`store`: shared by the ranks of this life of the group."""

    rank: int
    world: int
    device: torch.device
    store: Store


def join(settings: ClusterSettings, address: str, port: int) -> Place:
    """Join the process group, as the agent's environment says. Raises InvalidJob where there is no such backend."""
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    backend = settings.backend
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl" and not torch.cuda.is_available():
        raise InvalidJob("[cluster] backend = 'nccl' on a node without a GPU", hint="backend = 'auto' takes gloo there")
    device = torch.device("cuda", local) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    life = os.environ["TORCHELASTIC_RESTART_COUNT"]
    store = PrefixStore(life, TCPStore(address, port, is_master=False))
    dist.init_process_group(
        backend, store=PrefixStore("group", store), rank=rank, world_size=world, timeout=COLLECTIVE_WITHIN
    )
    return Place(rank, world, device, store)
