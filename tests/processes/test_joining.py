"""Who gets in, who does not, and what each is told."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from msrt.trust.invite import Invite
from tests.bench.tree import MSRT


def refused(*argv, state):
    """The one sentence on stderr of a command that must fail."""
    done = subprocess.run([MSRT, *argv, "--state", str(state)], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def alive(tree):
    return {row["name"] for row in json.loads(tree.cli("node", "list", "--json")) if row["alive"]}


def test_an_invite_is_spent_by_its_first_use(tree):
    """A second node with the same invite is told that it is spent; the first comes back without one."""
    invite = tree.invite("edge", "--region", "north")
    tree.start("e1", "edge", "join", invite, "--name", "e1")
    assert "was used before" in refused("edge", "join", invite, "--name", "e2", state=tree.path / "e2")
    tree.procs["e1"].stop()
    tree.start("e1", "edge", "join")


def test_forged_and_expired_invites_are_refused(tree):
    """Each is refused with a sentence of its own, before anything is started."""
    invite = tree.invite("edge", "--region", "north")
    forged = invite[:-8] + ("AAAAAAAA" if invite[-8:] != "AAAAAAAA" else "BBBBBBBB")
    assert "was changed" in refused("edge", "join", forged, state=tree.path / "e1")
    late = tree.invite("edge", "--region", "north", "--hours", "0.0001")
    time.sleep(0.4)  # longer than the invite lives
    assert "expired" in refused("edge", "join", late, state=tree.path / "e2")


def test_a_device_needs_an_edge_first(tree):
    """No invite is made that could not be used."""
    done = subprocess.run(
        [MSRT, "invite", "device", "--region", "north", "--state", str(tree.path / "cloud")],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no edge in the region 'north'" in done.stderr


def test_two_edges_share_a_host_and_devices_join_on_both_links(tree):
    """Ports are found, kept and used again; a device is enrolled over MQTT as over ZeroMQ."""
    first, second = tree.edge("e1", "north"), tree.edge("e2", "south")
    assert len({first.field("zmq"), second.field("zmq")}) == 2
    tree.device("d1", "north")
    tree.device("d2", "south", "--link", "mqtt")
    assert {"e1", "e2", "d1", "d2"} <= alive(tree)
    before = first.field("zmq")
    first.stop()
    assert tree.start("e1", "edge", "join").field("zmq") == before


def test_a_state_directory_has_one_owner(tree):
    """A second process, another role, a newer version: each is refused by name, and the first lives on."""
    assert "another process" in refused("cloud", "start", state=tree.path / "cloud")
    tree.edge("e1", "north")
    tree.procs["e1"].stop()
    assert "role" in refused("device", "join", state=tree.path / "e1")
    owner = tree.path / "e1" / "owner.json"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "version": 99}))
    assert "newer" in refused("edge", "join", state=tree.path / "e1")
    assert tree.procs["cloud"].popen.poll() is None


def test_an_edge_that_advertises_a_host_is_invited_to_there_from_its_first_moment(tree):
    """Behind a translated address nobody could reach where it listens."""
    edge = tree.edge("e1", "north", "--set", "advertise=198.51.100.7")
    (parent,) = Invite.parse(tree.invite("device", "--region", "north"), time.time()).parents
    assert parent.zmq == edge.field("zmq")
    assert parent.zmq.startswith("tcp://198.51.100.7:")


@pytest.mark.parametrize("flag", ["--listen", "--http"])
def test_a_port_in_use_is_named(tree, flag):
    """The sentence names the port; the process does not start."""
    url = tree.procs["cloud"].field("http").removeprefix("http://")
    assert url.rpartition(":")[2] in refused("cloud", "start", flag, url, state=tree.path / "other")
