"""Flower, networked, in the same run as ours: a SuperLink and a SuperNode for each client, real processes on loopback.

Each client sends back what it was given with a number added, as ours does; plain gRPC, which Flower's default is. Its
environment is the one of the oracle tests; where none can be made the reason stands in the table.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench.peers import free_ports, venv

__all__ = ["Unavailable", "round_s"]

REQUIRES: Final = "flwr==1.42.0"
WITHIN_S: Final = 200.0
APP: Final = """
[project]
name = "nothing"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "nothing:server"
clientapp = "nothing:client"

[tool.flwr.app.config]
size = 1
rounds = 2
clients = 1
out = ""
"""
CODE: Final = """
import json
import os
import time

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    step = np.float32(1e-5 * (1 + context.node_id % 97))
    moved = [array + step for array in message.content["arrays"].to_numpy_ndarrays()]
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@server.main()
def main(grid, context):
    wanted, ends = context.run_config, []

    def judge(_round, _arrays):
        ends.append(time.time())
        return MetricRecord({"nothing": 0.0})

    first = np.random.default_rng(7).standard_normal(wanted["size"], dtype=np.float32)
    clients = wanted["clients"]
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
    )
    strategy.start(
        grid=grid, initial_arrays=ArrayRecord([first]), num_rounds=wanted["rounds"], evaluate_fn=judge, timeout=300
    )
    with open(wanted["out"] + ".new", "w") as file:
        json.dump([after - before for before, after in zip(ends, ends[1:])], file)
    os.replace(wanted["out"] + ".new", wanted["out"])
"""


class Unavailable(Exception):
    """Why there is no figure."""


def round_s(size: int, clients: int, rounds: int = 3) -> float:
    """Median seconds of a round of so many float32 parameters. Raises Unavailable."""
    home, why = venv("msrt-oracle", REQUIRES.replace("==", "-"), (REQUIRES,))
    if why:
        raise Unavailable(f"{REQUIRES} is not here: {why}")
    with (
        tempfile.TemporaryDirectory(prefix="msrt-flower-", ignore_cleanup_errors=True) as folder,
        _tree(home, Path(folder), clients) as environment,
    ):
        return median(_run(home, Path(folder), environment, size, clients, rounds))


@contextlib.contextmanager
def _tree(home: Path, folder: Path, clients: int) -> Iterator[dict[str, str]]:
    """A SuperLink and its SuperNodes; the environment in which `flwr` finds it."""
    port, *own = free_ports(1 + clients)
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}
    here = ["--insecure", "--host", "127.0.0.1", "--port"]
    link = [str(home / "bin/flower-superlink"), *here, str(port), "--disable-runtime-dependency-installation"]
    node = [str(home / "bin/flower-supernode"), "--superlink", f"127.0.0.1:{port}", *here]
    nodes = [[*node, str(mine), "--node-config", f"partition-id={number}"] for number, mine in enumerate(own)]
    with contextlib.ExitStack() as stack, (folder / "log").open("w") as log:
        for argv in (link, *nodes):
            process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
            )
            stack.callback(_end, process)
            if argv is link:
                _until_open(port, process)
        yield environment


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.1)
    raise Unavailable("its SuperLink does not answer")


def _end(process: subprocess.Popen[bytes]) -> None:
    """With those that it started."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _run(home: Path, folder: Path, environment: dict[str, str], size: int, clients: int, rounds: int) -> list[float]:
    app, out = folder / "app", folder / "rounds.json"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP)
    (app / "nothing.py").write_text(CODE)
    wanted = f'size={size} rounds={rounds} clients={clients} out="{out}"'
    done = subprocess.run(
        [str(home / "bin/flwr"), "run", str(app), "bench", "--run-config", wanted],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"flwr run: {(done.stderr or done.stdout).strip()[-200:]}")
    until = time.monotonic() + WITHIN_S
    while not out.exists():
        if time.monotonic() > until:
            log = (folder / "log").read_text().strip().splitlines()
            raise Unavailable(f"no round ended in {WITHIN_S:.0f} s: {log[-1][-200:] if log else 'nothing was logged'}")
        time.sleep(0.2)
    found: list[float] = json.loads(out.read_text())
    return found


if __name__ == "__main__":
    size, clients, rounds = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    sys.stdout.write(f"{round_s(size, clients, rounds):.3f} s\n")
