"""Keys and certificate that were made beforehand: taken over once, by the board that they are for."""

from __future__ import annotations

import pytest

from msrt.errors import BadSignature
from msrt.joining import IDENTITY, Membership
from msrt.protocol import wire
from msrt.world.files import FieldDisk
from msrt_device.flash.identity.folder import IdentityFolder, IdentityUnusable
from msrt_device.flash.identity.issued import ISSUED, take_issued
from msrt_device.flash.identity.medium import SettingNotTaken, read_identity, write_identity
from msrt_device.flash.identity.settings import IdentitySettings
from tests.device.flash.media import disk, tools
from tests.device.flash.test_volumes import Live
from tests.runtime.hop.tree import CLOUD, certificate, identity


def files(name, of=None):
    membership = Membership(certificate(of or name), CLOUD.public, (), name, "device", "north")
    return dict(zip(ISSUED, (identity(name).to_bytes(), wire.pack(membership)), strict=True))


@pytest.fixture
def board(tmp_path):
    """A mounted identity with what was issued for "d", and a state directory beside it."""
    (tmp_path / "state").mkdir()
    folder = tmp_path / "msrtid"
    folder.mkdir()
    for name, data in files("d").items():
        (folder / name).write_bytes(data)
    return IdentityFolder(folder)


def member(state):
    found = FieldDisk(state)
    membership = Membership.load(found.store("node"))
    found.close()
    return membership


def test_a_board_takes_over_what_was_issued_and_wipes_it(board, tmp_path):
    """Once; whoever held the keys' file open sees zeros."""
    state = tmp_path / "state"
    with (board.path / IDENTITY).open("rb") as keys:
        assert take_issued(state, board)
        assert set(keys.read()) == {0}
    assert member(state).name == "d"
    assert (state / IDENTITY).read_bytes() == identity("d").to_bytes()
    assert list(board.path.iterdir()) == []
    assert not take_issued(state, board)


@pytest.mark.parametrize("gone", [(), (IDENTITY,)])
def test_a_power_cut_on_the_way_is_made_up_for(board, tmp_path, gone):
    """Before anything was wiped, or with the keys wiped and the certificate still there."""
    state = tmp_path / "state"
    assert take_issued(state, board)
    for name, data in files("d").items():
        if name not in gone:
            (board.path / name).write_bytes(data)
    assert take_issued(state, board)
    assert member(state).name == "d"
    assert list(board.path.iterdir()) == []


def test_a_device_that_has_an_identity_keeps_it(board, tmp_path):
    """What was issued for it stays, too."""
    identity("other").save(tmp_path / "state" / IDENTITY)
    assert not take_issued(tmp_path / "state", board)
    assert (tmp_path / "state" / IDENTITY).read_bytes() == identity("other").to_bytes()
    assert len(list(board.path.iterdir())) == 2


def test_a_certificate_of_another_node_or_no_certificate_is_refused(board, tmp_path):
    """Each by its own error."""
    (board.path / ISSUED[1]).write_bytes(files("d", of="x")[ISSUED[1]])
    with pytest.raises(BadSignature):
        take_issued(tmp_path / "state", board)
    (board.path / ISSUED[1]).write_bytes(b"\xc0")
    with pytest.raises(IdentityUnusable):
        take_issued(tmp_path / "state", board)


@tools
def test_what_was_issued_is_read_back_and_goes_with_the_next_identity(tmp_path):
    """A file that did not take is an error that names it; an identity with a claim removes old keys."""
    data = disk(tmp_path)
    medium = Live(len(data), content=data)
    write_identity(medium, len(data), IdentitySettings(name="d", spent=True), files("d"))
    assert identity("d").to_bytes() in medium.held
    write_identity(medium, len(data), IdentitySettings(name="d", invite="msrt1-x"))
    assert identity("d").to_bytes() not in medium.held
    assert read_identity(medium, len(data)).invite == "msrt1-x"

    class Forgets(Live):
        def write(self, offset, data):
            super().write(offset, memoryview(bytes(data).replace(b'"seed"', b'"sEEd"')))

    with pytest.raises(SettingNotTaken, match=IDENTITY):
        write_identity(Forgets(len(data), content=data), len(data), IdentitySettings(name="d", spent=True), files("d"))
