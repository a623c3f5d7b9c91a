"""How one model is served, where that differs from plain: set by the operator, part of the desired state."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["PLAIN", "ModelPolicy"]

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Whole = Annotated[int, msgspec.Meta(ge=0)]


class ModelPolicy(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Every field has the default that changes nothing. Times are seconds, sizes bytes, shares 0 to 1."""

    cache_bytes: Whole = 0
    """Answers kept per edge, by version and digest of the inputs; 0: none."""
    cache_age_s: Positive = 60.0
    shadow: Whole = 0
    """A version that gets copies of the requests and whose answers are only compared; 0: none."""
    shadow_share: Share = 1.0
    """Of the requests, the part that is copied."""
    escalate_to: str = ""
    """A larger model that is asked, on this node or one above, where this one is not sure; empty: none."""
    escalate_below: Share = 0.0
    """Calibrated confidence below which it is asked; 0: adapted to hold the budget or the accuracy."""
    escalate_budget: Share = 0.1
    """Most of the requests that may go up."""
    escalate_accuracy: Share = 0.0
    """Expected accuracy of what is answered here; 0: the budget alone decides."""
    overflow: bool = True
    """A region that is full passes requests on to a neighbour or the cloud."""
    hedge: bool = True
    """A request that is late may be asked of a second device; only right for models without side effects."""
    priority: Annotated[int, msgspec.Meta(ge=-1, le=1)] = 0
    """Of requests that name none: 1 urgent, 0 normal, -1 background."""

    @property
    def staged(self) -> bool:
        """Whether requests take more steps than dispatch alone."""
        return bool(self.cache_bytes or self.shadow or self.escalate_to)


PLAIN = ModelPolicy()
