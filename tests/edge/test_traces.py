"""The spans of an edge: stages, retries, hedges and other masters, under virtual time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from msrt import errors
from msrt.protocol.messages import Infer, Inferred
from msrt.telemetry.context import parse
from msrt.telemetry.spans import Tracer
from tests.edge.policed import SURE, UNSURE, asks, cascading, policed, scores, shadowed
from tests.edge.rig import answer, fail, simulate, until

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Kept:
    """A sink, and what stands in it as a tree of names."""

    def __init__(self) -> None:
        self.spans = []
        self.sent = self.dropped = 0

    def emit(self, span, _began, _ended):
        self.spans.append(span)

    def close(self):
        pass

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def path(self, span):
        """From the root to it."""
        by = {other.context.span_id: other for other in self.spans}
        names = [span.name]
        while span.parent is not None and span.parent.span_id in by:
            span = by[span.parent.span_id]
            names.append(span.name)
        return " > ".join(reversed(names))

    @property
    def paths(self):
        return sorted(map(self.path, self.spans))


def traced(scenario, share=0.0, **more):
    """Run scenario(rig, kept): what asks for it is traced, and a share of the rest."""
    kept = Kept()
    simulate(
        lambda rig: scenario(rig, kept),
        tracing=lambda world: Tracer(kept, share=share, rng=world.random, now=world.now, wall=world.wall), **more,
    )  # fmt: skip
    assert not kept.named("infer") or {span.took >= 0 for span in kept.spans} == {True}


def slow(queue_us, compute_us, seconds):
    """As a device that says what it waited and computed."""

    def says(child, peer, asked):
        def later():
            said = []
            answer(child, _Catch(said), asked)
            message, frames = said[0]
            peer.send(msgspec.structs.replace(message, queue_us=queue_us, compute_us=compute_us), frames)

        asyncio.get_running_loop().call_later(seconds, later)

    return says


class _Catch:
    def __init__(self, said) -> None:
        self.said = said

    def send(self, message, frames):
        self.said.append((message, frames))


def test_a_request_has_its_wait_its_try_and_the_devices_times():
    """What neither waited nor computed was the way; the caller who asked is told the same."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        rig.d1.answers = slow(3000, 5000, 0.01)
        found = await rig.edge.service.infer(asks(trace=PARENT))
        assert kept.paths == [
            "infer", "infer > attempt", "infer > attempt > device", "infer > attempt > device > device.compute",
            "infer > attempt > device > device.queue", "infer > queue",
        ]  # fmt: skip
        by = {span.name: span for span in kept.spans}
        assert by["infer"].parent == parse(PARENT)
        assert by["device.queue"].took == pytest.approx(0.003)
        assert by["device.compute"].took == pytest.approx(0.005)
        assert by["attempt"].took == pytest.approx(0.008 + found.marks["trace_way_us"] / 1e6, abs=1e-6)
        assert by["attempt"].began <= by["device"].began
        assert {span.owner for span in kept.spans if span.name.startswith("device")} == {"d1"}
        assert (found.marks["trace_device_queue_us"], found.marks["trace_compute_us"]) == (3000, 5000)
        assert found.marks["traceparent"] == by["infer"].context.traceparent

    traced(scenario)


def test_a_failed_try_and_the_one_that_made_it_good():
    """Both below one request, in their order, each with its device and outcome."""

    async def scenario(rig, kept):
        await rig.serve("d1", "d2")
        fates = [fail("model_failed"), answer]

        def says(*asked):
            fates.pop(0)(*asked)

        rig.d1.answers = rig.d2.answers = says
        await rig.edge.service.infer(asks(trace=PARENT))
        first, second = sorted(kept.named("attempt"), key=lambda span: span.began)
        assert (first.error, first.attributes["msrt.outcome"], first.attributes["msrt.reason"]) == (
            "model_failed", "model_failed", "first",
        )  # fmt: skip
        assert (second.error, second.attributes["msrt.outcome"], second.attributes["msrt.reason"]) == (
            "", "ok", "retry",
        )  # fmt: skip
        assert first.attributes["msrt.device"] != second.attributes["msrt.device"]
        assert len(kept.named("queue")) == 2

    traced(scenario)


def test_requests_that_ride_together_name_each_other():
    """Two traces in one batch are linked."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        other = PARENT.replace("4bf9", "4bfa")
        await asyncio.gather(*[rig.edge.service.infer(asks(trace=trace)) for trace in (PARENT, other)])
        one, two = kept.named("attempt")
        assert one.attributes["msrt.batch_requests"] == 2
        assert (one.links, two.links) == ([two.context], [one.context])
        assert one.context.trace_id != two.context.trace_id

    traced(scenario)


def test_an_answer_from_the_cache_has_no_try():
    """And the second one's trace does not speak of the first one's device."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        await policed(rig, cache_bytes=1 << 20)
        await rig.edge.service.infer(asks(trace=PARENT))
        assert "infer > cache > attempt" in kept.paths
        kept.spans.clear()
        found = await rig.edge.service.infer(asks(trace=PARENT))
        assert kept.paths == ["infer", "infer > cache"]
        assert kept.named("cache")[0].attributes["msrt.cached"] is True
        assert "trace_attempts" not in found.marks
        found = await rig.edge.service.infer(asks())
        assert dict(found.marks) == {"cached": True}

    traced(scenario)


def test_a_cascade_shows_both_models():
    """The small one's try, and the way up to the cloud, whose own spans would be below that."""

    async def scenario(rig, kept):
        await cascading(rig, SURE)
        rig.d1.answers = scores(UNSURE)
        await rig.edge.service.infer(asks(trace=PARENT))
        assert {"infer > cascade > attempt", "infer > cascade > relay"} <= set(kept.paths)
        (up,) = rig.cloud.told(Infer)
        assert up.trace == kept.named("relay")[0].context.text
        assert kept.named("cascade")[0].attributes["msrt.answered_by"] == "cloud"

    traced(scenario)


def test_a_shadow_is_a_part_that_ends_later():
    """Its try is below a span of its own; the answer did not wait for it."""

    async def scenario(rig, kept):
        await shadowed(rig)
        await rig.edge.service.infer(asks(trace=PARENT))
        await until(lambda: kept.named("shadow"))
        assert "infer > mirrored > shadow > attempt" in kept.paths
        assert kept.named("shadow")[0].began >= kept.named("infer")[0].began + kept.named("infer")[0].took

    traced(scenario)


def test_overflow_is_a_step_of_its_own():
    """Nobody here has the model: another is asked, below the same request."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        rig.d1.report()
        await until(lambda: not rig.edge.fleet.ready_model("net"))
        rig.cloud.infers = answer
        found = await rig.edge.service.infer(asks(trace=PARENT))
        assert found.marks["region"] == "cloud"
        assert "infer > overflow > relay" in kept.paths
        rig.cloud.infers = fail("overloaded")
        with pytest.raises(errors.MsrtError):
            await rig.edge.service.infer(asks(trace=PARENT, timeout=1.0))
        assert kept.named("infer")[-1].error
        assert kept.named("relay")[-1].error == "overloaded"

    traced(scenario)


def test_a_client_is_asked_about_its_trace_too():
    """Several in one message are a span each; who says nothing is drawn."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        rig.c.ask(1)
        await until(lambda: rig.c.told(Inferred))
        assert "traceparent" in rig.c.told(Inferred)[0].marks
        assert kept.named("infer")[0].parent is None

    traced(scenario, share=1.0, clients=("c",))


def test_what_is_not_traced_takes_the_way_it_always_took():
    """The front gets the dispatcher's own future, no span is made and nothing is kept of it."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        for trace in ("", PARENT[:-1] + "0"):
            future = rig.edge.service.infer(asks(trace=trace))
            assert isinstance(future, asyncio.Future)
            assert not (await future).marks
        assert not kept.spans
        assert rig.edge.setup.tracer.started == 0
        assert not rig.edge.requests.trails.active

    traced(scenario)


def test_nothing_is_kept_of_traces_that_ended():
    """Answered, failed, cancelled, or with a device that went away in the middle."""

    async def scenario(rig, kept):
        await rig.serve("d1", "d2")
        await rig.edge.service.infer(asks(trace=PARENT))
        rig.d1.answers = rig.d2.answers = None
        with pytest.raises(errors.DeadlineExceeded) as late:
            await rig.edge.service.infer(asks(trace=PARENT, timeout=0.5))
        assert late.value.traceparent == kept.named("infer")[-1].context.traceparent
        task = asyncio.ensure_future(rig.edge.service.infer(asks(trace=PARENT)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        task = asyncio.ensure_future(rig.edge.service.infer(asks(trace=PARENT)))
        await asyncio.sleep(0.05)
        rig.sim.crash("d1")
        rig.sim.crash("d2")
        with pytest.raises(errors.MsrtError):
            await task
        trails = rig.edge.requests.trails
        assert (trails.active, trails._open, trails._told) == (False, {}, {})
        assert {span.error for span in kept.named("infer")} >= {"", "deadline_exceeded", "cancelled"}

    traced(scenario)


def test_links_of_a_large_batch_do_not_grow_with_its_square():
    """All name the first; the first names a few."""

    async def scenario(rig, kept):
        await rig.serve("d1")
        await asyncio.gather(*[rig.edge.service.infer(asks()) for _ in range(8)])  # what so many cost is known now
        await asyncio.gather(*[rig.edge.service.infer(asks(trace=PARENT)) for _ in range(64)])
        tries = kept.named("attempt")
        assert tries[0].attributes["msrt.batch_requests"] == 64
        assert sum(len(span.links) for span in tries) <= 63 + 16

    traced(scenario)
