from __future__ import annotations

import random
import timeit
import tracemalloc

import pytest

from msrt.errors import InvalidConfig
from msrt.telemetry import context, spans
from msrt.telemetry.context import parse
from msrt.telemetry.otlp import collector_of
from msrt.telemetry.spans import CHOSEN, Tracer

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Kept(list):
    """A sink that keeps (name, began, ended)."""

    sent = dropped = 0

    def emit(self, span, began, ended):
        self.append((span.name, began, ended))


def tracer(share=0.01, now=lambda: 5.0):
    sink = Kept()
    return Tracer(sink, share=share, rng=random.Random(1), now=now, wall=lambda: 1_000_005.0), sink


def test_the_head_decides():
    """Who says yes is traced, who says no is not, of the others the share that was set."""
    one, _ = tracer(0.01)
    assert one.wants(PARENT)
    assert one.wants(CHOSEN)
    assert not one.wants(PARENT[:-1] + "0")
    assert not one.wants("nonsense")
    assert 60 <= sum(one.wants("") for _ in range(10_000)) <= 140


def test_who_was_passed_on_was_decided_about():
    """A neighbour does not draw again."""
    one, _ = tracer(1.0)
    assert one.wants("")
    assert not one.wants("", 1)
    assert one.wants(PARENT, 1)


def test_a_part_is_below_what_it_is_part_of():
    """The same trace, another span; with nothing before it, a new trace."""
    one, _ = tracer()
    span = one.start("a", PARENT + " vendor=1")
    part = one.start("b", span.trace)
    assert (span.context.trace_id, span.context.state) == (parse(PARENT).trace_id, "vendor=1")
    assert part.parent == span.context
    assert one.start("c", CHOSEN).parent is None


def test_a_span_ends_once_and_in_calendar_time():
    """The monotonic clock measures, the calendar only says when."""
    one, sink = tracer()
    span = one.start("a", "", began=2.0)
    span.end(4.5)
    span.end(99.0)
    assert sink == [("a", 1_000_002_000_000_000, 1_000_004_500_000_000)]


def test_a_part_lies_inside_its_whole():
    """To the nanosecond, however the two clocks are read at the end of each; only a clock that is set is followed."""
    sink, hasty = Kept(), random.Random(3)
    walls = [1_764_000_000.0 + hasty.uniform(0, 0.05) for _ in range(100)]
    one = Tracer(sink, share=1, rng=random.Random(1), now=lambda: 5.0, wall=lambda: walls.pop(0))
    for _ in range(30):
        began = hasty.uniform(1e5, 1e5 + 1)
        begun, done = began + hasty.uniform(0, 1e-6), began + hasty.uniform(1e-6, 2e-6)
        for name, first, last in (("whole", began, done), ("first", began, begun), ("second", begun, done)):
            one.start(name, "", began=first).end(last)
        whole, first, second = ((first, last) for _, first, last in sink[-3:])
        assert (whole[0], first[1], second[1]) == (first[0], second[0], whole[1])
    walls[:] = [1_764_003_600.0]
    one.start("later", "", began=5.0).end(5.0)
    assert sink[-1] == ("later", 1_764_003_600_000_000_000, 1_764_003_600_000_000_000)


def test_what_is_not_traced_makes_nothing():
    """No object outlives a thousand decisions, none of them makes a span, and each takes well under a microsecond or
    two."""
    one, _ = tracer(0.0)
    for trace in ("", PARENT[:-1] + "0"):
        one.wants(trace)
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        for _ in range(1000):
            one.wants(trace)
        after = tracemalloc.take_snapshot()
        tracemalloc.stop()
        ours = [each for each in after.compare_to(before, "filename") if _is_ours(each.traceback[0].filename)]
        assert sum(each.count_diff for each in ours) <= 2
        assert min(timeit.repeat(lambda trace=trace: one.wants(trace), number=1000, repeat=20)) / 1000 < 5e-6
    assert one.started == 0


def _is_ours(filename):
    return filename in (spans.__file__, context.__file__)


def test_the_collector_is_found_as_opentelemetry_says():
    """The setting, then the variables; a base gets the path of traces, a whole URL is left alone."""
    assert collector_of("http://a:4318", {}) == "http://a:4318/v1/traces"
    assert collector_of("http://a:4318/v1/traces", {}) == "http://a:4318/v1/traces"
    assert collector_of("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4318/"}) == "http://b:4318/v1/traces"
    assert collector_of("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}) == "http://c/x"
    assert collector_of("", {}) == ""
    assert collector_of("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_SDK_DISABLED": "true"}) == ""
    with pytest.raises(InvalidConfig, match="no collector's URL"):
        collector_of("localhost:4317", {})
