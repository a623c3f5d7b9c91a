import pytest

from msrt.errors import InvalidModel, NotFound, Unavailable
from msrt.inference.slots import Slots, SlotState

from .models import manifest_of, placed

FILES = {"fp32": b"f", "int8": b"i"}


def version(number, variant="fp32", *, serve=True, model="net"):
    return placed(manifest_of(FILES, version=number, model=model), variant, serve=serve)


def load_next(slots, marker=None, latency=10):
    slot = slots.next_to_load(0.0)
    slots.loading(slot, manifest_of(FILES, version=slot.placement.version, model=slot.placement.model))
    slots.ready(slot, slot.placement.variant, marker, {slot.placement.variant: latency})
    return slot


def serving(*placements):
    slots = Slots()
    slots.assign(1, placements)
    for _ in placements:
        load_next(slots)
    return slots


def states(slots):
    return [(state.model, state.version, state.state) for state in slots.reports()]


def test_new_version_takes_over_only_when_ready():
    """While version 2 loads, version 1 answers; the next request after `ready` gets version 2, and 1 is told of no
    more."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    assert slots.serving("net").placement.version == 1
    assert states(slots) == [("net", 1, "ready"), ("net", 2, "fetching")]
    load_next(slots)
    assert slots.serving("net").placement.version == 2
    assert states(slots) == [("net", 2, "ready")]


def test_request_in_flight_keeps_its_version_until_it_is_answered():
    """The switch happens between two requests: a running one finishes where it began, then the old version leaves."""
    slots = serving(version(1))
    old = slots.borrow("net")
    slots.assign(2, [version(2)])
    load_next(slots)
    assert slots.borrow("net").placement.version == 2
    assert slots.drained(old) == []
    assert old in slots.held()
    slots.give_back(old)
    assert states(slots) == [("net", 2, "ready")]
    assert old not in slots.held()
    assert old.model is None


def test_a_replaced_version_answers_who_has_not_heard_of_it():
    """It is not reported, but whoever asks for it by name is answered until it is drained; only the last one is kept
    so."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    load_next(slots)
    assert states(slots) == [("net", 2, "ready")]
    first = slots.borrow("net", 1)
    slots.give_back(first)
    assert slots.draining() == [first]
    slots.assign(3, [version(3)])
    load_next(slots)
    assert [slot.placement.version for slot in slots.draining()] == [2]
    with pytest.raises(NotFound):
        slots.borrow("net", 1)
    assert [slot.placement.version for slot in slots.drained(slots.draining()[0])] == [2]
    with pytest.raises(NotFound):
        slots.borrow("net", 2)


def test_a_replaced_version_that_comes_back_needs_no_load():
    """Rolled back within the moment that it answers on, it serves at once; the other one is replaced then."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    load_next(slots)
    slots.assign(3, [version(1)])
    assert slots.next_to_load(0.0) is None
    assert slots.borrow("net").placement.version == 1
    assert [slot.placement.version for slot in slots.draining()] == [2]


def test_memory_is_taken_from_a_replaced_version_first():
    """It leaves for good: nobody is to load it again."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    load_next(slots)
    (old,) = slots.draining()
    slots.unload(old)
    assert [slot.placement.version for slot in slots.held()] == [2]


def test_version_that_fails_never_replaces_a_good_one():
    """The last good version serves on, is reported, and is what a restart should begin with."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    slots.failed(slots.next_to_load(0.0), InvalidModel("unknown operator Zap"))
    assert slots.serving("net").placement.version == 1
    assert [placement.version for placement in slots.good()] == [1]
    assert states(slots) == [("net", 1, "ready"), ("net", 2, "failed")]
    assert slots.reports()[1].error == "unknown operator Zap"
    assert slots.next_to_load(1e9) is None


def test_rollback_to_a_version_that_is_still_here_is_immediate():
    """Assigned again before its successor was ready, the old version needs no load."""
    slots = serving(version(1))
    slots.assign(2, [version(2)])
    slots.assign(3, [version(1)])
    assert states(slots) == [("net", 1, "ready")]
    assert slots.next_to_load(0.0) is None


def test_canary_stands_beside_without_taking_traffic():
    """A placement that does not serve answers only who asks for its version."""
    slots = serving(version(1), version(2, serve=False))
    assert slots.borrow("net").placement.version == 1
    assert slots.borrow("net", 2).placement.version == 2


def test_model_that_is_no_longer_assigned_leaves():
    """Last good versions are kept for models that still should be here, not for those that should not."""
    slots = serving(version(1), version(1, model="other"))
    gone = slots.assign(2, [version(1, model="other")])
    assert [slot.placement.model for slot in gone] == ["net"]
    with pytest.raises(NotFound, match="no model net"):
        slots.borrow("net")


def test_other_variant_loads_beside_the_running_one():
    """Changing fp32 to int8 is a change like a version's."""
    slots = serving(version(1))
    slots.assign(2, [version(1, "int8")])
    assert slots.borrow("net").variant == "fp32"
    load_next(slots)
    assert slots.borrow("net").variant == "int8"


def test_same_version_of_another_tree_is_another_model():
    """Name and number are equal, the manifest is not: it is loaded, not taken for the one here."""
    slots = serving(version(1))
    slots.assign(2, [placed(manifest_of({"fp32": b"other"}, version=1))])
    assert slots.next_to_load(0.0) is not None


def test_loading_follows_the_order_assigned_and_waits_for_retries():
    """What was assigned first is loaded first; one that failed for now lets the others pass."""
    slots = Slots()
    slots.assign(1, [version(1, model="a"), version(1, model="b")])
    first = slots.next_to_load(0.0)
    assert first.placement.model == "a"
    slots.failed(first, Unavailable("the edge is away"), retry_at=5.0)
    assert (first.state, first.tries) == (SlotState.FETCHING, 1)
    load_next(slots)
    assert slots.next_to_load(4.0) is None
    assert slots.next_retry() == 5.0
    assert slots.next_to_load(5.0) is first


def test_what_is_not_ready_says_so():
    """A model on its way is unavailable, an unknown version is not found: the asker acts differently on each."""
    slots = serving(version(1))
    slots.assign(2, [version(1), version(2, serve=False)])
    with pytest.raises(Unavailable, match="net@2 is fetching"):
        slots.borrow("net", 2)
    with pytest.raises(NotFound, match="net@9"):
        slots.borrow("net", 9)
    with pytest.raises(NotFound):
        slots.borrow("else")


def test_report_tells_latency_batch_and_counts():
    """What an edge needs for placement and health."""
    slots = serving(version(1))
    slot = slots.serving("net")
    slot.requests, slot.failures = 7, 1
    report = slots.reports()[0]
    assert (report.variant, report.batch, report.latency_us) == ("fp32", True, {"fp32": 10})
    assert (report.requests, report.failures) == (7, 1)
