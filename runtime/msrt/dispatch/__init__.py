"""How a master spreads work over workers. Pure: `Dispatcher.handle(event, now) -> list[Action]`.

roster      who works, which versions they have ready, what is in flight
admission   who may wait: bounds in items, bytes and age
balance     which worker next: power of two choices over requests in flight and latency
batching    who rides together, and whose rows are whose
retry       which failures go elsewhere, and when silence counts as one
deadlines   what is due when
flow        the way of one request through these rooms
watch       what time alone brings: silence, rest, age
cache       answers that are kept, and what makes two questions one
cascade     whether a small model is sure, and what may go up to a larger one
mirror      copies for a candidate, and what they show
overflow    where a request goes that its region cannot answer
policy      what an operator says of all that, per model
dispatcher  the table of events that ties them together
"""

from msrt.dispatch.config import Config, Counters
from msrt.dispatch.dispatcher import Dispatcher
from msrt.dispatch.events import (
    Action,
    Answered,
    Cancel,
    Event,
    Failed,
    ModelsReady,
    Recall,
    Reject,
    Reply,
    Request,
    Send,
    Submit,
    Tick,
    VersionTable,
    WorkerDown,
    WorkerUp,
)

__all__ = [
    "Action",
    "Answered",
    "Cancel",
    "Config",
    "Counters",
    "Dispatcher",
    "Event",
    "Failed",
    "ModelsReady",
    "Recall",
    "Reject",
    "Reply",
    "Request",
    "Send",
    "Submit",
    "Tick",
    "VersionTable",
    "WorkerDown",
    "WorkerUp",
]
