"""What must hold in every tree after every storm, in plain words.

1. Nothing durable that was acknowledged is lost: each reading that a device wrote down is an event at the cloud; each
   call that an operator got an answer to is in the journal.
2. Nothing is applied twice: no event is kept twice, no update is counted twice in the weights.
3. Desired state converges: every edge holds the cloud's journal, every device runs what the journal says.
4. Each request is answered once to its caller, with the right answer, or fails by its deadline.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter

import numpy as np
import onnxruntime

from msrt.inference.bundle import Manifest
from msrt.journal.facts import GLOBAL, JobAdvanced
from msrt.learning.vector import load
from msrt.protocol import wire
from msrt.protocol.messages import Event
from tests.flows.trainer import known_mean, known_update
from tests.flows.tree import model_file, until

__all__ = ["check_events", "check_requests", "check_state", "check_training", "converged", "hold"]

CONVERGE_S = 120.0
LATE_S = 0.5
"""An edge that was busy may fail a request so much after its deadline."""


async def hold(tree, asked=(), fronts=(), acknowledged=()):
    """All of them, once the tree had time to come to rest."""
    written = {name: tree[name].watches[0]._read for name in tree.devices if tree[name] and tree[name].watches}
    await until(lambda: not differences(tree), CONVERGE_S, _Why(lambda: differences(tree)))
    await until(lambda: not missing(tree, written), CONVERGE_S, _Why(lambda: missing(tree, written)))
    check_state(tree, acknowledged)
    check_events(tree)
    check_requests(tree, asked, fronts)
    check_training(tree)


class _Why:
    """Says what is missing, when asked at the end."""

    def __init__(self, tell):
        self._tell = tell

    def __str__(self):
        return "; ".join(map(str, self._tell()))


# --- desired state


def serving(tree, model):
    """The version that the journal wants devices to run."""
    fact = tree.cloud.writer.state.rollouts[model]
    return fact.previous if fact.state == "rolled_back" else fact.version


def differences(tree):
    """What still differs between what is desired and what is; empty when the tree came to rest."""
    down = [name for name in tree.names if tree[name] is None]
    if down:
        return [f"{name} is down" for name in down]
    return [*_journals(tree), *_models(tree), *_fleet(tree), *_jobs(tree)]


def converged(tree):
    """Nothing differs."""
    return not differences(tree)


def _journals(tree):
    state = tree.cloud.writer.state
    for name in tree.edges:
        replica = tree[name].follower.replica
        for scope in (GLOBAL, tree.region(name)):
            if replica.state.facts(scope) != state.facts(scope):
                yield f"{name} has another journal {scope!r}: {replica.positions}"


def _models(tree):
    for model in tree.cloud.writer.state.rollouts:
        version = serving(tree, model)
        for name in tree.devices:
            if version and not tree.ready(model, version, [name]):
                yield f"{name} does not serve {model}@{version}: {tree[name].slots.reports()}"


def _fleet(tree):
    living = Counter(device.name for _, device in tree.cloud.fleet.living())
    for name in tree.devices:
        peer = tree[name].uplink.peer
        if peer is None or not peer.live:
            yield f"{name} has no edge"
        if living[name] != 1:
            yield f"the cloud sees {name} {living[name]} times"


def _jobs(tree):
    for name, job in tree.cloud.writer.state.jobs.items():
        if job.ended is None:
            yield f"job {name} is in round {job.round}: {tree.cloud.training.rows(name)}"


def check_state(tree, acknowledged):
    """What operators were told is done, is."""
    state = tree.cloud.writer.state
    for model, version in acknowledged:
        assert version in state.models[model], f"{model}@{version} was acknowledged and is gone"


# --- events


def events(tree):
    """All events that the cloud keeps."""
    return [wire.unpack(data, Event) for _, data in tree.cloud.events._log.unacked(0, 1 << 20)]


def missing(tree, written):
    """Readings that were written down and have not come up."""
    seen = Counter(event.name for event in events(tree))
    return [f"{name}: {seen[name]} of {count} events" for name, count in written.items() if seen[name] < count]


def check_events(tree):
    """Every reading is there once, under a number of its own, none left out."""
    by_name = {}
    for event in events(tree):
        by_name.setdefault(event.name, []).append(event)
    for name, kept in by_name.items():
        numbers = sorted(event.seq for event in kept)
        assert numbers == list(range(1, len(kept) + 1)), f"{name}: {_odd(numbers, 1)}"
        taken = sorted(event.data["reading"] for event in kept)
        assert taken == list(range(len(kept))), f"{name}: {_odd(taken, 0)}"


def _odd(numbers, first):
    counts = Counter(numbers)
    twice = [number for number, count in counts.items() if count > 1]
    gone = sorted(set(range(first, max(numbers) + 1)) - set(numbers))
    return f"twice {twice[:5]}, missing {gone[:5]}"


# --- requests


@functools.cache
def _bare(version):
    return onnxruntime.InferenceSession(model_file(version), providers=["CPUExecutionProvider"])


def expected(tree, model, version, frame):
    """What bare onnxruntime says."""
    manifest = wire.unpack(tree.cloud.writer.state.models[model][version].manifest, Manifest)
    files = {hashlib.sha256(model_file(seed)).hexdigest(): seed for seed in range(1, 6)}
    session = _bare(files[manifest.variants["fp32"].digest])
    return session.run(None, {"x": np.frombuffer(frame, np.float32).reshape(1, 4)})[0]


def check_requests(tree, asked, fronts):
    """Answers are right; who was not answered heard of it in time."""
    for one in asked:
        for message, answer in one.answers:
            _check_answer(tree, "net", message.version, one.frames[0], answer)
        if not one.sent:
            assert not one.answers
    for front in fronts:
        assert front.outcome, f"a request of {front.edge} at {front.began:.3f} s was never settled"
        assert front.ended <= front.deadline + LATE_S, f"settled {front.ended - front.deadline:.3f} s too late"
        if front.outcome == "answered":
            _check_answer(tree, "net", front.answer.version, front.frame, front.answer.frames[0])


def _check_answer(tree, model, version, question, answer):
    right = expected(tree, model, version, question)
    assert np.allclose(np.frombuffer(answer, np.float32).reshape(1, -1), right, rtol=1e-4), "a wrong answer"


# --- training


def entries(tree, scope=GLOBAL):
    """All that the journal ever said in a scope."""
    after, out = 0, []
    while (block := tree.cloud.writer.log.next_block(scope, after)) is not None:
        out += [entry for _, entry in block.entries()]
        after = block.last
    return out


def check_training(tree):
    """Each round's weights moved by exactly the mean of the nodes it names."""
    before = {}
    for fact in entries(tree):
        if not isinstance(fact, JobAdvanced):
            continue
        weights = load(tree.cloud.artifacts.blobs.read(fact.weights))[1]
        moved = weights - before.get(fact.job, np.zeros_like(weights))
        before[fact.job] = weights
        nodes = {node: known_update("job", fact.round, node)[1] for node in fact.included}
        assert len(nodes) == len(fact.included), "a node is named twice"
        wanted = known_mean("job", fact.round, nodes)
        assert np.allclose(moved, wanted, atol=1e-4), f"round {fact.round}: not the mean of {len(nodes)} nodes"
