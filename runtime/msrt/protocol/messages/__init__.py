"""Every message that crosses a wire: frozen tagged structs in ONE union, each with a delivery class.

base        what every message is; transient, session, durable
session     hello, lease, end; enrolment; calls
streams     what is larger than a message, or grows
inference   requests and their answers
fleet       what devices hold, and how it fares
journal     desired state on its way to replicas
training    rounds
parameters  the parameter server
secure      secure aggregation
events      what devices found
updates     agents, systems and firmware over the air
"""

from __future__ import annotations

from msrt.protocol.messages.base import DeliveryClass, Mark
from msrt.protocol.messages.events import Event
from msrt.protocol.messages.fleet import (
    Assign,
    DeviceRecord,
    DeviceReport,
    FleetReport,
    Load,
    ModelState,
    Placement,
    ServedRow,
    ServingReport,
)
from msrt.protocol.messages.inference import Infer, InferCancel, InferFailed, Inferred, TensorSpec
from msrt.protocol.messages.journal import Follow, FollowRefused, JournalBlock
from msrt.protocol.messages.parameters import Pulled, Push, RoundNote, ShardMeta, ShardsOpen, WorkersHere
from msrt.protocol.messages.secure import (
    SecureKeys,
    SecureMember,
    SecureOut,
    SecureReveal,
    SecureRoster,
    SecureShare,
    SecureShares,
    SecureUnmask,
)
from msrt.protocol.messages.session import (
    Bye,
    Call,
    Enrol,
    Enrolled,
    Failed,
    Fence,
    Heartbeat,
    Hello,
    Parent,
    Parents,
    Refuse,
    Return,
    Welcome,
)
from msrt.protocol.messages.streams import StreamCancel, StreamChunk, StreamCredit, StreamDone, StreamEnd, StreamOpen
from msrt.protocol.messages.training import (
    Change,
    Plan,
    PrivatePlan,
    RoundClosed,
    RoundOpen,
    Secured,
    SecurePlan,
    TrainProgress,
    UpdateMeta,
)
from msrt.protocol.messages.updates import Offer, UpdateOffers, UpdateState

__all__ = [
    "Assign", "Bye", "Call", "Change", "DeliveryClass", "DeviceRecord", "DeviceReport", "Enrol", "Enrolled",
    "Event", "Failed", "Fence", "FleetReport", "Follow", "FollowRefused", "Heartbeat", "Hello", "Infer",
    "InferCancel", "InferFailed", "Inferred", "JournalBlock", "Load", "Mark", "Message", "ModelState", "Offer",
    "Parent", "Parents", "Placement", "Plan", "PrivatePlan", "Pulled", "Push", "Refuse", "Return",
    "RoundClosed", "RoundNote", "RoundOpen", "SecureKeys", "SecureMember", "SecureOut", "SecurePlan",
    "SecureReveal", "SecureRoster", "SecureShare", "SecureShares", "SecureUnmask", "Secured", "ServedRow",
    "ServingReport", "ShardMeta", "ShardsOpen", "StreamCancel", "StreamChunk", "StreamCredit", "StreamDone",
    "StreamEnd", "StreamOpen", "TensorSpec", "TrainProgress", "UpdateMeta", "UpdateOffers", "UpdateState",
    "Welcome", "WorkersHere",
]  # fmt: skip

Message = (
    Hello | Welcome | Refuse | Heartbeat | Fence | Bye | Enrol | Enrolled | Parents
    | Call | Return | Failed
    | StreamOpen | StreamCredit | StreamChunk | StreamEnd | StreamDone | StreamCancel
    | Infer | Inferred | InferFailed | InferCancel
    | Assign | DeviceReport | Load | FleetReport | ServingReport
    | Follow | JournalBlock | FollowRefused
    | RoundOpen | RoundClosed | TrainProgress
    | SecureKeys | SecureRoster | SecureShares | SecureUnmask | SecureReveal | SecureOut
    | ShardsOpen | Push | Pulled | WorkersHere
    | Event
    | UpdateOffers
)  # fmt: skip
"""All of them: what is not here cannot be said."""
