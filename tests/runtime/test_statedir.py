from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from msrt.errors import Corrupt, InvalidConfig, StateForeign, StateLocked, StateNewer, StateUnusable
from msrt.process import StateDir, default_state, split_address


def modes(path):
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()}


def test_a_new_directory_is_private(tmp_path):
    """It is made with its parents; only its owner may look inside."""
    path = tmp_path / "a" / "b"
    with StateDir.open(path, "edge", "tree-1") as state:
        assert (state.role, state.tree) == ("edge", "tree-1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert modes(path) == {"lock": 0o600, "owner.json": 0o600}


def test_an_open_directory_is_made_private(tmp_path):
    """An empty one that exists is taken, and closed to others."""
    tmp_path.chmod(0o755)
    with StateDir.open(tmp_path, "edge"):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_two_in_one_process_are_refused(tmp_path):
    """The lock is on the open file, so it holds within a process as well; closing frees it."""
    with StateDir.open(tmp_path, "edge"), pytest.raises(StateLocked, match=f"pid {os.getpid()}.*--state"):
        StateDir.open(tmp_path, "edge")
    StateDir.open(tmp_path, "edge").close()


def test_two_processes_on_one_directory(tmp_path):
    """The second is refused and told who has it; a killed holder leaves nothing that must be cleaned up."""
    code = (
        "import sys; from pathlib import Path; from msrt.process import StateDir;"
        "s = StateDir.open(Path(sys.argv[1]), 'edge'); s.remember('http', 8123); print('held', flush=True);"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StateLocked, match=f"pid {child.pid}"):
            StateDir.open(tmp_path, "edge")
        child.send_signal(signal.SIGKILL)
    with StateDir.open(tmp_path, "edge") as state:
        assert state.port("http") == 8123


def test_another_role_is_refused(tmp_path):
    """A device cannot use an edge's directory."""
    StateDir.open(tmp_path, "edge").close()
    with pytest.raises(StateForeign, match="role 'edge', not 'device'"):
        StateDir.open(tmp_path, "device")
    StateDir.open(tmp_path, "edge").close()


def test_another_tree_is_refused(tmp_path):
    """Nor one that belongs to another cloud; who asks for none in particular gets what is there."""
    StateDir.open(tmp_path, "edge", "tree-1").close()
    with pytest.raises(StateForeign, match="tree-1"):
        StateDir.open(tmp_path, "edge", "tree-2")
    with StateDir.open(tmp_path, "edge") as state:
        assert state.tree == "tree-1"
        with pytest.raises(StateForeign):
            state.adopt("tree-2")


def test_a_tree_is_adopted_once_and_kept(tmp_path):
    """After the join the directory knows its tree."""
    with StateDir.open(tmp_path, "edge") as state:
        assert state.tree == ""
        state.adopt("tree-1")
    with StateDir.open(tmp_path, "edge") as state:
        assert state.tree == "tree-1"


def test_somebody_elses_files_are_left_alone(tmp_path):
    """`--state ~` by mistake neither closes nor fills the home directory."""
    (tmp_path / "diary.txt").write_text("dear diary")
    tmp_path.chmod(0o755)
    with pytest.raises(StateForeign, match="not msrt's"):
        StateDir.open(tmp_path, "edge")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert [entry.name for entry in tmp_path.iterdir()] == ["diary.txt"]


def test_a_newer_state_is_left_alone(tmp_path):
    """Whatever a later msrt wrote, its version is understood, and not a byte of it is changed."""
    StateDir.open(tmp_path, "edge").close()
    later = json.dumps({"version": 99, "role": ["a", "b"], "new": {}})
    (tmp_path / "owner.json").write_text(later)
    with pytest.raises(StateNewer, match=r"version 99.*upgrade msrt"):
        StateDir.open(tmp_path, "edge")
    assert (tmp_path / "owner.json").read_text() == later


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "x"}', '{"version": 1}', "\x00"])
def test_a_damaged_owner_file_is_corrupt(tmp_path, content):
    """It is reported, not overwritten: the rest of the directory may be whole."""
    StateDir.open(tmp_path, "edge").close()
    (tmp_path / "owner.json").write_text(content)
    with pytest.raises(Corrupt, match=r"owner\.json is damaged"):
        StateDir.open(tmp_path, "edge")
    assert (tmp_path / "owner.json").read_text() == content


def test_a_refusal_frees_the_lock(tmp_path):
    """Who was refused does not keep others out."""
    StateDir.open(tmp_path, "edge").close()
    for _ in range(2):
        with pytest.raises(StateForeign):
            StateDir.open(tmp_path, "device")


def test_a_crash_at_the_first_start_is_harmless(tmp_path):
    """A lock and a half-written draft are a new directory still."""
    (tmp_path / "lock").write_text("123\n")
    (tmp_path / "owner.json.new").write_text('{"ver')
    with StateDir.open(tmp_path, "edge"):
        assert sorted(modes(tmp_path)) == ["lock", "owner.json"]


def test_a_path_that_cannot_be_a_directory(tmp_path):
    """A file in the way is named."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StateUnusable, match="file"):
            StateDir.open(path, "edge")


def test_ports_are_remembered_by_listener(tmp_path):
    """An unnamed listener gets loopback and, after a restart, its old port; a named one gets what was named."""
    with StateDir.open(tmp_path, "edge") as state:
        assert state.address("http") == ("127.0.0.1", 0)
        state.remember("http", 8123)
        state.remember("mqtt", 1884)
    with StateDir.open(tmp_path, "edge") as state:
        assert state.address("http") == ("127.0.0.1", 8123)
        assert state.address("http", "0.0.0.0:0") == ("0.0.0.0", 8123)
        assert state.address("http", "127.0.0.1:9000") == ("127.0.0.1", 9000)
        assert state.port("mqtt") == 1884
        assert state.port("listen") == 0


def test_addresses_are_read():
    """Host and port, IPv6 in brackets; an empty host is every interface."""
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address(":80") == ("0.0.0.0", 80)
    for bad in ("80", "host", "host:", "host:x", "host:70000", "::1:80", "host:-1", "host:\u0663"):
        with pytest.raises(InvalidConfig, match="HOST:PORT"):
            split_address(bad)


def test_the_default_follows_xdg(monkeypatch, tmp_path):
    """$XDG_STATE_HOME, or ~/.local/state."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state("edge") == tmp_path / "msrt" / "edge"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state("cloud") == tmp_path / ".local" / "state" / "msrt" / "cloud"
