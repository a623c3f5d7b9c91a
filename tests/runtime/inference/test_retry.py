"""Which failed loads are tried again, how often and after what pause."""

import random

import pytest

from msrt.errors import BadSignature, DiskFull, InvalidModel, ModelFailed, OutOfMemory, Unavailable
from msrt.inference.retry import LASTING, SHORTAGES, pause_s


def pauses(error, count, seed=0):
    """The first so many pauses of a version that fails again and again with the same error."""
    rng = random.Random(seed).random
    return [pause_s(error, n, n if isinstance(error, OutOfMemory) else 0, rng) for n in range(count)]


@pytest.mark.parametrize("error", [Unavailable("away"), DiskFull("full")])
def test_a_peer_or_a_disk_is_tried_for_as_long_as_it_takes(error):
    """Pauses double from a second on and stay within half a minute, however long it takes."""
    found = pauses(error, 5000)
    full = [min(30.0, 2.0**n) for n in range(12)] + [30.0] * 4988
    assert all(top / 2 <= pause <= top for pause, top in zip(found, full, strict=True))


def test_short_memory_is_tried_a_bounded_number_of_times():
    """Over minutes, more and more rarely; then it is the model that is too large."""
    found = pauses(OutOfMemory("short"), SHORTAGES)
    assert found[-1] is None
    assert None not in found[:-1]
    assert all(2.0**n / 2 <= pause <= 2.0**n for n, pause in enumerate(found[:8]))
    assert max(found[:-1]) <= 300.0
    assert 500 < sum(found[:-1]) < 2400


def test_other_failures_do_not_use_up_the_tries_of_short_memory():
    """An edge that was away for a day leaves a shortage all its tries."""
    assert pause_s(OutOfMemory("short"), 3000, 0, random.Random(0).random) <= 1.0


@pytest.mark.parametrize("error", [InvalidModel("graph"), ModelFailed("operator"), BadSignature("forged")])
def test_a_bad_file_is_not_tried_again(error):
    """It would be the same file."""
    assert isinstance(error, LASTING)
    assert pause_s(error, 0, 0, random.Random(0).random) is None


def test_devices_that_failed_together_do_not_come_back_together():
    """The pauses of a hundred devices are spread over half of the full one."""
    found = [pauses(Unavailable("away"), 6, seed)[-1] for seed in range(100)]
    assert max(found) - min(found) > 0.4 * 30
    assert len(set(found)) == 100
