"""The MQTT broker of a master: mosquitto as our child where it is installed, else amqtt in a child process.

The child dies with us, also when we are killed; one that outlived us nevertheless is known by its pid file. When it
dies it is started again on the same port. Its files lie in the node's state directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from msrt import errors
from msrt.links.broker_files import acl, check_entry, check_user, mosquitto_conf, parse_passwords
from msrt.links.broker_host import AMQTT, MOSQUITTO, amqtt_command, find_engine, free_port, is_loopback, stale
from msrt.links.broker_probe import admitted
from msrt.links.endpoint import Endpoint, parse_endpoint
from msrt.links.link import Credentials
from msrt.process import spawn_child, stop_child
from msrt.trust.private import read_private, write_private
from msrt.trust.tls import ServerCertificate, mosquitto_password
from msrt.world.world import World

__all__ = ["Broker"]

log = structlog.get_logger()
START_S: Final = 10.0
RELOAD_S: Final = 3.0
BACKOFF_S: Final = 0.1
BACKOFF_MAX_S: Final = 5.0
STEADY_S: Final = 10.0
"""A broker that ran so long died for a reason of its own: the next one starts at once."""
PORT_TRIES: Final = 5
PROBE: Final = "probe"
CHILD_MEMORY: Final = 2 << 30
"""Address space of an amqtt child: it has no limit on packets of its own."""


class Broker:
    """One broker process and who may use it.

    `listen`: mqtt://HOST:PORT on loopback, mqtts://HOST:PORT anywhere; port 0 takes a free one. `engine`: mosquitto or
    amqtt, empty for what is there. Users stay known (hashed) over restarts.
    """

    managed = True

    def __init__(
        self, world: World, folder: Path, *, master: str, listen: str = "mqtt://127.0.0.1:0", engine: str = ""
    ) -> None:
        self._world, self._folder, self.master = world, folder.resolve(), check_user(master)
        self._scheme, self._host, self._port, _ = parse_endpoint(listen, "mqtt", "mqtts")
        self._auto = not self._port
        if self._scheme == "mqtt" and not is_loopback(self._host):
            raise errors.InvalidConfig(f"{listen} would send passwords in the clear", hint="use mqtts:// off loopback")
        self.engine, self._command = find_engine() if engine in ("", MOSQUITTO) else (AMQTT, amqtt_command())
        if engine and engine != self.engine:
            raise errors.BrokerFailed(
                f"there is no {engine} here", hint="install it, or name no broker: amqtt comes with msrt[edge]"
            )
        self.fingerprint = ""
        """SHA-256 of its certificate, for the invite; empty without TLS."""
        self._password = world.random.randbytes(16).hex()
        self._users: dict[str, str] = {}
        self._wanted = self._written = 0
        self._writing = asyncio.Lock()
        self._child: Process | None = None
        self._said: deque[str] = deque(maxlen=5)
        self._tasks: list[asyncio.Task[None]] = []
        self.restarts = 0

    @property
    def address(self) -> str:
        """Where it listens, with the real port."""
        return Endpoint(self._scheme, self._host, self._port, "").url

    @property
    def local_address(self) -> str:
        """Where the master's own link finds it."""
        return Endpoint(self._scheme, self._reach, self._port, "").url

    @property
    def _reach(self) -> str:
        return {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104

    def credentials(self) -> Credentials:
        """What the master's own link connects with."""
        return Credentials(
            username=self.master, password=self._password, fingerprint=self.fingerprint, master=self.master
        )

    async def start(self) -> None:
        """Start it and wait until it takes connections. Raises PortInUse, BrokerFailed, DiskFull."""
        await self._world.offload(self._prepare)
        await self._end_stale()
        for attempt in range(PORT_TRIES):
            self._port = free_port(self._host, 0 if self._auto else self._port)
            try:
                await self._launch()
                break
            except errors.BrokerFailed:
                if not self._auto or attempt == PORT_TRIES - 1:
                    raise
        self._tasks.append(asyncio.create_task(self._supervise()))
        log.info("broker.started", engine=self.engine, address=self.address)

    async def set_user(self, name: str, password: str) -> None:
        """Let a user in; on return the broker knows it. Raises InvalidAddress, DiskFull, BrokerFailed."""
        self._users[self._foreign(name)] = mosquitto_password(password, self._world.random.randbytes(12))
        await self._publish()

    async def replace_users(self, lines: Mapping[str, str]) -> None:
        """Let in exactly these users, each with its ready-made hash; on return the broker knows.

        A malformed one is left out, so that it cannot keep the others away. Raises DiskFull, BrokerFailed.
        """
        wanted = {name: self._users[name] for name in (self.master, PROBE) if name in self._users}
        for name, line in lines.items():
            try:
                wanted[self._foreign(name)] = check_entry(line)
            except errors.InvalidAddress as error:
                log.warning("broker.user_left_out", user=name[:100], error=error.text)
        if wanted != self._users:
            self._users = wanted
            await self._publish()

    async def remove_user(self, name: str) -> None:
        """Let a user in no more; a connected one is cut off."""
        if self._users.pop(name, None) is not None:
            await self._publish()

    @property
    def users(self) -> frozenset[str]:
        """Who may connect, beside the master."""
        return frozenset(self._users) - {self.master, PROBE}

    async def close(self) -> None:
        """Stop it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._child is not None:
            await stop_child(self._child)
            self._child = None
        (self._folder / "broker.pid").unlink(missing_ok=True)

    def _foreign(self, name: str) -> str:
        if name in (self.master, PROBE):
            raise errors.InvalidAddress(f"{name!r} is the master's own MQTT user")
        return check_user(name)

    # --- files

    def _prepare(self) -> None:
        """Everything but the port, on disk."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._scheme == "mqtts":
            hosts = [self._host, "localhost", "127.0.0.1"]
            self.fingerprint = ServerCertificate.keep(self._folder, "broker", hosts, self._world.wall()).fingerprint
        write_private(self._folder / "broker.acl", acl(self.master).encode())
        known = parse_passwords((read_private(self._folder / "broker.users") or b"").decode())
        self._users = known | self._users
        self._users[self.master] = mosquitto_password(self._password, self._world.random.randbytes(12))
        write_private(self._folder / "broker.users", self._user_lines())

    def _user_lines(self) -> bytes:
        """The password file, with a fresh probe: whoever gets in with it has read this very file."""
        self._probe = self._world.random.randbytes(12).hex()
        self._users[PROBE] = mosquitto_password(self._probe, self._world.random.randbytes(12))
        return "".join(f"{name}:{entry}\n" for name, entry in self._users.items()).encode()

    def _write_config(self) -> Path:
        path = self._folder / ("broker.conf" if self.engine == MOSQUITTO else "broker.json")
        tls = self._scheme == "mqtts"
        if self.engine == MOSQUITTO:
            text = mosquitto_conf(self._folder, self._host, self._port, tls=tls, root=os.geteuid() == 0)
        else:
            files = {"users": "broker.users", "acl": "broker.acl", "certfile": "broker.crt", "keyfile": "broker.key"}
            where = {key: str(self._folder / name) for key, name in files.items()}
            text = json.dumps({"host": self._host, "port": self._port, "tls": tls, **where})
        write_private(path, text.encode())
        return path

    async def _publish(self) -> None:
        """Write the users and wait until the broker has read them; changes that come together are written together."""
        self._wanted += 1
        mine = self._wanted
        async with self._writing:
            if self._written >= mine:
                return
            now = self._wanted
            lines = self._user_lines()
            await self._world.offload(write_private, self._folder / "broker.users", lines)
            self._written = now
            if self._child is not None and self._child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._child.send_signal(signal.SIGHUP)
                await self._until_read(RELOAD_S)

    async def _until_read(self, patience_s: float) -> None:
        """Wait until the broker lets the newest probe in: it runs and has read the users. Raises BrokerFailed."""
        until = self._world.now() + patience_s
        while not await admitted(self._reach, self._port, PROBE, self._probe, tls=self._scheme == "mqtts"):
            if self._child is None or self._child.returncode is not None:
                raise errors.BrokerFailed(f"{self.engine} ended at once: {' / '.join(self._said) or 'no word'}")
            if self._world.now() > until:
                raise errors.BrokerFailed(f"{self.engine} does not answer on {self.address}")
            await asyncio.sleep(0.02)

    # --- the process

    async def _launch(self) -> None:
        config = await self._world.offload(self._write_config)
        limits = {} if self.engine == MOSQUITTO else {"RLIMIT_AS": CHILD_MEMORY}
        self._said.clear()
        child = await spawn_child(
            [*self._command, str(config)], limits=limits, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
        self._child = child
        listener = asyncio.create_task(self._listen(child))
        try:
            await self._world.offload(write_private, self._folder / "broker.pid", f"{child.pid}\n".encode())
            await self._until_read(START_S)
        except errors.MsrtError:
            await stop_child(child)
            raise
        finally:
            if child.returncode is not None:
                await listener
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(listener)

    async def _listen(self, child: Process) -> None:
        assert child.stderr is not None
        async for line in child.stderr:
            text = line.decode("utf-8", "replace").strip()[:500]
            self._said.append(text)
            log.debug("broker.said", engine=self.engine, text=text)

    async def _supervise(self) -> None:
        """Start it again whenever it dies."""
        pause = BACKOFF_S
        while True:
            assert self._child is not None
            since = self._world.now()
            status = await self._child.wait()
            pause = BACKOFF_S if self._world.now() - since > STEADY_S else min(pause * 2, BACKOFF_MAX_S)
            log.error("broker.died", engine=self.engine, status=status, said=" / ".join(self._said), again_in_s=pause)
            await asyncio.sleep(pause)
            self.restarts += 1
            try:
                await self._launch()
            except errors.MsrtError as error:
                log.error("broker.restart_failed", error=errors.words_of(error))  # noqa: TRY400 - the sentence says it all

    async def _end_stale(self) -> None:
        """End a broker of ours that outlived its master: only the process that our pid file names and our files run."""
        pid = stale(self._folder)
        if not pid:
            return
        log.warning("broker.stale", pid=pid)
        for number, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            until = self._world.now() + patience_s
            while stale(self._folder):
                if self._world.now() > until:
                    break
                await asyncio.sleep(0.02)
            else:
                return
