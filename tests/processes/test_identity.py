"""A board with an identity of its own: it enrols at its first start, and needs no claim afterwards."""

from __future__ import annotations

import json
import subprocess

import pytest

from msrt.statedir import GONE
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings
from msrt_device.wiping import Decommissioned
from tests.bench.tree import MSRT, Proc, until
from tests.device.flash.media import disk, packed, run, tools


@pytest.mark.slow
def test_a_board_enrols_with_its_claim_wipes_it_and_starts_again_without(tree):
    """Name and labels are the board's."""
    tree.edge("e1", "north")
    folder = tree.path / "msrtid"
    folder.mkdir()
    settings = IdentitySettings(
        invite=tree.invite("device", "--region", "north"), name="oven-7", labels={"site": "a"}, serial="SN-0042"
    )
    (folder / IDENTITY_FILE).write_text(settings.render())
    first = tree.start("d1", "device", "join", "--identity", str(folder))
    assert IdentityFolder(folder).read() == settings.without_claim()
    first.stop()
    again = tree.start("d1", "device", "join", "--identity", str(folder))
    row = next(row for row in json.loads(tree.cli("node", "list", "--json")) if row["role"] == "device")
    assert (row["name"], row["labels"]["site"]) == ("oven-7", "a")
    again.stop()
    (folder / IDENTITY_FILE).unlink()  # FAT has no journal: a power cut may take a file with it
    tree.start("d1", "device", "join", "--identity", str(folder))
    assert "goes on with what is in its state directory" in tree.procs["d1"].log.read_text()


@tools
@pytest.mark.slow
def test_what_was_flashed_joins_a_real_edge(tree, tmp_path):
    """The identity as mtools takes it from the medium, mounted as a board would."""
    tree.edge("e1", "north")
    base, out, mounted = packed(tmp_path, disk(tmp_path), ".zst"), tmp_path / "out.img", tmp_path / "msrtid"
    invite = tree.invite("device", "--region", "north")
    argv = [MSRT, "device", "flash", base, out, "--invite", invite, "--name", "oven-8", "--yes", "--json"]
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["verified"] is True
    mounted.mkdir()
    run("mcopy", "-i", f"{out}@@3M", f"::{IDENTITY_FILE}", mounted)
    tree.start("d1", "device", "join", "--identity", str(mounted))
    assert "ready oven-8" in tree.procs["d1"].log.read_text()
    assert IdentityFolder(mounted).read().spent


@tools
@pytest.mark.slow
def test_a_certificate_that_was_issued_beforehand_is_taken_over_and_wiped(tree, tmp_path):
    """The board shows it at its first start, with nobody to enrol it: the cloud is away."""
    tree.edge("e1", "north")
    out, mounted = tmp_path / "out.img", tmp_path / "msrtid"
    out.write_bytes(disk(tmp_path))
    invite = tree.invite("device", "--region", "north")
    argv = [MSRT, "device", "flash", "--identity-only", out, "--invite", invite, "--name", "oven-9", "--issue", "--yes"]
    subprocess.run([str(one) for one in argv], capture_output=True, text=True, timeout=60, check=True)
    tree.procs["cloud"].stop()
    mounted.mkdir()
    run("mcopy", "-i", f"{out}@@3M", "::*", mounted)
    assert len(list(mounted.iterdir())) == 3
    tree.start("d1", "device", "join", "--identity", str(mounted))
    assert "ready oven-9" in tree.procs["d1"].log.read_text()
    assert [path.name for path in mounted.iterdir()] == [IDENTITY_FILE]
    tree.procs["d1"].stop()
    tree.start("d1", "device", "join", "--identity", str(mounted))


@pytest.mark.slow
def test_a_decommissioned_device_wipes_itself_now_or_when_it_next_connects(tree):
    """Over both links; the inventory knows it by its serial number until then."""
    tree.edge("e1", "north", "--mqtt", "127.0.0.1:0")
    for name, link in (("d1", "zmq"), ("d2", "mqtt")):
        tree.device(name, "north", "--link", link, "--set", f"serial=SN-{name}")
    until("serials", lambda: json.loads(tree.cli("node", "show", "SN-d2", "--json"))["name"] == "d2")
    tree.procs["d2"].stop()
    assert json.loads(tree.cli("node", "show", "d2", "--json"))["serial"] == "SN-d2"
    assert "was told to wipe itself" in tree.cli("node", "decommission", "d1", "--yes")
    assert "when it connects" in tree.cli("node", "decommission", "d2", "--yes")
    tree.procs["d2"] = Proc(
        [MSRT, "device", "join", "--link", "mqtt", "--state", str(tree.path / "d2")], tree.path / "d2b.log"
    )
    for name in ("d1", "d2"):
        assert tree.procs[name].popen.wait(30) == Decommissioned.exit_status
        assert "decommissioned" in tree.procs[name].log.read_text()
        assert {path.name for path in (tree.path / name).iterdir()} == {"lock", GONE}
    assert {row["role"] for row in json.loads(tree.cli("node", "list", "--json"))} == {"edge"}


@pytest.mark.slow
def test_a_batch_gets_its_claims_from_the_cloud(tree, tmp_path):
    """Any of them joins, once."""
    tree.edge("e1", "north")
    argv = ["--identity-only", str(tmp_path / "boards"), "--count", "20", "--name", "oven", "--serial", "SN-"]
    told = tree.cli("device", "flash", *argv, "--csv", str(tmp_path / "m.csv"), "--region", "north", "--json")
    assert json.loads(told.splitlines()[-1])["made"] == 20
    mounted = tmp_path / "msrtid"
    mounted.mkdir()
    (tmp_path / "boards" / "oven-07.toml").rename(mounted / IDENTITY_FILE)
    tree.start("d1", "device", "join", "--identity", str(mounted))
    until("serial", lambda: json.loads(tree.cli("node", "show", "SN-07", "--json"))["name"] == "oven-07")
