from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from msrt.telemetry import logs


@pytest.fixture
def stream():
    root = logging.getLogger()
    before = list(root.handlers)
    yield io.StringIO()
    structlog.reset_defaults()
    root.handlers[:] = before


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_is_one_object_a_line(stream):
    """Event, keys, level and time; values that JSON does not know become text."""
    logs.configure("json", stream=stream)
    structlog.get_logger().info("edge.device_lost", device="cam-1", silent_s=3.2, error=ValueError("x"), key=b"\0")
    (line,) = lines(stream)
    assert line | {"timestamp": ""} == {
        "event": "edge.device_lost", "device": "cam-1", "silent_s": 3.2, "error": "x", "key": "AA==",
        "level": "info", "timestamp": "",
    }  # fmt: skip
    assert line["timestamp"].endswith("Z")


def test_console_has_no_colours_off_a_terminal(stream):
    """A plain log when nobody looks at a terminal."""
    logs.configure("console", stream=stream)
    structlog.get_logger().warning("edge.device_lost", device="cam-1")
    assert "edge.device_lost" in stream.getvalue()
    assert "device=cam-1" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_level_is_kept(stream):
    """What is below it is not even formatted."""
    logs.configure("json", "warning", stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_secrets_are_masked(stream):
    """A key that names a secret never shows its value."""
    logs.configure("json", stream=stream)
    structlog.get_logger().info("broker.user", username="n", password="pa55", secret=b"x")
    assert "pa55" not in stream.getvalue()
    assert lines(stream)[0]["secret"] == "***"
    assert "pa55" not in json.dumps(logs.recent())


def test_libraries_take_the_same_way(stream):
    """A warning of a library becomes a line of ours; its chatter does not."""
    logs.configure("json", "info", stream)
    logging.getLogger("paho").warning("lost %s", "it")
    logging.getLogger("paho").info("chatter")
    assert [(line["library"], line["text"]) for line in lines(stream)] == [("paho", "lost it")]


def test_an_exception_is_one_line_too(stream):
    """The traceback is a value of the line, not more lines."""
    logs.configure("json", stream=stream)
    try:
        {}["x"]
    except KeyError:
        structlog.get_logger().exception("bug")
    assert "Traceback" in lines(stream)[0]["exception"]


def test_the_last_lines_can_be_asked_for(stream):
    """`msrt node logs` gets the newest, oldest first, in whatever format stderr has."""
    logs.configure("console", stream=stream)
    for number in range(logs.RECENT + 5):
        structlog.get_logger().info("count", number=number)
    assert [line["number"] for line in logs.recent(3)] == [logs.RECENT + 2, logs.RECENT + 3, logs.RECENT + 4]
    assert len(logs.recent()) == logs.RECENT
    assert logs.recent(0) == []


def test_a_reader_that_went_away_takes_nobody_with_it(stream):
    """A broken pipe at the end of the log is not the node's problem."""

    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    logs.configure("json", stream=Gone())
    structlog.get_logger().info("anyone")


def test_configuring_twice_bridges_once(stream):
    """A second call replaces the first."""
    logs.configure("json", stream=stream)
    logs.configure("json", stream=stream)
    logging.getLogger("paho").warning("once")
    assert len(lines(stream)) == 1


@pytest.fixture
def clock(monkeypatch):
    """The time of each line, as the test sets it."""
    now = ["2026-01-01T00:00:00.100000Z"]
    monkeypatch.setattr(
        structlog.processors,
        "TimeStamper",
        lambda **_how: lambda _logger, _method, event: {**event, "timestamp": now[0]},
    )
    return now


def test_the_same_line_about_one_peer_is_said_a_few_times_a_second(stream, clock):
    """However often it is refused; how many were not said is said with the next one. Others are heard meanwhile."""
    logs.configure("json", stream=stream)
    log = structlog.get_logger()
    for _ in range(1000):
        log.warning("hop.refused", peer="p1", code="malformed_frame", error="bad")
    log.warning("hop.refused", peer="p2", code="malformed_frame")
    log.warning("hop.refused", peer="p1", code="out_of_order")
    assert [line["peer"] for line in lines(stream)] == ["p1"] * logs.LINES + ["p2", "p1"]
    clock[0] = "2026-01-01T00:00:01.100000Z"
    log.warning("hop.refused", peer="p1", code="malformed_frame", error="bad")
    assert lines(stream)[-1]["not_said"] == 1000 - logs.LINES


def test_what_no_peer_can_cause_is_always_said(stream, clock):
    """What happens here is not told a few times only."""
    logs.configure("json", stream=stream)
    for number in range(50):
        structlog.get_logger().info("artifact.evicted", digest=f"{number}")
    assert len(lines(stream)) == 50
