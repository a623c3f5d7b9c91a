"""A source whose readings are no longer what the model was made with says so, as a durable event."""

from __future__ import annotations

import numpy as np

from msrt.inference.drift import reference_of
from tests.device.rig import slots_with
from tests.device.test_watch import watching


def recording(path, *parts):
    """Readings of four numbers; each part is (how many, how far they moved)."""
    generator = np.random.default_rng(5)
    data = np.concatenate([generator.normal(shift, 1.0, size=(count, 4)) for count, shift in parts])
    np.save(path, data.astype(np.float32))
    return path


def reports(bench):
    return [event for event in bench.events() if "drift" in event.data]


REFERENCE = reference_of(np.random.default_rng(6).normal(size=(300, 4)))


def test_a_window_that_drifted_is_one_event(tmp_path):
    """With how far, what moved, on which version; windows that did not are none, and findings go on as before."""

    async def scenario(bench):
        await bench.ended()
        [found] = reports(bench)
        assert found.data["drift"] > 0.25
        assert found.data["readings"] == 200
        assert found.data["reading"] == 399
        assert (found.model, found.version, found.source) == ("net", 1, "belt")
        assert len(bench.events()) == 500 + 1
        assert bench.watch.meter.value > 0.25

    path = recording(tmp_path / "r.npy", (200, 0.0), (300, 1.0))
    watching(scenario, path, slots=slots_with(reference=REFERENCE), drift_readings=200)


def test_where_there_is_nothing_to_compare_with_nothing_is_said(tmp_path):
    """A model pushed without data, and a source that shall not measure."""

    async def scenario(bench):
        await bench.ended()
        assert reports(bench) == []
        assert len(bench.events()) == 200

    path = recording(tmp_path / "r.npy", (200, 5.0))
    watching(scenario, path, slots=slots_with(), drift_readings=100)
    watching(scenario, path, slots=slots_with(reference=REFERENCE), drift_readings=100, drift=0.0)
