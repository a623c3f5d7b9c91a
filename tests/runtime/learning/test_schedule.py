from __future__ import annotations

import pytest
import torch

from msrt.learning.schedule import Schedule


def _factors(schedule: Schedule, count: int) -> list[float]:
    return [schedule.factor(done) for done in range(count)]


def test_constant_is_constant() -> None:
    """However late."""
    assert _factors(Schedule(), 5) == [1.0] * 5


@pytest.mark.parametrize("text", ["step:3:0.5", "cosine", "cosine:.1"])
def test_torch_agrees(text: str) -> None:
    """StepLR and CosineAnnealingLR give the same rates."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], 1.0)
    theirs: torch.optim.lr_scheduler.LRScheduler
    if text.startswith("step"):
        theirs = torch.optim.lr_scheduler.StepLR(optimiser, 3, 0.5)
    else:
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10, 0.1 if ":" in text else 0.0)
    wanted = []
    for _ in range(10):
        wanted += theirs.get_last_lr()
        optimiser.step()
        theirs.step()
    assert _factors(Schedule(text, 10), 10) == pytest.approx(wanted)


def test_a_warm_up_climbs_and_the_rest_begins_after_it() -> None:
    """Four steps up in a line; the wave of the cosine lies over what remains."""
    found = _factors(Schedule("cosine", 10, 4), 10)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[4:] == pytest.approx(_factors(Schedule("cosine", 6), 6))


def test_time_beyond_the_end_stays_at_the_end() -> None:
    """A cosine does not come up again."""
    assert Schedule("cosine:0.2", 10).factor(1000) == pytest.approx(0.2)


@pytest.mark.parametrize("text", ["", "linear", "step", "step:0:0.5", "step:3:2", "cosine:1.5", "constant:3"])
def test_another_word_is_no_schedule(text: str) -> None:
    """It says what there is."""
    with pytest.raises(ValueError, match="constant, step:EVERY:FACTOR"):
        Schedule(text)
