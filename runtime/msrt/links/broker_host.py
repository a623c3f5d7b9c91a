"""What a broker needs of its machine: a program, a free port, and the process that an earlier life left behind."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import shutil
import socket as sockets
import sys
from pathlib import Path
from typing import Final

from msrt import errors

__all__ = ["AMQTT", "MOSQUITTO", "amqtt_command", "find_engine", "free_port", "is_loopback", "stale"]

MOSQUITTO: Final = "mosquitto"
AMQTT: Final = "amqtt"
SBIN: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
"""Where packages put mosquitto and the PATH of a user often does not look."""


def find_engine() -> tuple[str, list[str]]:
    """The broker that this machine has, and how it is called. Raises BrokerFailed."""
    path = shutil.which(MOSQUITTO) or shutil.which(MOSQUITTO, path=SBIN)
    if path:
        return MOSQUITTO, [path, "-c"]
    if importlib.util.find_spec("amqtt") is None:
        raise errors.BrokerFailed(
            "there is no MQTT broker here",
            hint="install mosquitto, or pip install 'msrt[edge]', or name one in the config",
        )
    return AMQTT, amqtt_command()


def amqtt_command() -> list[str]:
    """How the broker written in Python is called."""
    return [sys.executable, "-P", "-m", "msrt.links.amqtt_broker"]


def stale(folder: Path) -> int:
    """The pid in our pid file if that process runs our configuration, else 0."""
    try:
        pid = int((folder / "broker.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (OSError, ValueError):
        return 0
    return pid if str(folder / "broker.") in command else 0


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises PortInUse, InvalidAddress."""
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    with sockets.socket(family) as probe:
        probe.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            if port and error.errno == errno.EADDRINUSE:
                raise errors.PortInUse(f"{host}:{port} is taken by another process") from error
            raise errors.InvalidAddress(f"cannot listen on {host}:{port}: {error.strerror}") from error
        return int(probe.getsockname()[1])
