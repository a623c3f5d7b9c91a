"""A device forgets everything: a factory reset, or an order that the cloud signed."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from msrt.errors import NotFound, Revoked, StateForeign, StateLocked
from msrt.process import StateDir
from msrt.statedir import GONE
from msrt.trust.identity import Identity, Purpose
from msrt_device import wiping
from msrt_device.command import device as command
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings
from msrt_device.wiping import begun, decommission, decommissioned, reset, wipe
from tests.device.rig import simulate, until
from tests.runtime.hop.tree import CLOUD, identity


def ordered(by=CLOUD, node="d"):
    error = Revoked("d was removed from the tree")
    error.order = by.sign(identity(node).node.encode(), Purpose.WIPE)
    return error


@pytest.mark.parametrize(
    ("error", "wipes"),
    [
        (ordered(), True),
        (Revoked("d was removed from the tree"), False),
        (ordered(by=Identity(b"8" * 32, b"9" * 32)), False),
        (ordered(node="another"), False),
    ],
)
def test_only_the_cloud_can_have_a_device_wiped(error, wipes):
    """A plain revocation, another's signature, an order for another device: it is sent away, and keeps what it has."""

    async def scenario(rig):
        device = rig.device
        rig.edge.down.expel(identity("d").node, error)
        await until(lambda: isinstance(device.uplink.refused, Revoked))
        assert device.decommissioned is wipes
        assert device.uplink.closing is wipes

    simulate(scenario)


@pytest.fixture
def state(tmp_path):
    """A device's directory with all that one has."""
    folder = tmp_path / "state"
    StateDir.open(folder, "device").close()
    Identity.generate(bytes).save(folder / "identity.json")
    for name in ("node.sqlite", "node.sqlite-wal", "events.sqlite", "blobs/ab/abcd", "jobs/j/data"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"secret")
    (folder / "blobs" / "link").symlink_to(tmp_path)
    return folder


def test_a_reset_leaves_nothing_and_the_keys_are_zeros(state):
    """Whoever held the files open sees zeros; the directory may be anybody's afterwards."""
    with (state / "identity.json").open("rb") as keys, (state / "node.sqlite").open("rb") as members:
        done = CliRunner().invoke(reset, ["--state", str(state), "--yes"])
        assert done.exit_code == 0, done.output
        assert set(keys.read()) == set(members.read()) == {0}
    assert [path.name for path in state.iterdir()] == ["lock"]
    assert state.parent.is_dir()
    StateDir.open(state, "edge").close()


def test_a_decommissioned_device_whose_identity_is_wiped_ends_as_one(state, tmp_path):
    """Also at its next starts: whoever starts it gives up. Without a word of it a missing identity is a fault."""
    argv = ["join", "--identity", str(tmp_path), "--state"]
    assert isinstance(CliRunner().invoke(command, [*argv, str(tmp_path / "new")]).exception, NotFound)
    decommission(state)
    done = CliRunner().invoke(command, [*argv, str(state)])
    assert done.exit_code == wiping.Decommissioned.exit_status
    assert "was decommissioned" in done.output


def test_a_decommissioned_device_is_known_as_one_until_it_is_reset(state):
    """A word of it stays, and nothing else; after a reset the directory is anybody's."""
    decommission(state)
    assert decommissioned(state)
    assert {path.name for path in state.iterdir()} == {"lock", GONE}
    StateDir.open(state, "device").close()
    done = CliRunner().invoke(reset, ["--state", str(state), "--yes"])
    assert done.exit_code == 0, done.output
    assert not decommissioned(state)
    StateDir.open(state, "edge").close()


def test_a_reset_asks_first_and_can_be_said_no_to(state):
    """Nothing is touched."""
    done = CliRunner().invoke(reset, ["--state", str(state)], input="n\n")
    assert done.exit_code == 1
    assert (state / "identity.json").exists()


def test_a_reset_wipes_the_board_too(state, tmp_path):
    """Its Wi-Fi password and its name."""
    (tmp_path / "msrtid").mkdir()
    file = tmp_path / "msrtid" / IDENTITY_FILE
    file.write_text(IdentitySettings(name="oven-7").render())
    with file.open("rb") as old:
        CliRunner().invoke(reset, ["--state", str(state), "--identity", str(file.parent), "--yes"])
        assert set(old.read()) == {0}
    assert not file.exists()


def test_a_running_device_and_a_stranger_s_directory_are_not_wiped(state, tmp_path):
    """The one is held, the other is not a device's."""
    with StateDir.open(state, "device"):
        assert isinstance(CliRunner().invoke(reset, ["--state", str(state), "--yes"]).exception, StateLocked)
    assert (state / "identity.json").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "photo.jpg").write_bytes(b"precious")
    done = CliRunner().invoke(reset, ["--state", str(tmp_path / "home"), "--yes"])
    assert isinstance(done.exception, StateForeign)
    assert (tmp_path / "home" / "photo.jpg").exists()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_wipe_that_was_cut_off_is_known_and_goes_on(state, monkeypatch, after):
    """At whichever removal it dies: the keys are gone first, and the mark stays until all is."""
    left = iter(range(after))

    def dies(path):
        if next(left, None) is None:
            raise OSError(5, "the power went")
        remove(path)

    remove = wiping._remove
    monkeypatch.setattr(wiping, "_remove", dies)
    with pytest.raises(OSError, match="power"):
        wipe(state)
    assert begun(state)
    assert not (state / "identity.json").exists()
    monkeypatch.undo()
    wipe(state, IdentityFolder(state.parent / "nowhere"))
    assert not begun(state)
    assert [path.name for path in state.iterdir()] == ["lock"]
