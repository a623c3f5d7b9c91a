"""The archive that the kernel unpacks."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from msrt_device.flash.linux.initrd import cpio


def test_the_archive_is_one_that_cpio_reads(tmp_path):
    """Files, folders, links, and the console that the kernel opens."""
    if shutil.which("cpio") is None:
        pytest.skip("no cpio: apt install cpio")
    (tmp_path / "in/bin").mkdir(parents=True)
    (tmp_path / "in/bin/a").write_bytes(b"12345")
    (tmp_path / "in/bin/b").symlink_to("a")
    listed = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=cpio(tmp_path / "in"), capture_output=True, check=True
    ).stdout.decode()  # fmt: skip
    lines = {line.split()[-1]: line for line in listed.splitlines()}
    assert lines["bin/a"].split()[4] == "5"
    assert "bin/b -> a" in listed
    assert lines["dev/console"].startswith("crw-------")


def test_the_same_files_make_the_same_archive(tmp_path):
    """Whoever unpacked them, and when."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    assert cpio(tmp_path / "one") == cpio(tmp_path / "two")
