"""A parameter server's worker: what its codec leaves out is sent later, unless its process dies before."""

from __future__ import annotations

import numpy as np

from msrt.learning.parameter_server.shard import codec_for
from msrt.learning.parameter_server.shards import spans
from msrt.training.local import Local
from msrt.training.settings import ParameterServer
from msrt.training.steps import Steps
from tests.runtime.training.quadratic import Quadratic, config

SIZE, CODEC = 4000, "topk:0.05"
SPANS = spans(SIZE, 2)


def worker():
    """As a process that was just started has it."""
    return Steps(Local(Quadratic({}), config()), ParameterServer(steps=5))


def sent(steps, push, clock):
    """What the servers add of it."""
    found = np.zeros(SIZE, np.float32)
    for span, payload in zip(SPANS, steps.encode(push, SPANS, CODEC, clock, 7), strict=True):
        codec_for(CODEC, span).add(payload, 1.0, found[span.start : span.stop])
    return found


def test_what_a_biased_codec_leaves_out_goes_into_later_pushes():
    """Pushes of nothing bring the rest: in the end all of the first one is there."""
    push = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    steps = worker()
    total = sent(steps, push, 0)
    assert 0 < np.count_nonzero(total) <= SIZE // 20
    for clock in range(1, 25):
        total += sent(steps, np.zeros(SIZE, np.float32), clock)
    np.testing.assert_allclose(total, push, atol=1e-6)


def test_it_is_forgotten_with_the_workers_process():
    """The one that comes in its place begins with nothing left over: what is lost is lost once, nothing comes twice."""
    rng = np.random.default_rng(1)
    pushes = [rng.standard_normal(SIZE).astype(np.float32) for _ in range(6)]
    first, lived = worker(), np.zeros(SIZE, np.float32)
    for clock, push in enumerate(pushes[:3]):
        lived += sent(first, push, clock)
    second = worker()
    after = [sent(second, push, clock) for clock, push in enumerate(pushes[3:], 3)]
    untouched = worker()
    for mine, push, clock in zip(after, pushes[3:], range(3, 6), strict=True):
        np.testing.assert_array_equal(mine, sent(untouched, push, clock))
    rest = sum(pushes[:3]) - lived
    after += [sent(second, np.zeros(SIZE, np.float32), clock) for clock in range(6, 30)]
    np.testing.assert_allclose(lived + sum(after), sum(pushes) - rest, atol=1e-5)
