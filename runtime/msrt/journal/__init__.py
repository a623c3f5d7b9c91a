"""Desired state: one ordered, signed log, its replicas, and the durable queues of messages.

`facts` says what can be said, `state` folds it, `log` and `writer` are the master's side, `replica` a follower's;
`outbox` and `inbox` carry durable messages over restarts: a device needs no more of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msrt.public import on_use

if TYPE_CHECKING:
    from msrt.journal.block import Block, Snapshot
    from msrt.journal.commits import Commits
    from msrt.journal.facts import CLOUD, GLOBAL, Entry
    from msrt.journal.inbox import Inbox
    from msrt.journal.log import Log
    from msrt.journal.outbox import Outbox, Overflow, commit_all
    from msrt.journal.replica import Replica
    from msrt.journal.state import Job, Node, State
    from msrt.journal.writer import Writer

__all__ = [
    "CLOUD",
    "GLOBAL",
    "Block",
    "Commits",
    "Entry",
    "Inbox",
    "Job",
    "Log",
    "Node",
    "Outbox",
    "Overflow",
    "Replica",
    "Snapshot",
    "State",
    "Writer",
    "commit_all",
]

__getattr__ = on_use(
    __name__,
    {
        "CLOUD": "facts", "GLOBAL": "facts", "Block": "block", "Commits": "commits", "Entry": "facts", "Inbox": "inbox",
        "Job": "state", "Log": "log", "Node": "state", "Outbox": "outbox", "Overflow": "outbox", "Replica": "replica",
        "Snapshot": "block", "State": "state", "Writer": "writer", "commit_all": "outbox",
    },
)  # fmt: skip
