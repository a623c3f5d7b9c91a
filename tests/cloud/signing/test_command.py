"""`msrt cloud keys rotate-root`: what becomes of the keys that it made."""

from __future__ import annotations

import time

import pytest

from msrt import errors
from msrt.cli import main
from msrt_cloud import signing_command
from msrt_cloud.signing.first import first_files
from msrt_cloud.signing.keys import FolderRing


@pytest.mark.parametrize(
    ("error", "kept"),
    [(errors.Disconnected("it went away"), True), (errors.DeadlineExceeded("no answer"), True),
     (errors.NotTrusted("no"), False)],
    ids=["disconnected", "no answer", "refused"],
)  # fmt: skip
def test_new_root_keys_stay_where_the_cloud_may_have_taken_them(tmp_path, monkeypatch, error, kept):
    """An answer that was lost says nothing: without its key the tree's root could never be replaced again."""
    ring = FolderRing(tmp_path / "keys")
    root, _ = first_files(ring, time.time(), 1e7, 1e7)
    (tmp_path / "root.json").write_bytes(root)
    before = set(ring.signers())

    def lost(*_):
        raise error

    monkeypatch.setattr(signing_command, "_import", lost)
    argv = ["cloud", "keys", "rotate-root", "--root", str(tmp_path / "root.json"), "--state", str(tmp_path)]
    assert main(argv) == 1
    assert bool(set(ring.signers()) - before) is kept
