"""`msrt device flash` killed in the middle: what is left does not boot, and a second try goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zlib

import pytest

from tests.bench.tree import MSRT, until
from tests.device.flash.media import MIB, noise

SIZE = 450 * MIB


@pytest.mark.slow
def test_a_killed_flash_leaves_no_half_image_and_is_resumed(tmp_path):
    """After 256 MiB the first part is noted; SIGKILL comes after that, wherever the writer is."""
    image, out = tmp_path / "base.img", tmp_path / "out.img"
    with image.open("wb") as file:
        for seed in range(SIZE // (50 * MIB)):
            file.write(noise(50 * MIB, seed=seed))
    home = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "home")}
    argv = [MSRT, "device", "flash", str(image), str(out), "--yes", "--json"]
    first = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE)
    journal = tmp_path / "home" / "msrt" / "flash"
    until("noted", lambda: any(one.stat().st_size > 1000 for one in journal.glob("*.jsonl")), 90)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with out.open("rb") as file:
        assert not any(file.read(MIB))
    done = subprocess.run(argv, env=home, capture_output=True, text=True, timeout=120, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["verified"] is True
    assert told["resumed"] >= 200 * MIB
    assert told["wrote"] <= SIZE - 200 * MIB
    assert _crc(out) == _crc(image)
    assert not list(journal.glob("*.jsonl"))


def _crc(path):
    value = 0
    with path.open("rb") as file:
        while data := file.read(MIB):
            value = zlib.crc32(data, value)
    return value
