"""A parameter server: shards of one vector on several servers, workers that pull, compute and push at their own pace.

shards    which range of the vector lies where, and which server has it
clocks    how far each worker is, and who may go on: synchronous, asynchronous, or at most s clocks ahead
events    what can happen on a server and what can follow
server    `ShardServer`: counts every push once, lets workers go on, says when a round is over
tally     what a round's pushes said: losses, accuracies, how far workers were apart
shard     the numerics of one shard: sum, optimiser, snapshot
exchange  `Exchange`: a worker's side, one push and pull with all its servers

After Li 2014 (the parameter server: push, pull, ranges of keys on servers), Ho 2013 (stale synchronous parallel) and
Zhang 2016 (staleness-aware asynchronous SGD).
"""

from __future__ import annotations

from msrt.learning.parameter_server.clocks import Clocks, Mode
from msrt.learning.parameter_server.exchange import Exchange
from msrt.learning.parameter_server.shards import Span, place, spans

__all__ = ["Clocks", "Exchange", "Mode", "Span", "place", "spans"]
