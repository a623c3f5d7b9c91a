"""What systemd hears of a process."""

from __future__ import annotations

import asyncio
import os
import socket

from msrt.supervisor import Supervisor


def listening(address):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.bind(address)
    one.settimeout(2)
    return one


def test_a_watchdog_hears_of_the_loop_more_often_than_it_asks_for(tmp_path):
    """Four times, so that a late one is none that was missed."""
    with listening(str(tmp_path / "notify")) as heard:
        supervisor = Supervisor({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "40000"})

        async def life():
            supervisor.watch(asyncio.get_running_loop())
            await asyncio.sleep(0.035)
            supervisor.close()

        asyncio.run(life())
        assert supervisor.pause_s == 0.01
        assert [heard.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2


def test_an_abstract_address_is_understood():
    """Its zero byte is written as @."""
    with listening(f"\0msrt-test-{os.getpid()}") as heard:
        Supervisor({"NOTIFY_SOCKET": f"@msrt-test-{os.getpid()}"}).say("READY=1")
        assert heard.recv(100) == b"READY=1"


def test_nobody_is_told_where_nobody_listens(tmp_path):
    """No socket, a socket that is gone, a watchdog that is another process's: nothing happens."""
    Supervisor({}).say("READY=1")
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "gone")}).say("READY=1")
    other = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert Supervisor(other).pause_s == 0
