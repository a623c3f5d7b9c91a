"""A board with an identity of its own: it enrols at its first start, and needs no claim afterwards."""

from __future__ import annotations

import json

import pytest

from msrt_device.flash.identity.folder import IdentityFolder
from msrt_device.flash.identity.settings import IDENTITY_FILE, IdentitySettings


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
    tree.start("d1", "device", "join", "--identity", str(folder))
    row = next(row for row in json.loads(tree.cli("node", "list", "--json")) if row["role"] == "device")
    assert (row["name"], row["labels"]["site"]) == ("oven-7", "a")
