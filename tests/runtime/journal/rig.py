"""A journal on a simulated disk, and the cloud's real keys."""

from __future__ import annotations

import random

from msrt.journal import Log, Replica, facts
from msrt.trust.identity import Identity, Purpose, verify
from msrt.world.memory import MemoryDisk

CLOUD = Identity.generate(random.Random(1).randbytes)
OTHER = Identity.generate(random.Random(2).randbytes)
SIGN = CLOUD.signer(Purpose.JOURNAL)


def check(data, signature):
    verify(CLOUD.public, data, signature, Purpose.JOURNAL)


def open_log(disk, epoch=1, log_id="log-a", sign=SIGN):
    return Log(disk.store("journal"), sign, log_id=log_id, epoch=epoch)


def open_replica(disk, *scopes):
    return Replica(disk.store("journal"), check, scopes or ("global", "eu"))


def device(number, region="eu", **more):
    return facts.NodeEnrolled(f"node{number}", "device", f"cam-{number}", region, **more)


def model(version, name="digits"):
    return facts.ModelPushed(name, version, b"manifest%d" % version, b"sig")


def rollout(version, name="digits"):
    return facts.RolloutSet(name, version)


def catch_up(log, replica):
    """Give a replica everything it lacks, as the feed does; how many pieces it took."""
    log.check(replica.follow())
    pieces = 0
    for scope, at in replica.positions.items():
        after = at
        while after < log.positions.get(scope, 0):
            if log.needs_snapshot(scope, after):
                piece = log.seal(scope, log.freeze(scope)[scope])
                after = piece.offset
            else:
                piece = log.next_block(scope, after)
                after = piece.last
            replica.apply(piece)
            pieces += 1
    return pieces


def same(log, replica):
    """Whether the replica's state is the master's, as far as its scopes go."""
    return all(log.state.facts(scope) == replica.state.facts(scope) for scope in replica.scopes)


def disk():
    return MemoryDisk()
