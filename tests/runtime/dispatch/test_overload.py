"""Three times what the workers can do: they stay busy, and who is let in is answered in time."""

from __future__ import annotations

import heapq
import random

import msgspec
import pytest

from msrt.dispatch.margin import Margin
from tests.runtime.dispatch.counter import Bench, echo, question, ready

SERVICE_S, DEADLINE_S = 0.02, 0.5


class Fleet:
    """Workers that compute one row at a time, each in as long as `pace()` says: the pair of what it takes and what
    they say it took."""

    def __init__(self, count, pace):
        self.bench = Bench(*(f"w{n}" for n in range(count)), models=(ready(latency_us=20_000),))
        self.free = dict.fromkeys(self.bench.dispatcher.roster.workers, 0.0)
        self.pace, self.answers, self.serial = pace, [], 0

    def take(self, sends):
        for send in sends:
            rows = sum(send.message.rows)
            takes, says = self.pace()
            self.free[send.worker] = max(self.free[send.worker], self.bench.now) + takes * rows
            self.serial += 1
            heapq.heappush(self.answers, (self.free[send.worker], self.serial, send, int(says * rows * 1e6)))

    def until(self, moment):
        """Let time pass, and answers come."""
        bench = self.bench
        while True:
            due = min(self.answers[0][0] if self.answers else moment, moment)
            self.take(bench.until(due))
            if not self.answers or self.answers[0][0] > due:
                if due >= moment:
                    return
                continue
            _, _, send, says_us = heapq.heappop(self.answers)
            answered = echo(send)
            answered.message = msgspec.structs.replace(answered.message, compute_us=says_us)
            self.take(bench.do(answered))


def overloaded(pace, seconds, warm_s, times=3.0, workers=8):
    """Goodput over capacity, and the share in time of those let in, after `warm_s`."""
    fleet, rng, moment = Fleet(workers, pace), random.Random(3), 0.0
    bench = fleet.bench
    asked = []
    while moment < warm_s + seconds:
        moment += rng.expovariate(times * workers / SERVICE_S)
        fleet.until(moment)
        request = question((len(asked) % 1000,), deadline=bench.now + DEADLINE_S)
        asked.append(request)
        fleet.take(bench.ask(request))
    fleet.until(moment + 2 * DEADLINE_S)
    answered = {id(reply.request) for reply in bench.replies}
    refused = {id(no.request) for no in bench.rejects if no.error.code == "overloaded"}
    counted = [id(request) for request in asked if request.since >= warm_s]
    good = sum(one in answered for one in counted)
    admitted = sum(one not in refused for one in counted)
    return good / (seconds * workers / SERVICE_S), good / admitted


def exact(_rng):
    return SERVICE_S, SERVICE_S


def slower(_rng):
    """A fifth goes by between one row and the next, and nobody counts it."""
    return 1.2 * SERVICE_S, SERVICE_S


def uneven(rng):
    took = SERVICE_S * (1 + rng.uniform(-0.5, 0.5))
    return took, took


@pytest.mark.parametrize(("pace", "capacity"), [(exact, 1.0), (slower, 1 / 1.2), (uneven, 1.0)])
def test_who_is_let_in_is_answered_in_time(pace, capacity):
    """Also where a turn takes longer than its worker says, or varies: that is learnt."""
    rng = random.Random(5)
    goodput, in_time = overloaded(lambda: pace(rng), 8.0, 3.0)
    assert goodput > 0.95 * capacity
    assert in_time > 0.999


def test_a_margin_is_the_quantile_of_what_comes():
    """It rises with misses, falls back slowly, and stays within its bounds."""
    margin, rng = Margin(1.0, 4.0), random.Random(1)
    ratios = [rng.expovariate(2.0) for _ in range(60_000)]
    for ratio in ratios:
        margin.add(ratio)
    assert margin.value == pytest.approx(sorted(ratios)[int(0.9995 * len(ratios))], rel=0.25)
    for _ in range(200):
        margin.add(9.0)
    assert margin.value == 4.0
    for _ in range(200_000):
        margin.add(0.1)
    assert margin.value == 1.0
