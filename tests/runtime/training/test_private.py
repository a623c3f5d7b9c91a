from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msrt.errors import InvalidJob
from msrt.learning.noise import KEY
from msrt.training.pipe import Asked
from msrt.training.private import Shield, shielded
from msrt.training.settings import Privacy
from msrt.training.settings.privacy import noise_of

KEY_1 = bytes(KEY)
LONG = np.full(10_000, 0.5, np.float32)
METRICS = {"loss": 0.3, "accuracy": 0.9, "train_loss": 0.2, "work": 1.0, "seconds": 2.0}


def test_a_central_update_leaves_clipped_and_without_noise() -> None:
    """Its direction is kept; one that is short enough is not changed."""
    delta, _ = shielded(Privacy("central", 2.0, 1.0), LONG, {}, 0.0, KEY_1)
    assert np.allclose(delta, LONG * (2.0 / 50.0))
    short, _ = shielded(Privacy("central", 60.0, 1.0), LONG, {}, 0.0, KEY_1)
    assert np.array_equal(short, LONG)


def test_a_local_update_leaves_with_its_noise() -> None:
    """Clipped first; the noise is a multiple of the clip."""
    delta, _ = shielded(Privacy("local", 2.0, 1.5), LONG, {}, 0.0, KEY_1)
    noise = delta - LONG * np.float32(2.0 / 50.0)
    assert noise.std() == pytest.approx(3.0, rel=0.05)


def test_the_noise_is_the_jobs_own_before_what_the_cloud_says() -> None:
    """A cloud cannot talk a node into less; without either the node does not train."""
    assert noise_of(Privacy("local", 1.0, 1.5), 0.1) == 1.5
    assert noise_of(Privacy("local", 1.0, epsilon=2.0), 0.7) == 0.7
    with pytest.raises(InvalidJob, match="no noise"):
        noise_of(Privacy("local", 1.0, epsilon=2.0), 0.0)


def test_what_the_noise_does_not_cover_is_not_told() -> None:
    """Loss and accuracy stay with the node unless the job asks for them."""
    assert shielded(Privacy("central", 1.0, 1.0), LONG, METRICS, 0.0, KEY_1)[1] == {"work": 1.0, "seconds": 2.0}
    assert shielded(Privacy("central", 1.0, 1.0, metrics=True), LONG, METRICS, 0.0, KEY_1)[1] == METRICS


def test_a_node_counts_what_it_gave_away(tmp_path: Path) -> None:
    """On disk, before the update leaves; past the job's number it gives nothing more, whoever asks."""
    shield = Shield(Privacy("local", 1.0, 1.0), tmp_path, Asked(releases=2))
    shield.leave(LONG, {})
    again = Shield(Privacy("local", 1.0, 1.0), tmp_path, Asked(releases=2))
    assert again.released == 1
    again.leave(LONG, {})
    with pytest.raises(InvalidJob, match="it gave 2 updates away"):
        again.leave(LONG, {})


def test_a_count_that_is_lost_is_not_guessed(tmp_path: Path) -> None:
    """A broken file is an error, not zero."""
    (tmp_path / "releases").write_text("")
    with pytest.raises(InvalidJob, match="it is not known how many"):
        Shield(Privacy("local", 1.0, 1.0), tmp_path, Asked()).leave(LONG, {})


def test_under_central_noise_nodes_count_nothing(tmp_path: Path) -> None:
    """What a round costs there is the cloud's to count."""
    Shield(Privacy("central", 1.0, 1.0), tmp_path, Asked(releases=1)).leave(LONG, {})
    assert not list(tmp_path.iterdir())
