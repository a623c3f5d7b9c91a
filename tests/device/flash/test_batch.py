"""Many boards: each with a claim of its own, and a manifest that survives being cut off."""

from __future__ import annotations

import csv
import hashlib
import time

import pytest
from click.testing import CliRunner

from msrt.errors import CallerError
from msrt.trust.invite import Invite
from msrt_device.flash.batch import boards_from, make_batch, numbered
from msrt_device.flash.command import flash as command
from msrt_device.flash.identity.settings import IdentitySettings, InvalidIdentity
from tests.device.flash.test_flashing import CLOUD, parent


class Claims:
    """As the cloud makes them; `handed` is how many there were."""

    def __init__(self):
        self.handed = 0

    def __call__(self, count):
        return [self._one() for _ in range(count)]

    def _one(self):
        self.handed += 1
        number = self.handed
        random = lambda size: number.to_bytes(size, "big")  # noqa: E731
        made = Invite.make(CLOUD, random, role="device", parents=[parent()], expires=time.time() + 60, region="north")
        return made.encode()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make(boards, tmp_path, claims, common=None, **more):
    return make_batch(
        boards, common or {}, tmp_path / "m.csv", tmp_path / "boards", claim=claims, progress=lambda *_: None,
        **({"base": None, "put": None} | more),
    )  # fmt: skip


def test_every_identity_has_a_claim_of_its_own(tmp_path):
    """And the manifest names each: serial number, name, claim, digest; what they share is in all of them."""
    claims = Claims()
    assert make(numbered(40, "oven", "SN-"), tmp_path, claims, {"labels": {"site": "a"}, "locale": "de_DE.UTF-8"}) == 40
    told = rows(tmp_path / "m.csv")
    assert len({row["claim"] for row in told}) == len({row["serial"] for row in told}) == 40
    assert (told[0]["serial"], told[0]["name"], told[39]["name"]) == ("SN-01", "oven-01", "oven-40")
    file = tmp_path / "boards" / told[31]["file"]
    found = IdentitySettings.parse(file.read_text())
    assert Invite.parse(found.invite, time.time()).id == told[31]["claim"]
    assert (found.labels, found.locale, found.region) == ({"site": "a"}, "de_DE.UTF-8", "north")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == told[31]["identity_sha256"]
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("torn", [False, True])
def test_a_batch_that_was_cut_off_goes_on(tmp_path, torn):
    """With the boards that are not in the manifest; a line that was cut off is not in the way."""
    claims = Claims()
    make(numbered(4, "oven", "")[:2], tmp_path, claims)
    if torn:
        with (tmp_path / "m.csv").open("a") as file:
            file.write(",oven-3,abc")
    assert make(numbered(4, "oven", ""), tmp_path, claims) == 2
    assert make(numbered(4, "oven", ""), tmp_path, claims) == 0
    assert claims.handed == 4
    whole = [row["name"] for row in rows(tmp_path / "m.csv") if row["base_sha256"] is not None]
    assert sorted(whole) == ["oven-1", "oven-2", "oven-3", "oven-4"]


def test_images_of_a_batch_are_written_with_their_own_identity(tmp_path):
    """The manifest has the digest of the base, too."""
    (tmp_path / "base").write_bytes(b"image")
    put = {}
    make(
        numbered(2, "", ""),
        tmp_path,
        Claims(),
        base=tmp_path / "base",
        put=lambda out, one: put.update({out.name: one}),
    )
    assert {name: one.name for name, one in put.items()} == {"board-1.img": "board-1", "board-2.img": "board-2"}
    assert rows(tmp_path / "m.csv")[0]["base_sha256"] == hashlib.sha256(b"image").hexdigest()


def test_boards_of_a_list_keep_their_serial_numbers(tmp_path):
    """As a manufacturer hands it over; a name comes from the serial number where there is none."""
    file = tmp_path / "list.csv"
    file.write_text("serial,name,label.rack\nSN-7,oven-7,3\nSN-8,,\n")
    assert boards_from(file) == [
        {"serial": "SN-7", "name": "oven-7", "labels": {"rack": "3"}},
        {"serial": "SN-8", "name": "sn-8"},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serial,nmae\n1,a\n", "unknown column 'nmae'"),
        ("serial,name\n,\n", ":2: neither"),
        ("name\na\na\n", "two boards are named 'a'"),
        ("name,serial\na,1\nb,1\n", "two boards have the serial number '1'"),
        ("name,serial\na,1,2\n", ":2: it has more fields"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, text, said):
    """Naming the file and what is wrong with it."""
    file = tmp_path / "list.csv"
    file.write_text(text)
    with pytest.raises(CallerError, match=said):
        boards_from(file)


def test_nothing_is_made_of_a_batch_with_one_bad_board(tmp_path):
    """And no claim is asked for."""
    claims = Claims()
    with pytest.raises(InvalidIdentity, match="board Bad"):
        make([{"name": "good"}, {"name": "Bad Name"}], tmp_path, claims)
    assert not claims.handed
    assert not (tmp_path / "m.csv").exists()


def test_a_file_that_is_no_manifest_is_left_alone(tmp_path):
    """It may be somebody's table."""
    (tmp_path / "m.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CallerError, match="no manifest"):
        make(numbered(1, "", ""), tmp_path, Claims())
    assert (tmp_path / "m.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    "argv",
    [["--count", "3"], ["--csv", "x"], ["--count", "3", "--csv", "x", "--invite", "y"], ["--count", "0", "--csv", "x"]],
)
def test_what_a_batch_needs_is_said(tmp_path, argv):
    """A manifest, a number, and no claim of one's own."""
    (tmp_path / "base").write_bytes(b"image")
    done = CliRunner().invoke(command, [str(tmp_path / "base"), str(tmp_path / "boards"), *argv])
    assert done.exit_code
    assert not (tmp_path / "boards").exists()
