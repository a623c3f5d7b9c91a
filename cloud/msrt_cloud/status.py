"""The views that `msrt status`, `msrt node list` and `msrt model list` print."""

from __future__ import annotations

from typing import Any

from msrt.inference.bundle import Manifest
from msrt.journal.facts import GLOBAL
from msrt.journal.log import Log
from msrt.journal.state import Node, State
from msrt.protocol.messages import DeviceRecord, ModelState
from msrt.trust.roles import Role
from msrt_cloud.fleet import EdgeSeen, Fleet
from msrt_cloud.rollouts import Rollouts
from msrt_cloud.turns import in_turns

__all__ = ["model_rows", "node_rows", "show_model", "tree"]


def _model(model: ModelState) -> dict[str, Any]:
    return {
        "model": model.model, "version": model.version, "variant": model.variant, "state": model.state,
        "error": model.error, "requests": model.requests, "failures": model.failures, "latency_us": model.latency_us,
        "cold": model.cold,
    }  # fmt: skip


def _brief(model: ModelState) -> str:
    state = "cold" if model.cold else model.state
    return f"{model.model}@{model.version} {model.variant} {state}"


def _device(device: DeviceRecord, edge: EdgeSeen) -> dict[str, Any]:
    return {
        "node": device.node, "name": device.name, "alive": device.alive and edge.alive, "link": device.link,
        "class": device.device_class, "labels": device.labels, "models": [_model(m) for m in device.models],
        "values": device.values, "sources": device.sources,
    }  # fmt: skip


def _behind(log: Log, edge: EdgeSeen) -> int:
    """Entries of its scopes that an edge has not confirmed; offsets count over all scopes, so it is an upper bound."""
    scopes = (GLOBAL, edge.region)
    return sum(max(0, log.positions.get(scope, 0) - edge.position.get(scope, 0)) for scope in scopes)


async def tree(
    log: Log, fleet: Fleet, rollouts: Rollouts, jobs: list[dict[str, Any]], cloud: dict[str, Any]
) -> dict[str, Any]:
    """Everything at a glance."""
    state = log.state
    here: dict[str, list[dict[str, Any]]] = {}
    placed = set(fleet.edges)
    async for edge, device in in_turns(fleet.devices()):
        here.setdefault(edge.node, []).append(_device(device, edge))
        placed.add(device.node)
    edges = [
        {
            "node": edge.node, "name": edge.name, "region": edge.region, "alive": edge.alive,
            "behind": _behind(log, edge), "queue": edge.values.get("queue", 0.0), "values": edge.values,
            "address": edge.address.http if edge.address else "",
            "devices": sorted(here.get(edge.node, ()), key=lambda row: str(row["name"])),
        }
        for edge in sorted(fleet.edges.values(), key=lambda e: e.name)
    ]  # fmt: skip
    unplaced = [
        {"name": node.name, "role": node.role, "node": node.node}
        async for node in in_turns(list(state.nodes.values()))
        if node.role in (Role.DEVICE, Role.EDGE) and node.node not in placed and not node.revoked
    ]
    models = [{**row, "version": row["serving"]} for row in model_rows(state, rollouts)]
    return {"cloud": cloud, "edges": edges, "unplaced": unplaced, "models": models, "jobs": jobs}


async def node_rows(state: State, fleet: Fleet) -> list[dict[str, Any]]:
    """Every enrolled node that was not removed, in the order in which they came."""
    return [_node(node, fleet) async for node in in_turns(list(state.nodes.values())) if not node.revoked]


def _node(node: Node, fleet: Fleet) -> dict[str, Any]:
    edge, device = fleet.seen(node.node) or (None, None)
    own = fleet.edges.get(node.node)
    return {
        "node": node.node, "name": node.name, "role": node.role,
        "region": edge.region if edge else node.region,
        "alive": bool(own and own.alive) or bool(edge and device and edge.alive and device.alive),
        "edge": edge.name if edge else "", "link": device.link if device else "",
        "serial": (device.serial if device else "") or node.enrolled.board,
        "class": device.device_class if device else "", "labels": device.labels if device else node.labels,
        "models": list(map(_brief, device.models)) if device else [],
        "agent": device.agent if device else "",
        "updates": {said.kind: said.version for said in device.updates} if device else {},
    }  # fmt: skip


def model_rows(state: State, rollouts: Rollouts) -> list[dict[str, Any]]:
    """Every model."""
    rows = []
    for model in sorted(state.models):
        row: dict[str, Any] = {"model": model, "versions": sorted(state.models[model]), "serving": 0, "rollout": ""}
        if model in state.rollouts:
            now = rollouts.status(model)
            row |= {
                "serving": _serving(now),
                "rollout": f"{now['version']} {now['state']}", "canary": now["canary"], "selector": now["selector"],
                "ready": f"{now['ready']}/{now['matching']}", "reason": now["reason"],
            }  # fmt: skip
        apart = {where: fact for (where, name), fact in state.regional.items() if name == model}
        if apart:
            row["regions"] = {where: f"{fact.version} {fact.state}" for where, fact in sorted(apart.items())}
        rows.append(row)
    return rows


def _serving(now: dict[str, Any]) -> int:
    """The version that runs where no canary does."""
    if now["state"] == "withdrawn":
        return 0
    version: int = now["previous"] if now["state"] in ("rolled_back", "canary") else now["version"]
    return version


def show_model(manifest: Manifest, report: dict[str, Any]) -> dict[str, Any]:
    """One version, for `msrt model show`."""

    def specs(tensors: tuple[Any, ...]) -> list[str]:
        return [f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors]

    return {
        "model": manifest.model, "version": manifest.version, "inputs": specs(manifest.inputs),
        "outputs": specs(manifest.outputs), "batchable": manifest.batchable, "rowwise": manifest.rowwise,
        "variants": {
            n: {
                "bytes": v.size, "weight_bytes": v.weight_bytes, "latency_us": v.latency_us, "method": v.method,
                "digest": v.digest, **({"flash": v.flash, "ram": v.ram} if v.flash else {}),
            }
            for n, v in manifest.variants.items()
        },
        "require": manifest.require,
        "state": [f"{t.input} -> {t.output} {t.dtype} {list(t.shape)}" for t in manifest.state],
        "labels": list(manifest.labels), "scores": manifest.scores, "temperature": manifest.temperature, **report,
    }  # fmt: skip
