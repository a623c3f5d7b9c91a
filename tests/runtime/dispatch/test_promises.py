"""Whatever happens in whatever order: one answer each, by the deadline, and nobody else's rows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from msrt.dispatch import Answered, Cancel, Failed, ModelsReady, Request, VersionTable, WorkerDown
from msrt.protocol.messages import InferFailed, Inferred, TensorSpec
from tests.runtime.dispatch.counter import Bench, echo, failed, question, ready, rows_of

NODES = ("a", "b", "c")
CODES = ("unavailable", "overloaded", "disconnected", "not_found", "invalid_tensor", "error", "deadline_exceeded")

ask = st.tuples(
    st.just("ask"),
    st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.sampled_from([0.02, 0.3, 2.0, 60.0])), min_size=1, max_size=6
    ),
)
step = st.one_of(
    ask,
    ask,
    st.tuples(st.just("answer"), st.integers(0, 50)),
    st.tuples(st.just("answer"), st.integers(0, 50)),
    st.tuples(st.just("answer all"), st.just(0)),
    st.tuples(st.just("spoil"), st.integers(0, 50)),
    st.tuples(st.just("part"), st.integers(0, 50)),
    st.tuples(st.just("stranger"), st.integers(0, 50)),
    st.tuples(st.just("fail"), st.tuples(st.integers(0, 50), st.sampled_from(CODES))),
    st.tuples(st.just("lose"), st.integers(0, 50)),
    st.tuples(st.just("down"), st.sampled_from(NODES)),
    st.tuples(st.just("up"), st.sampled_from(NODES)),
    st.tuples(st.just("unload"), st.sampled_from(NODES)),
    st.tuples(st.just("canary"), st.sampled_from([0.0, 0.5, 1.0])),
    st.tuples(st.just("drop model"), st.just(0)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.05, 0.2, 1.0, 3.0])),
)


class Chaos:
    """Performs drawn steps; a batch stays answerable (late, twice) until its worker is down."""

    def __init__(self, seed: int) -> None:
        self.bench = Bench("a", "b", seed=seed, max_items=12, max_batch_rows=6)
        self.serial = 0
        self.cancelled: set[int] = set()
        self.flying: list = []

    def play(self, name: str, value) -> None:
        bench = self.bench
        before = len(bench.sent)
        getattr(self, name.replace(" ", "_"))(value)
        self.flying += bench.sent[before:]

    def ask(self, drawn) -> None:
        requests = []
        for rows, width, patience in drawn:
            values = tuple(range(self.serial, self.serial + rows))
            self.serial += rows
            requests.append(question(values, width=width, deadline=self.bench.now + patience))
        self.bench.ask(*requests)

    def _pick(self, index):
        return self.flying[index % len(self.flying)] if self.flying else None

    def answer(self, index) -> None:
        send = self._pick(index)
        if send is not None:
            self.bench.do(echo(send))
            if index % 3:
                self.flying.remove(send)

    def answer_all(self, _) -> None:
        flying, self.flying = self.flying, []
        for send in flying:
            self.bench.do(echo(send))

    def spoil(self, index) -> None:
        send = self._pick(index)
        if send is not None:
            good = echo(send)
            self.bench.do(Answered(send.worker, good.message, (bytes(good.frames[0])[:-4],)))

    def part(self, index) -> None:
        send = self._pick(index)
        if send is not None and len(send.message.ids) > 1:
            ids, rows = send.message.ids[1:], send.message.rows[1:]
            spec = send.message.inputs[0]
            stride = len(send.frames[0]) // spec.shape[0]
            outputs = (TensorSpec("y", spec.dtype, (sum(rows), *spec.shape[1:])),)
            message = Inferred(ids, rows, "m", 1, "fp32", "d", outputs)
            self.bench.do(Answered(send.worker, message, (send.frames[0][send.message.rows[0] * stride :],)))

    def stranger(self, index) -> None:
        """A worker answers, with its own rows, what another was asked."""
        send = self._pick(index)
        if send is not None:
            other = next(node for node in NODES if node != send.worker)
            answer = echo(send)
            tried = [self.bench.dispatcher.flow.live.get(number) for number in send.message.ids]
            if all(request is None or other not in request.tried for request in tried):
                before = len(self.bench.replies)
                self.bench.do(Answered(other, answer.message, (b"\xff" * len(answer.frames[0]),)))
                assert len(self.bench.replies) == before

    def fail(self, drawn) -> None:
        index, code = drawn
        send = self._pick(index)
        if send is not None:
            self.bench.do(failed(send, code))

    def lose(self, index) -> None:
        if self.flying:
            self.flying.pop(index % len(self.flying))

    def down(self, node) -> None:
        self.flying = [send for send in self.flying if send.worker != node]
        self.bench.do(WorkerDown(node))
        self.bench.do(Failed(node, InferFailed((1,), "error", "a ghost")))

    def up(self, node) -> None:
        self.flying = [send for send in self.flying if send.worker != node]
        self.bench.up(node, models=(ready(), ready(version=2)), limit=40 if node == "c" else 1000)

    def unload(self, node) -> None:
        self.bench.do(ModelsReady(node, (ready(version=2),)))

    def canary(self, share) -> None:
        self.bench.do(VersionTable("m", 1, 2 if share else 0, share=share))

    def drop_model(self, _) -> None:
        self.bench.do(VersionTable("m", 0))
        self.bench.do(VersionTable("m", 1))

    def cancel(self, index) -> None:
        if self.bench.submitted:
            request = self.bench.submitted[index % len(self.bench.submitted)]
            if id(request) not in self.bench.settled:
                self.cancelled.add(id(request))
            self.bench.do(Cancel(request))

    def wait(self, seconds) -> None:
        self.bench.until(self.bench.now + seconds)

    def judge(self) -> None:
        bench = self.bench
        bench.end()
        for request in bench.submitted:
            if id(request) in self.cancelled:
                assert id(request) not in bench.settled
            else:
                assert bench.settled[id(request)] <= request.deadline + 1e-9
        for reply in bench.replies:
            assert rows_of(reply) == reply.request.token


@given(st.integers(0, 1000), st.lists(step, max_size=60))
@settings(max_examples=400)
def test_each_request_is_settled_once_by_its_deadline_with_its_own_rows(seed, steps):
    """Any order of callers, answers, failures, losses, deaths, updates and time keeps the promise."""
    chaos = Chaos(seed)
    for name, value in steps:
        chaos.play(name, value)
    chaos.judge()


shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3)


@given(
    st.lists(st.tuples(st.sampled_from(["FP32", "INT8", "INT64"]), shapes), min_size=1, max_size=3),
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200)
def test_rows_of_any_shape_come_back_to_whom_they_belong(tensors, counts, rng):
    """Several inputs of random shapes, echoed as outputs: each caller reads back exactly what it sent."""
    size = {"FP32": 4, "INT8": 1, "INT64": 8}
    bench = Bench("a", "b", max_batch_rows=16)
    requests = []
    for rows in counts:
        specs = tuple(TensorSpec(f"x{n}", dtype, (rows, *shape)) for n, (dtype, shape) in enumerate(tensors))
        frames = []
        for spec in specs:
            length = size[spec.dtype]
            for dim in spec.shape:
                length *= dim
            frames.append(rng.randbytes(length))
        requests.append(Request("m", specs, tuple(frames), 100.0, tuple(frames)))
    sends = bench.ask(*requests)
    while sends:
        send = sends.pop(0)
        message = send.message
        if rng.random() < 0.2 and not bench.rejects:
            sends += bench.do(failed(send, "unavailable")) + bench.until(bench.now + 0.06)
            continue
        answer = Inferred(message.ids, message.rows, "m", 1, "fp32", "d", message.inputs)
        sends += bench.do(Answered(send.worker, answer, tuple(bytes(frame) for frame in send.frames)))
    bench.end()
    for reply in bench.replies:
        assert tuple(bytes(frame) for frame in reply.frames) == reply.request.token
        assert reply.outputs == reply.request.inputs
