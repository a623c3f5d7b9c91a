"""`msrt node` and `msrt status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.tree import Tree

from msrt.errors import NotFound
from msrt.operator.node_logs import diagnose, logs
from msrt.operator.session import ask, state_option
from msrt.operator.show import console, json_option, print_json, table
from msrt.protocol.address import parse_labels

__all__ = ["node", "status"]

SOON_S = 60 * 86_400.0
"""A root that ends sooner is spoken of."""


@click.group()
def node() -> None:
    """Nodes: edges and devices of the tree."""


node.add_command(logs)
node.add_command(diagnose)


@node.command(name="list")
@json_option
@state_option
def list_nodes(state: Path | None, *, as_json: bool) -> None:
    """Every enrolled node, alive or not."""
    rows = sorted(ask(state, lambda cloud: cloud("node.list")), key=lambda row: (row["role"], row["name"]))
    if as_json:
        print_json(rows)
    else:
        columns = [
            "name",
            "role",
            "region",
            "alive",
            "edge",
            "link",
            "class",
            "agent",
            "serial",
            "labels",
            "models",
            "node",
        ]
        table(columns, rows, empty="no node yet: msrt invite edge --region R")


@node.command()
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="K=V...")
@state_option
def label(state: Path | None, name: str, labels: tuple[str, ...]) -> None:
    """Set labels of a node; `K=` removes one. What is placed on it follows."""
    kept = parse_labels([one for one in labels if not one.endswith("=")])
    gone = [one[:-1] for one in labels if one.endswith("=")]
    found = ask(state, lambda cloud: cloud("node.label", node=name, labels=kept, remove=gone))
    console().print(f"{name}: {' '.join(f'{k}={v}' for k, v in sorted(found['labels'].items())) or 'no labels'}")


@node.command()
@click.argument("name")
@click.option("--reason", default="", help="Kept in the journal.")
@state_option
def remove(state: Path | None, name: str, reason: str) -> None:
    """Revoke a node: every edge sends it away, for good."""
    ask(state, lambda cloud: cloud("node.remove", node=name, reason=reason))
    console().print(f"{name} is removed")


@node.command()
@click.argument("name")
@click.option("--reason", default="", help="Kept in the journal.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def decommission(state: Path | None, name: str, reason: str, *, yes: bool) -> None:
    """Revoke a device for good, and have it wipe all that it holds.

    Its keys, models and data: now, or when it next connects.
    """
    if not yes:
        _row(ask(state, lambda cloud: cloud("node.list")), name)
        click.confirm(f"{name} will lose all it holds, and can join again only with a new invite. Go on?", abort=True)
    found = ask(state, lambda cloud: cloud("node.decommission", node=name, reason=reason))
    when = "it is connected, and was told to wipe itself" if found["connected"] else "it wipes itself when it connects"
    console().print(f"{name} is decommissioned; {when}")


@node.command()
@click.argument("name")
@json_option
@state_option
def show(state: Path | None, name: str, *, as_json: bool) -> None:
    """One node, by its name, its id, or the serial number of its board."""
    found = _row(ask(state, lambda cloud: cloud("node.list")), name)
    if as_json:
        print_json(found)
    else:
        table(["what", "value"], ({"what": k, "value": v} for k, v in found.items()), empty="nothing")


def _row(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Of the node that is called so. Raises NotFound."""
    found = [row for row in rows if name in (row["name"], row["node"], row.get("serial"))]
    if len(found) != 1:
        what = f"{len(found)} nodes answer" if found else "no node answers"
        raise NotFound(f"{what} to {name!r}", hint="msrt node list")
    return found[0]


@click.command()
@json_option
@state_option
def status(state: Path | None, *, as_json: bool) -> None:
    """The tree: nodes, models and versions, staleness, queues, jobs."""
    found = ask(state, lambda cloud: cloud("status"))
    if as_json:
        print_json(found)
        return
    cloud = found["cloud"]
    line = f"[bold]cloud[/] {cloud['name']}  journal {cloud['journal']}  up {cloud['up_s']:.0f} s"
    tree = Tree(f"{line}  {_trust_line(cloud.get('trust'))}".rstrip())
    for edge in found["edges"]:
        branch = tree.add(_edge_line(edge))
        for device in edge["devices"]:
            branch.add(_device_line(device))
    for device in found.get("unplaced", []):
        tree.add(f"[red]lost[/] {device['name']} ({device['role']})")
    console().print(tree)
    if found["models"]:
        table(["model", "version", "rollout", "ready"], found["models"], empty="")
    if found["jobs"]:
        table(["job", "state", "round", "rounds"], found["jobs"], empty="")


def _trust_line(trust: dict[str, float] | None) -> str:
    """How long the cloud's signatures are good."""
    if not trust:
        return ""
    if trust["left_s"] < 0 or trust["root_left_s"] < 0:
        what = "timestamp" if trust["left_s"] < 0 else "root"
        return f"[red]the signed {what} has ended: nothing new is accepted[/] (msrt cloud keys show)"
    soon = "  [yellow]the root ends soon: msrt cloud keys rotate-root[/]" if trust["root_left_s"] < SOON_S else ""
    lists = {key.split("_")[1]: left for key, left in trust.items() if key.startswith("unsigned_") and left < SOON_S}
    soon += "".join(
        f"  [yellow]{name} {'ends soon' if left > 0 else 'has ended'}: msrt cloud keys request {name} FILE[/]"
        for name, left in lists.items()
    )
    return f"signs by root {trust['root']:.0f}, good for {trust['left_s'] / 86_400:.1f} days{soon}"


def _doubt(values: dict[str, float]) -> str:
    """What a node says of its own trust, where something is wrong."""
    if values.get("trust_left_s", 1.0) < 0:
        return "  [red]signed metadata has ended: accepts nothing new[/]"
    if not values.get("trust_clock", 1.0):
        return "  [yellow]its clock was never set: it goes by the last signed time[/]"
    refused = values.get("trust_refused", 0.0)
    return f"  [yellow]{refused:.0f} refused as not signed[/]" if refused else ""


def _edge_line(edge: dict[str, Any]) -> str:
    alive = "[green]up[/]" if edge["alive"] else "[red]away[/]"
    behind = f"  {edge['behind']} entries behind" if edge["behind"] else ""
    behind += _doubt(edge["values"])
    return f"{alive} [bold]edge[/] {edge['name']} ({edge['region']})  queue {edge['queue']:.0f}{behind}"


def _device_line(device: dict[str, Any]) -> str:
    alive = "[green]up[/]" if device["alive"] else "[red]away[/]"
    models = ", ".join(f"{m['model']}@{m['version']} {m['variant']} {m['state']}" for m in device["models"])
    labels = " ".join(f"{k}={v}" for k, v in device["labels"].items())
    doubt = _doubt(device["values"])
    return f"{alive} {device['name']} {device['link']}  {models or 'no model'}  {labels}{doubt}".rstrip()
