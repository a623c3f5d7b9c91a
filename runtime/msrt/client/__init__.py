"""The client library: ask the models of a tree, over ZeroMQ or HTTP, through the death of any edge.

    with msrt.connect(["tcp://edge:5570", "tcp://other:5570"], state="~/.local/state/msrt/client") as client:
        answer = client.infer("digits", {"input": rows})

`request` a question and its answer; `core` where all of them are until settled, `waiters` who waits for them; `front`
one edge, spoken to by `peers` or `http`; `known` which edges there are, `edges` which of them are kept at hand; `aio`
and `sync` what the caller sees, with `sequence` and `streaming`; `tracing` its spans; `watch` events. GUIDE.md
shows how to use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msrt.client.aio import AsyncClient
from msrt.client.fitting import Label
from msrt.client.request import Answer
from msrt.client.sequence import Sequence as AsyncSequence
from msrt.client.sync import Client
from msrt.client.threads import SyncSequence
from msrt.telemetry.logs import quiet_unless_configured

__all__ = ["Answer", "AsyncClient", "AsyncSequence", "Client", "Label", "SyncSequence", "connect"]


def connect(  # noqa: PLR0913 - a user's one place for all of them
    urls: Sequence[str] | str = (), *, state: Path | str | None = None, key: str | None = None,
    fingerprint: str | Sequence[str] = (), ca: Path | str | None = None, deadline_s: float = 10.0,
    trace: str = "", trace_share: float = 0.01, spin_s: float = 0.0,
) -> Client:  # fmt: skip
    """A Client of these edges (tcp://, http:// or https://), or of those that the cloud names. See AsyncClient."""
    return Client(
        urls, state=state, key=key, fingerprint=fingerprint, ca=ca, deadline_s=deadline_s, trace=trace,
        trace_share=trace_share, spin_s=spin_s,
    )  # fmt: skip


quiet_unless_configured()
