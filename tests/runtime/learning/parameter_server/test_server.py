"""When the first worker may begin: with the others that the job began with, or once they take long."""

from __future__ import annotations

import pytest

from msrt.learning.pacing import Pace
from msrt.learning.parameter_server import Mode
from msrt.learning.parameter_server import events as e
from msrt.learning.parameter_server.server import ShardServer
from msrt.protocol.messages import Push
from tests.runtime.learning.parameter_server.field import terms

DEADLINE_S = 60.0


def server(mode=Mode.SYNC, least=1):
    made = ShardServer(terms(mode, least=least))
    made.hold(0, {})
    made.expect(["a", "b", "c"], Pace(0.0, DEADLINE_S, least))
    return made


def comes(machine, worker, now):
    """It joins; who may go on then."""
    push = Push("job", 1, "s", worker, 7, join=True, shards=(0,))
    return going(machine.handle(e.Arrived(push, "", ""), now))


def going(actions):
    return [one.push.worker for one in actions if isinstance(one, e.Answer) and one.said == "go"]


@pytest.mark.parametrize("mode", Mode)
def test_nobody_begins_before_all_are_there(mode):
    """Who is quick to start would lead the model away on its own data."""
    machine = server(mode)
    assert comes(machine, "a", 1.0) == []
    assert machine.slowest == ("b", "c")
    assert comes(machine, "b", 1.5) == []
    assert sorted(comes(machine, "c", 2.0)) == ["a", "b", "c"]


def test_who_takes_long_to_start_is_not_waited_for():
    """Four times as long as the first one took; it comes in later, as any other worker does."""
    machine = server()
    comes(machine, "a", 1.0)
    machine.handle(e.Here(("a",)), 4.0)
    assert going(machine.handle(e.Tick(), 4.5)) == []
    machine.handle(e.Here(("a",)), 5.0)
    assert going(machine.handle(e.Tick(), 6.0)) == ["a"]
    assert machine.slowest == ()
    assert comes(machine, "c", 7.0) == ["c"]


def test_who_died_before_it_began_is_not_waited_for():
    """Its edge says so."""
    machine = server()
    comes(machine, "a", 1.0)
    machine.handle(e.Left("b"), 1.5)
    assert sorted(comes(machine, "c", 2.0)) == ["a", "c"]


def test_the_least_of_a_job_are_waited_for_however_long_that_takes():
    """Patience begins once they are there."""
    machine = server(least=2)
    comes(machine, "a", 1.0)
    machine.handle(e.Here(("a",)), 99.0)
    assert going(machine.handle(e.Tick(), 100.0)) == []
    assert sorted(comes(machine, "b", 101.0)) == ["a", "b"], "the deadline is over, and the rest is not waited for"
