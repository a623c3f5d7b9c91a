"""The broker that a master runs: it lives and dies with us."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from msrt import errors
from msrt.links import broker_host
from msrt.links.broker import Broker
from msrt.links.broker_external import ExternalBroker
from msrt.links.broker_files import Acl, acl, check_user, password_matches
from msrt.links.broker_probe import admitted
from msrt.trust.tls import mosquitto_password
from msrt.world.field import field_world
from tests.runtime.links.rig import MASTER, NODES, until

A, B = NODES["a"], NODES["b"]
ENGINES = ["mosquitto", "amqtt"]


def make(path, engine="mosquitto", listen="mqtt://127.0.0.1:0"):
    return Broker(field_world(path), path / "broker", master=MASTER, listen=listen, engine=engine)


def port_of(broker):
    return int(broker.address.rsplit(":", 1)[1])


async def lets_in(broker, user, password):
    return await admitted("127.0.0.1", port_of(broker), user, password, tls=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_users_come_in_while_it_runs_and_are_known_after_a_restart(tmp_path, engine):
    """`set_user` returns when the broker knows it; a new life of the master reads the same list."""

    async def scenario():
        broker = make(tmp_path, engine)
        await broker.start()
        assert not await lets_in(broker, A, "secret")
        await broker.set_user(A, "secret")
        assert await lets_in(broker, A, "secret")
        assert not await lets_in(broker, A, "other")
        await broker.close()
        again = make(tmp_path, engine)
        await again.start()
        assert again.users == {A}
        assert await lets_in(again, A, "secret")
        await again.close()

    asyncio.run(scenario())


def test_a_whole_list_of_users_replaces_the_old_one(tmp_path):
    """The broker knows what the journal says; a malformed line keeps no other away, nor the master out."""

    async def scenario():
        broker = make(tmp_path)
        await broker.start()
        await broker.set_user(A, "old")
        await broker.replace_users({B: mosquitto_password("new", b"0123456789ab")})
        assert broker.users == {B}
        assert await lets_in(broker, B, "new")
        assert not await lets_in(broker, A, "old")
        assert await lets_in(broker, MASTER, broker.credentials().password)
        good = mosquitto_password("x", b"0123456789ab")
        wrong = {MASTER: good, "probe": good, "a:b": good, A: f"{good}\n{MASTER}:{good}", "c": "plain"}
        await broker.replace_users({**wrong, "d": good})
        assert broker.users == {"d"}
        assert await lets_in(broker, MASTER, broker.credentials().password)
        with pytest.raises(errors.InvalidAddress):
            await broker.set_user(MASTER, "mine")
        await broker.close()

    asyncio.run(scenario())


def test_users_that_come_together_are_all_known(tmp_path):
    """A wave of enrolments shares a few rewrites of the file."""

    async def scenario():
        broker = make(tmp_path)
        await broker.start()
        names = [f"invite-{number}" for number in range(40)]
        await asyncio.gather(*(broker.set_user(name, name) for name in names))
        assert broker.users == set(names)
        assert all([await lets_in(broker, name, name) for name in names])
        await broker.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_started_again_on_its_port(tmp_path, engine):
    """A broker that dies comes back with the same port and the same users."""

    async def scenario():
        broker = make(tmp_path, engine)
        await broker.start()
        await broker.set_user(A, "secret")
        address = broker.address
        broker._child.kill()
        await until(lambda: broker.restarts, 10.0)
        async with asyncio.timeout(10.0):
            while not await lets_in(broker, A, "secret"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert broker.address == address
        await broker.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("engine", ENGINES)
def test_it_listens_where_it_says_and_nowhere_else(tmp_path, engine):
    """One listening socket: an option in the wrong place makes mosquitto open 0.0.0.0:1883 too."""

    async def scenario():
        broker = make(tmp_path, engine)
        await broker.start()
        ports = psutil.Process(broker._child.pid).net_connections("inet")
        await broker.close()
        listening = [tuple(port.laddr) for port in ports if port.status == psutil.CONN_LISTEN]
        assert listening == [("127.0.0.1", port_of(broker))]

    asyncio.run(scenario())


PARENT_PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.runtime.links.test_broker import make

async def main():
    broker = make(Path(sys.argv[1]), sys.argv[2])
    await broker.start()
    print(broker._child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_it_dies_with_its_master(tmp_path, engine):
    """SIGKILL of the master leaves no broker behind."""
    master = subprocess.Popen([sys.executable, "-c", PARENT_PROGRAM, str(tmp_path), engine], stdout=subprocess.PIPE)
    with master:
        lines = iter(master.stdout.readline, b"")
        pid = next(int(line) for line in lines if line.strip().isdigit())
        assert Path(f"/proc/{pid}").exists()
        master.kill()
    deadline = time.monotonic() + 3
    while Path(f"/proc/{pid}").exists() and "Z (" not in _state(pid):
        assert time.monotonic() < deadline, "the broker outlived its master"
        time.sleep(0.01)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text().split("State:")[1].splitlines()[0].strip()
    except OSError:
        return "Z (gone)"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_port_in_use_is_said(tmp_path, engine):
    """PortInUse, before anything is started."""

    async def scenario():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            broker = make(tmp_path, engine, f"mqtt://127.0.0.1:{taken.getsockname()[1]}")
            with pytest.raises(errors.PortInUse):
                await broker.start()

    asyncio.run(scenario())


def test_a_stale_broker_of_ours_is_ended(tmp_path):
    """A broker that an earlier life left on the port, and that its pid file names, makes room."""

    async def scenario():
        first = make(tmp_path)
        await first.start()
        child = first._child
        first._tasks.pop().cancel()  # nobody looks after it any more
        second = make(tmp_path, listen=first.address)
        await second.start()
        assert await child.wait() is not None
        await second.close()
        for task in first._tasks:
            task.cancel()

    asyncio.run(scenario())


def test_a_foreign_process_under_our_pid_is_left_alone(tmp_path):
    """Pids are used again: a pid file is believed only if that process runs our files."""
    folder = tmp_path / "broker"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        (folder / "broker.pid").write_text(f"{sleeper.pid}\n")
        assert broker_host.stale(folder) == 0
        sleeper.kill()
    for text in ("", "x", "999999999"):
        (folder / "broker.pid").write_text(text)
        assert broker_host.stale(folder) == 0


def test_a_broker_that_cannot_run_says_why(tmp_path):
    """BrokerFailed with the program's last words."""

    async def scenario():
        broker = make(tmp_path)
        broker._command = ["/bin/sh", "-c", "echo no such luck >&2; exit 3"]
        broker._auto = False
        broker._port = broker_host.free_port("127.0.0.1", 0)
        with pytest.raises(errors.BrokerFailed, match="no such luck"):
            await broker.start()

    asyncio.run(scenario())


def test_files_are_private(tmp_path):
    """Passwords and keys are for their owner only, and no password is written in the clear."""

    async def scenario():
        broker = make(tmp_path, listen="mqtts://127.0.0.1:0")
        await broker.start()
        await broker.set_user(A, "secret")
        await broker.close()
        assert len(broker.fingerprint) == 64
        for file in (tmp_path / "broker").iterdir():
            assert oct(file.stat().st_mode)[-3:] == "600", file
            assert b"secret" not in file.read_bytes()
        again = make(tmp_path, listen="mqtts://127.0.0.1:0")
        again._prepare()
        assert again.fingerprint == broker.fingerprint

    asyncio.run(scenario())


def test_it_does_not_listen_in_the_clear_off_loopback(tmp_path):
    """MQTT off loopback is TLS, for our broker and for a foreign one."""
    with pytest.raises(errors.InvalidConfig, match="mqtts://"):
        make(tmp_path, listen="mqtt://0.0.0.0:1883")
    with pytest.raises(errors.InvalidConfig, match="mqtts://"):
        ExternalBroker("mqtt://broker.example", master=MASTER, username="edge", password="x")
    with pytest.raises(errors.InvalidAddress):
        make(tmp_path, listen="tcp://127.0.0.1:1")


def test_mosquitto_is_found_where_packages_put_it(monkeypatch):
    """In /usr/sbin too, which the PATH of a user often lacks; else amqtt; else a sentence that helps."""
    seen = []

    def which(name, path=None):
        seen.append(path)
        return None if path is None else f"/usr/sbin/{name}"

    monkeypatch.setattr(broker_host.shutil, "which", which)
    assert broker_host.find_engine() == ("mosquitto", ["/usr/sbin/mosquitto", "-c"])
    monkeypatch.setattr(broker_host.shutil, "which", lambda *_args, **_keys: None)
    assert broker_host.find_engine()[0] == "amqtt"
    monkeypatch.setattr(broker_host.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(errors.BrokerFailed, match="install mosquitto"):
        broker_host.find_engine()


def test_the_acl_keeps_nodes_apart():
    """What mosquitto is told, read as our own guard reads it."""
    rules = Acl(acl(MASTER))
    base = f"msrt/{MASTER}"
    assert rules.allows(A, "write", f"{base}/up/{A}")
    assert rules.allows(A, "write", f"{base}/gone/{A}")
    assert rules.allows(A, "read", f"{base}/down/{A}")
    assert rules.allows(A, "read", f"{base}/gone/{MASTER}")
    assert rules.allows(MASTER, "read", f"{base}/up/+")
    assert rules.allows(MASTER, "write", f"{base}/down/{A}")
    for access, topic in [
        ("write", f"up/{B}"), ("write", f"down/{A}"), ("write", f"gone/{B}"), ("write", f"gone/{MASTER}"),
        ("read", f"down/{B}"), ("read", "down/+"), ("read", "up/+"), ("read", "#"), ("read", f"up/{A}"),
    ]:  # fmt: skip
        assert not rules.allows(A, access, f"{base}/{topic}"), topic
    for user in ("+", "#", "%u"):
        assert not rules.allows(user, "read", f"{base}/down/{user}")
    assert not rules.allows(A, "read", "#")
    assert not rules.allows(A, "write", f"msrt/{B}/up/{A}")


def test_an_external_broker_is_told_what_it_needs():
    """Its ACL names the user that the master connects as."""
    broker = ExternalBroker("mqtts://broker.example:8883", master=MASTER, username="edge-7", password="x")
    rules = Acl(broker.rules)
    assert rules.allows("edge-7", "write", f"msrt/{MASTER}/down/{A}")
    assert not rules.allows(MASTER, "write", f"msrt/{MASTER}/down/{A}")
    assert broker.credentials().username == "edge-7"
    assert broker.credentials().master == MASTER
    assert not broker.managed


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "+", "a\nb", "UPPER", "%u", "-x", "x" * 200])
def test_a_user_name_that_could_break_out_is_refused(name):
    """No topic level, wildcard, pattern or line break in a name."""
    with pytest.raises(errors.InvalidAddress):
        check_user(name)


def test_password_entries_are_checked():
    """The hash that trust writes is the one that the guard reads; anything odd is a no."""
    entry = mosquitto_password("secret", b"0123456789ab")
    assert password_matches(entry, "secret")
    assert not password_matches(entry, "Secret")
    for odd in ("", "$7$", "$6$1$a$b", "$7$x$aaaa$aaaa", "$7$101$!$!", entry[:-4]):
        assert not password_matches(odd, "secret")
