from __future__ import annotations

from msrt.operator.traced import NOBODY, new_trace, trace_lines
from msrt.telemetry.context import is_sampled, parse

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TOLD = {
    "traceparent": f"00-{ID}-00f067aa0ba902b7-01", "trace_total_us": 2500, "trace_attempts": 2, "trace_queue_us": 100,
    "trace_device_queue_us": 0, "trace_compute_us": 1800, "trace_way_us": 600,
}  # fmt: skip


def test_a_new_trace_asks_to_be_traced():
    """And is another one each time."""
    assert is_sampled(new_trace())
    assert parse(new_trace()).trace_id != parse(new_trace()).trace_id


def test_the_parts_are_a_tree():
    """With the device's name, and how many others were asked before it."""
    lines = trace_lines("", 0.004, "cam-7", TOLD)
    assert lines[0] == f"trace {ID}"
    assert [line.split()[-2] for line in lines if line.endswith(" ms")] == [
        "4.000", "2.500", "0.100", "0.600", "0.000", "1.800",
    ]  # fmt: skip
    assert "cam-7, after 1 other tries" in "\n".join(lines)


def test_an_answer_from_the_cache_has_no_device():
    """It says so instead."""
    lines = trace_lines("", 0.001, "cam-7", {**{k: TOLD[k] for k in ("traceparent", "trace_total_us")}, "cached": True})
    assert lines[-1].endswith("from the cache")


def test_an_edge_without_a_collector_is_named_as_the_reason():
    """The id that was sent is still shown: others may have it."""
    lines = trace_lines(TOLD["traceparent"], 0.001, "cam-7", {})
    assert lines[0] == f"trace {ID}"
    assert NOBODY in lines[-1]
