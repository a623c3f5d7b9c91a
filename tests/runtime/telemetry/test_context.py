from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.telemetry.context import TraceContext, is_sampled, joined, parse

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_is_read():
    """The example of the specification."""
    assert parse(PARENT) == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, True)
    assert is_sampled(PARENT)
    assert not is_sampled(PARENT[:-1] + "0")


def test_tracestate_is_carried_along():
    """As it is, to whoever comes next."""
    found = parse(joined(PARENT, "congo=t61rcWkgMzE,rojo=1"))
    assert found.state == "congo=t61rcWkgMzE,rojo=1"
    assert found._replace(span_id=1).text.endswith("-0000000000000001-01 congo=t61rcWkgMzE,rojo=1")


def test_a_state_that_is_too_long_or_odd_is_dropped_whole():
    """The trace goes on without it."""
    assert joined(PARENT, "a=" + "b" * 600) == PARENT
    assert joined(PARENT, "a=b\r\nx: y") == PARENT


def test_a_later_version_is_read_as_far_as_it_is_known():
    """More fields may follow after a dash."""
    assert parse("01" + PARENT[2:] + "-more").sampled
    assert is_sampled("01" + PARENT[2:] + "-more")


@pytest.mark.parametrize(
    "bad",
    [
        "", "x", PARENT[:-1], PARENT.upper(), "ff" + PARENT[2:], PARENT + "-more", PARENT.replace("-", "_"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)  # fmt: skip
def test_what_is_none_is_none(bad):
    """No error: a new trace begins there."""
    assert parse(bad) is None


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_said_is_understood(trace, span, sampled):
    """There and back."""
    context = TraceContext(trace, span, sampled)
    assert parse(context.text) == context
    assert is_sampled(context.text) is sampled
