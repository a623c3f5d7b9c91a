"""Firmware for Cortex-M is built of the sources in the package."""

from __future__ import annotations

import pytest

from msrt.errors import InvalidConfig
from msrt_device.flash.targets.cortex_m import TARGET


def built(folder, **options):
    if TARGET.needs():
        pytest.skip(TARGET.needs()[0])
    out = folder / "fw"
    TARGET.build(options, out, lambda *_: None)
    return out.read_bytes()


@pytest.mark.slow
def test_a_raw_binary_is_as_large_as_what_is_in_it(tmp_path):
    """No gap between flash and RAM; its first words are the stack in SRAM and a handler in flash; the serial number is
    the one that was asked for."""
    raw = built(tmp_path, format="bin", serial="line-2.board-7")
    assert 8_000 < len(raw) < 32_000
    stack, reset = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4))
    assert stack == 0x20400000
    assert reset & 1
    assert reset < len(raw)
    assert b"line-2.board-7\0" in raw


def test_what_could_end_a_string_is_no_serial_number(tmp_path):
    """It becomes a word of the compiler's command line."""
    for serial in ('a"b', "a b", "", "x" * 65):
        with pytest.raises(InvalidConfig, match="serial number"):
            built(tmp_path, serial=serial)
