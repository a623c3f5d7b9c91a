"""How models are served, beside which version: policies, checked and written, and what shadows have shown."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from msrt import errors
from msrt.dispatch.mirror import ShadowView, merge
from msrt.dispatch.policy import PLAIN, ModelPolicy
from msrt.hop import Peer
from msrt.journal.facts import PolicySet
from msrt.journal.state import State
from msrt.trust.roles import Role

if TYPE_CHECKING:
    from msrt_cloud.master import Cloud

__all__ = ["ModelPolicyAsk", "ModelShadow", "Policies"]

log = structlog.get_logger()
ASK_S = 5.0


class ModelPolicyAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of a policy to change; none: only say what it is. `reset` begins with the plain one."""

    model: str
    change: dict[str, object] = {}
    reset: bool = False


class ModelShadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model; empty: all that have a shadow."""

    model: str = ""


class Policies:
    """The two methods of `Control`."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def policy(self, _peer: Peer, p: ModelPolicyAsk) -> object:
        """The policy in force after the change, every field. Raises NotFound, CallerError, DiskFull."""
        writer, wall = self._cloud.writer, self._cloud.world.wall()
        if p.model not in writer.state.models:
            raise errors.NotFound(f"no model is named {p.model!r}", hint="msrt model list")
        if p.change or p.reset:

            def decide(now: State) -> list[PolicySet]:
                before = PLAIN if p.reset else now.policies.get(p.model, PLAIN)
                after = _changed(before, p.change)
                _check(now, p.model, after)
                return [PolicySet(p.model, after, wall)] if after != now.policies.get(p.model, PLAIN) else []

            await writer.decide(lambda now: list(decide(now)))
        policy = writer.state.policies.get(p.model, PLAIN)
        fields = {name: getattr(policy, name) for name in ModelPolicy.__struct_fields__}
        return {"model": p.model, **fields}

    async def shadow(self, _peer: Peer, p: ModelShadow) -> object:
        """What all edges that answer have seen, together: a row per candidate. Raises NotFound."""
        state = self._cloud.writer.state
        if p.model and not state.policies.get(p.model, PLAIN).shadow:
            raise errors.NotFound(f"{p.model!r} has no shadow", hint="msrt model policy NAME --shadow VERSION")
        peers = [peer for peer in self._cloud.downlink.peers.values() if peer.role == Role.EDGE and peer.live]
        found = await asyncio.gather(*(self._views(peer, p.model) for peer in peers))
        by: dict[tuple[str, int], list[ShadowView]] = {}
        for view in (view for views in found for view in views):
            by.setdefault((view.model, view.version), []).append(view)
        return [{**merge(views).summary(), "edges": len(views)} for _, views in sorted(by.items())]

    async def _views(self, peer: Peer, model: str) -> list[ShadowView]:
        try:
            answer = await peer.call("model.shadow", {"model": model}, ASK_S)
            return msgspec.convert(answer, list[ShadowView])
        except (errors.MsrtError, msgspec.ValidationError) as error:
            log.info("shadow.not_heard", edge=peer.name, error=errors.words_of(error))
            return []


def _changed(before: ModelPolicy, change: dict[str, object]) -> ModelPolicy:
    fields = {name: getattr(before, name) for name in ModelPolicy.__struct_fields__}
    try:
        return msgspec.convert({**fields, **change}, ModelPolicy)
    except msgspec.ValidationError as error:
        raise errors.CallerError(f"model.policy: {error}") from None


def _check(state: State, model: str, policy: ModelPolicy) -> None:
    """Raises NotFound for what does not exist, CallerError for a cascade that goes round."""
    if policy.shadow and policy.shadow not in state.models[model]:
        raise errors.NotFound(f"{model} has no version {policy.shadow}", hint=f"it has {sorted(state.models[model])}")
    seen, at = [model], policy.escalate_to
    while at:
        if at not in state.models:
            raise errors.NotFound(f"no model is named {at!r}", hint="msrt model list")
        if at in seen:
            raise errors.CallerError(f"the cascade goes round: {' -> '.join([*seen, at])}")
        seen.append(at)
        at = state.policies.get(at, PLAIN).escalate_to
