"""The board's identity: what its file may say, and how a boot spends the claim in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.config import load
from msrt.errors import InvalidConfig, NotFound
from msrt.settings import DeviceConfig
from msrt_device.flash.identity.claim import remember_claim, settle_claim
from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings, InvalidIdentity, Wifi

INVITE = "msrt1-" + "A" * 300
FULL = IdentitySettings(
    invite=INVITE, name="oven-7", region="north", serial="SN-0042", locale="de_DE.UTF-8", timezone="Europe/Berlin",
    labels={"site": "a", "rack/row": "3"}, wifi=Wifi(ssid='Halle "7" \\ Süd', password="correct horse", country="DE"),
)  # fmt: skip
printable = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=8)
written = st.builds(
    IdentitySettings,
    invite=st.text(st.characters(exclude_categories=("Cs",)), max_size=20), name=st.sampled_from(["", "a", "a-1"]),
    labels=st.dictionaries(st.sampled_from(["a", "b.c", "d/e"]), st.sampled_from(["1", "x:y"])),
    wifi=st.builds(Wifi, ssid=printable.filter(bool), password=st.sampled_from(["", 'a"b\\c#{}[]'])),
)  # fmt: skip


@given(written)
def test_what_is_written_is_read(settings):
    """Whatever characters stand in it."""
    assert IdentitySettings.parse(settings.render()) == settings


def test_every_setting_survives():
    """Tables, quotes and umlauts too."""
    assert IdentitySettings.parse(FULL.render()) == FULL
    assert FULL.flat()["wifi.ssid"] == 'Halle "7" \\ Süd'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('nmae = "a"', "did you mean 'name'"),
        ('[wifi]\nssid = "x"\npasword = "y"', "did you mean 'password'"),
        ('timezone = "Europe/Berlin; reboot"', "timezone"),
        ('locale = "de_DE.UTF-8\\n"', "locale"),
        ('serial = "$(reboot)"', "serial"),
        ('name = "Upper"', "lower-case"),
        ('[labels]\n"Bad Key" = "x"', "label"),
        ('[wifi]\nssid = "x"\npassword = "short"', "wifi.password"),
        ('[wifi]\npassword = "long enough"', "ssid"),
        ('spent = true\ninvite = "x"', "spent"),
        ("spent = 1", "spent"),
        ("name = ", "not TOML"),
    ],
)
def test_a_bad_identity_names_its_fault(text, said):
    """And the file that it stands in."""
    with pytest.raises(InvalidIdentity, match=r"identity\.toml") as raised:
        IdentitySettings.parse(text)
    assert said in str(raised.value)


def test_no_secret_is_shown():
    """Neither the claim nor the Wi-Fi's password are in a repr."""
    assert INVITE not in repr(FULL)
    assert "correct horse" not in repr(FULL)


def test_the_command_line_wins_over_the_board_and_the_board_over_the_file(tmp_path):
    """So one image's config serves every board."""
    file = tmp_path / "device.toml"
    file.write_text('name = "image"\nlink = "mqtt"\n')
    board = FULL.as_settings()
    assert load(file, DeviceConfig, board).name == "oven-7"
    assert load(file, DeviceConfig, board | {"name": "given"}).name == "given"
    assert load(file, DeviceConfig, board).link == "mqtt"
    with pytest.raises(InvalidConfig):
        load(file, DeviceConfig, board | {"nmae": "x"})


@pytest.fixture
def board(tmp_path):
    """A mounted identity with a claim, and a state directory beside it."""
    folder = tmp_path / "msrtid"
    folder.mkdir()
    (tmp_path / "state").mkdir()
    (folder / IDENTITY_FILE).write_text(FULL.render())
    return IdentityFolder(folder)


def test_a_spent_claim_is_wiped_and_the_rest_stays(board):
    """Its bytes are zeros where they lay, whoever still holds the old file."""
    with (board.path / IDENTITY_FILE).open("rb") as old:
        assert board.spend()
        assert set(old.read()) == {0}
    left = board.read()
    assert left == FULL.without_claim()
    assert left.spent
    assert left.wifi == FULL.wifi
    assert INVITE not in (board.path / IDENTITY_FILE).read_text()
    assert [path.name for path in board.path.iterdir()] == [IDENTITY_FILE]
    assert not board.spend()


def test_only_the_claim_that_let_the_device_in_is_wiped(board, tmp_path):
    """A new claim for a device that is a member already stays; the one it was spending goes, even after a crash."""
    settle_claim(tmp_path / "state", board)
    assert board.read().invite == INVITE
    remember_claim(tmp_path / "state", "msrt1-another")
    settle_claim(tmp_path / "state", board)
    assert board.read().invite == INVITE
    remember_claim(tmp_path / "state", INVITE)
    settle_claim(tmp_path / "state", board)
    assert board.read().spent


def test_a_board_without_an_identity_says_how_to_get_one(tmp_path):
    """The sentence names the file and the command."""
    with pytest.raises(NotFound, match=r"identity\.toml") as raised:
        IdentityFolder(tmp_path).read()
    assert "msrt device flash" in str(raised.value)
