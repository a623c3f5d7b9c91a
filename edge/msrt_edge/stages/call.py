"""What a stage is to the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from msrt.protocol.messages import Mark
from msrt.serving.backend import InferAnswer, InferRequest

__all__ = ["Call", "marked"]

Call = Callable[[InferRequest], Awaitable[InferAnswer]]


def marked(answer: InferAnswer, **marks: Mark) -> InferAnswer:
    """The same answer with more to say; an answer may be shared, so it is never changed."""
    return msgspec.structs.replace(answer, marks={**answer.marks, **marks})
