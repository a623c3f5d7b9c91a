"""Paths, statuses, deadlines and keys of the front."""

from __future__ import annotations

import asyncio

import pytest

from msrt import errors
from msrt.serving.app import App, AppConfig, failed
from tests.runtime.serving.caller import Master, call, infer


def overloaded(seconds):
    error = errors.Overloaded("the queue is full")
    error.retry_after = seconds
    return error


def test_health_and_metadata():
    """The protocol's GET paths, with versions as strings and free dimensions as -1."""
    assert call("/v2/health/live").json == {"live": True}
    assert call("/v2/health/ready").status == 200
    assert call("/v2").json["name"] == "msrt"
    info = call("/v2/models/digits").json
    assert info["versions"] == ["1", "3"]
    assert info["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    assert call("/v2/models/digits/versions/1").json == info
    assert call("/v2/models/default/digits/").json == info
    assert call("/v2/models/digits/ready").json == {"name": "digits", "ready": True}
    assert call("/metrics").headers["content-type"].startswith("text/plain")
    (edge,) = call("/msrt/v1/edges").json["edges"]
    assert (edge["zmq"], edge["region"]) == ("tcp://127.0.0.1:1", "eu")


def test_not_ready_is_503():
    """A load balancer passes by; liveness stays."""
    master = Master()
    master.up = False
    assert call("/v2/health/ready", master=master).status == 503
    assert call("/v2/models/digits/ready", master=master).status == 503
    assert call("/v2/health/live", master=master).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v3",
        "/v2/models",
        "/v2/models/",
        "/v2/models/nobody",
        "/v2/models/digits/versions/9",
        "/v2/models/digits/versions/x",
        "/v2/models/digits/versions/0",
        "/v2/models/digits/versions/-1/ready",
        "/v2/models/a/b/c/ready",
        "/v2/models/../ready",
        "/v2/models/\x00/ready",
    ],
)
def test_what_is_not_there_is_404(path):
    """Unknown paths, models and versions, all as {"error"}."""
    answer = call(path)
    assert answer.status == 404
    assert set(answer.json) == {"error"}


def test_a_wrong_method_is_405_and_names_the_right_ones():
    """HEAD goes wherever GET does."""
    answer = call("/v2/models/digits/infer")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert call("/v2", {}).status == 405
    assert call("/v2", method="HEAD").status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidTensor("x"), 400),
        (errors.NotFound("x"), 404),
        (errors.FrameTooLarge(2, 1), 413),
        (errors.Overloaded("x"), 503),
        (errors.Unavailable("x"), 503),
        (errors.Disconnected("x"), 503),
        (errors.from_wire("something new", "x"), 503),
        (errors.DeadlineExceeded("x"), 504),
        (errors.DiskFull("x"), 507),
        (errors.Corrupt("x"), 500),
    ],
)
def test_each_error_has_its_status(error, status):
    """By its code, else by who is at fault; 503 always says when to come back."""
    answer = infer([1], master=Master(error))
    assert answer.status == status
    assert answer.json == {"error": str(error)}
    assert ("retry-after" in answer.headers) == (status == 503)


def test_retry_after_is_whole_seconds_rounded_up():
    """HTTP knows no fractions; 0 would mean at once."""
    assert infer([1], master=Master(overloaded(2.1))).headers["retry-after"] == "3"
    assert infer([1], master=Master(overloaded(0.05))).headers["retry-after"] == "1"


def test_the_shortest_deadline_counts():
    """Header in milliseconds, parameter in microseconds, else the default."""
    master = Master()
    infer([1], master=master)
    infer([1], master=master, headers={"msrt-deadline-ms": "250"})
    infer([1], master=master, extra={"parameters": {"timeout": 100_000}})
    infer([1], master=master, extra={"parameters": {"timeout": 900_000}}, headers={"msrt-deadline-ms": "250"})
    infer([1], master=master, extra={"parameters": {"timeout": 0}})
    assert [request.timeout_s for request in master.asked] == [10.0, 0.25, 0.1, 0.25, 10.0]
    for bad in ("0", "-1", "x", "1.5", "9" * 30):
        assert infer([1], headers={"msrt-deadline-ms": bad}).status == 400


def test_version_outputs_and_trace_reach_the_master():
    """Nothing that the caller said is lost on the way."""
    master = Master()
    infer(
        [1],
        master=master,
        path="/v2/models/ns/net/versions/4/infer",
        extra={"outputs": [{"name": "y"}]},
        headers={"traceparent": "00-ab-cd-01"},
    )
    (request,) = master.asked
    assert (request.model, request.version, request.outputs, request.trace) == ("ns/net", 4, ("y",), "00-ab-cd-01")


def test_a_body_over_the_bound_is_413():
    """By its announced length before it is read, and by what comes when none was announced."""
    assert infer([1] * 100, max_body=100).status == 413
    assert call("/v2/models/digits/infer", b"x", headers={"content-length": "9" * 40}).status == 413
    pieces = [b" " * 60, b" " * 60, b"{}"]
    assert (
        call("/v2/models/digits/infer", b"", pieces=pieces, max_body=100, headers={"content-length": "x"}).status == 413
    )


def test_a_body_may_come_in_pieces():
    """Chunks are joined."""
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    assert call("/v2/models/digits/infer", b"", pieces=[body[:9], body[9:30], body[30:]]).status == 200


def test_a_body_that_never_ends_is_given_up():
    """A caller who sends half a body is told after a while."""

    async def scenario():
        app = App(Master(), AppConfig(body_s=0.02))
        scope = {
            "type": "http", "method": "POST", "path": "/v2/models/m/infer", "query_string": b"", "headers": [],
            "client": ("127.0.0.1", 1),
        }  # fmt: skip
        first = [{"type": "http.request", "body": b"{", "more_body": True}]
        sent = []

        async def receive():
            if first:
                return first.pop()
            return await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(scenario()) == 400


def test_a_caller_that_leaves_before_its_body_is_whole_gets_nothing():
    """No answer, no error, nothing asked."""
    master = Master()
    app = App(master)
    scope = {
        "type": "http", "method": "POST", "path": "/v2/models/m/infer", "query_string": b"", "headers": [],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert not sent
    assert not master.asked


def test_many_paths_do_not_fill_the_memory():
    """Known paths are remembered, within a bound."""
    app = App(Master())
    for number in range(3000):
        call(f"/v2/models/m{number}", app=app)
    assert len(app._routes) <= 1024
    assert app.responses == {404: 3000}


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_an_error_of_a_traced_request_names_its_span():
    """As an answer does: it is what one wants to look up."""
    error = errors.Overloaded("full")
    assert b"traceparent" not in dict(failed(error)[1])
    error.traceparent = PARENT
    assert dict(failed(error)[1])[b"traceparent"] == PARENT.encode()


def test_a_trace_goes_along_and_comes_back():
    """Both headers as one string to the master; what it marks the answer with is a header as well as a parameter."""
    master = Master()
    found = infer([1.0], master=master, headers={"traceparent": PARENT, "tracestate": "vendor=x"})
    assert master.asked[0].trace == f"{PARENT} vendor=x"
    assert "traceparent" not in found.headers
    master.marks = {"traceparent": PARENT}
    found = infer([1.0], master=master)
    assert (master.asked[1].trace, found.headers["traceparent"]) == ("", PARENT)
    assert found.json["parameters"]["traceparent"] == PARENT
