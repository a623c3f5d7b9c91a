"""torchrun's elastic agent for one group: `python -P -m msrt.training.cluster.agent`, started by `group.py`.

Workers are forked from a server that has torch loaded, so a restart costs no import, and stay in the process group of
the runner: its pause is theirs. Nothing of the group listens beyond loopback, and what Python keeps for its processes
goes away with them, however they end: sockets lie in the job's directory, semaphores are unlinked by a tracker that a
kill of the process group does not reach.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import sys
import tempfile
from argparse import ArgumentParser
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Final

from msrt.training.cluster.group import GIVEN_UP
from msrt.training.limits import die_with
from msrt.training.settings import CONFIG, ClusterSettings, parse_config

HERE: Final = "127.0.0.1"
FOR_EVER_S: Final = 10**6
"""A single node needs no heartbeats; and a paused one sends none."""
STOP_WITHIN: Final = 5
GIVEN_BACK: Final = 1 << 20
"""Bytes from which on glibc gives freed memory back at once. Left to itself it keeps, in pieces, about as much as
recomputing activations spares."""
PRELOADED: Final = {
    "ddp": ["torch.nn.parallel", "torch._dynamo.utils"],
    "fsdp": ["torch.distributed.fsdp", "torch._dynamo.utils"],
    "tensor": ["torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch._dynamo.utils"],
    "pipeline": ["torch.distributed.pipelining"],
}
"""What each strategy imports, sooner or later. Not what saves: a second, which most rounds of DDP can do without."""


def prepare(settings: ClusterSettings, directory: Path) -> None:
    """Start what forks the workers: it loads torch while the agent does."""
    mine = os.getpgrp()
    os.setpgid(0, 0)
    resource_tracker.ensure_running()
    os.setpgid(0, mine)
    tempfile.tempdir = f"/proc/self/fd/{os.open(directory / 'tmp', os.O_RDONLY)}"
    util.get_temp_dir()  # the server's socket lies there: the directory's own path may be longer than a socket's may be
    tempfile.tempdir = None
    if settings.checkpoint_activations:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(GIVEN_BACK)
    multiprocessing.set_forkserver_preload(
        ["msrt.training.cluster.forked", "msrt.training.cluster.worker", *PRELOADED[settings.strategy]]
    )
    forkserver.ensure_running()


def launch(settings: ClusterSettings, sources: Path, directory: Path) -> None:
    """Keep the workers running until they are done. Raises ChildFailedError when they failed too often."""
    import torch  # noqa: PLC0415 - after `prepare`
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs  # noqa: PLC0415
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    from msrt.training.cluster.worker import work  # noqa: PLC0415

    if settings.nodes > 1:
        _launch_part(settings, sources, directory)
        return
    listener = socket.create_server((HERE, 0))
    port = listener.getsockname()[1]
    store = torch.distributed.TCPStore(
        HERE, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=_processes(settings),
        run_id=f"msrt-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint=str(directory / "tmp" / "rendezvous"),
        rdzv_configs={"store_type": "file", "keep_alive_interval": FOR_EVER_S},
        local_addr=HERE,
        max_restarts=settings.restarts,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(directory / "logs")),
        shutdown_timeout=STOP_WITHIN,
    )
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    elastic_launch(config, work)(str(sources), str(directory), store.port)


def _processes(settings: ClusterSettings) -> int:
    import torch  # noqa: PLC0415 - after `prepare`

    return settings.processes or torch.cuda.device_count() or len(os.sched_getaffinity(0))


def _launch_part(settings: ClusterSettings, sources: Path, directory: Path) -> None:
    """Of a group of several nodes: this one's workers, which find the others over the tree."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs  # noqa: PLC0415 - after `prepare`
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: PLC0415

    from msrt.training.cluster import rendezvous  # noqa: PLC0415
    from msrt.training.cluster.worker import work  # noqa: PLC0415

    rendezvous.register()
    config = LaunchConfig(
        min_nodes=settings.nodes,
        max_nodes=settings.nodes,
        nproc_per_node=_processes(settings),
        run_id=f"msrt-{os.getpid()}",
        rdzv_backend=rendezvous.NAME,
        rdzv_endpoint=str(directory),
        rdzv_configs={"job": directory.parent.name},
        max_restarts=settings.restarts,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(directory / "logs")),
        shutdown_timeout=STOP_WITHIN,
    )
    elastic_launch(config, work)(str(sources), str(directory), 0)


def main() -> None:
    """Settle in, then keep the group."""
    parser = ArgumentParser(prog="msrt.training.cluster.agent", description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process id of the runner")
    parser.add_argument("--sources", type=Path, required=True, help="the unpacked bundle")
    parser.add_argument("--work", type=Path, required=True, help="the group's own directory")
    chosen = parser.parse_args()
    die_with(chosen.parent)
    # The runner counts CPU seconds by command; the agent has none, and each worker counts its own.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    config = parse_config((chosen.sources / CONFIG).read_text())
    assert config.cluster is not None
    prepare(config.cluster, chosen.work)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415 - after `prepare`

    try:
        launch(config.cluster, chosen.sources, chosen.work)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message["message"] if isinstance(failure.message, dict) else failure.message
        text = f"{message} (rank {rank}, after {config.cluster.restarts} restarts)"
        (chosen.work / GIVEN_UP).write_text(text)
        print(text, file=sys.stderr)  # noqa: T201 - stderr is the job's log
        sys.exit(1)


if __name__ == "__main__":
    main()
