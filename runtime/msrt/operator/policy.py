"""`msrt model policy` and `msrt model shadow`: how a model is served, and what its shadow has shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from msrt.operator.session import ask, state_option
from msrt.operator.show import json_option, print_json, table
from msrt.protocol.address import ModelName

__all__ = ["policy", "shadow"]

_UNITS: Final = {"": 1, "b": 1, "kb": 1000, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_TIME: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}
OFF: Final = "off"
PRIORITIES: Final = {"urgent": 1, "normal": 0, "background": -1}


def _amount(text: str, units: dict[str, Any], example: str) -> float:
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2].lower() not in units:
        raise click.BadParameter(f"{text!r} is none; say {example}")
    return float(found[1]) * float(units[found[2].lower()])


def _cache(text: str) -> dict[str, object]:
    """`16MiB:60s`, `16MiB`, or `off`."""
    if text == OFF:
        return {"cache_bytes": 0}
    size, colon, age = text.partition(":")
    out: dict[str, object] = {"cache_bytes": int(_amount(size, _UNITS, "16MiB:60s, or off"))}
    return {**out, "cache_age_s": _amount(age, _TIME, "16MiB:60s, or off")} if colon else out


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{text!r} is no share; say 10% or 0.1")
    return value


def _shadow(text: str) -> dict[str, object]:
    """`3`, `3:25%`, or `off`."""
    if text == OFF:
        return {"shadow": 0}
    version, colon, share = text.partition(":")
    if not version.isdigit() or not int(version):
        raise click.BadParameter(f"{version!r} is no version; say 3, 3:25%, or off")
    return {"shadow": int(version), "shadow_share": _share(share) if colon else 1.0}


@click.command()
@click.argument("name")
@click.option("--cache", default=None, metavar="SIZE[:AGE]|off", help="Keep answers on each edge: 16MiB:60s.")
@click.option("--shadow", default=None, metavar="V[:SHARE]|off", help="Copy requests to version V and compare.")
@click.option("--escalate-to", default=None, metavar="MODEL|off", help="Ask this larger model where NAME is not sure.")
@click.option("--escalate-below", default=None, metavar="SHARE", help="Confidence below which; 0: adapted.")
@click.option("--escalate-budget", default=None, metavar="SHARE", help="Most of the rows that may go up.")
@click.option("--escalate-accuracy", default=None, metavar="SHARE", help="Expected accuracy of what is answered here.")
@click.option("--overflow/--no-overflow", default=None, help="A full region asks a neighbour or the cloud.")
@click.option("--hedge/--no-hedge", default=None, help="A late request may be asked of a second device.")
@click.option("--priority", default=None, type=click.Choice(list(PRIORITIES)), help="Of requests that name none.")
@click.option("--reset", is_flag=True, help="Begin with the plain policy.")
@click.option("--show", is_flag=True, help="Only say what is in force (as without any option).")
@json_option
@state_option
def policy(state: Path | None, name: str, *, as_json: bool, show: bool, reset: bool, **options: Any) -> None:
    """How NAME is served: result cache, shadow, cascade, overflow, hedging, priority.

    What is not named stays as it is. Edges follow within moments, and go on by it with the cloud away.
    """
    change = _change(options)
    if show and (change or reset):
        raise click.UsageError("--show changes nothing: leave it out, or the others")
    model = ModelName.parse(name).name
    found = ask(state, lambda cloud: cloud("model.policy", model=model, change=change, reset=reset))
    if as_json:
        print_json(found)
    else:
        table(["what", "value"], ({"what": k, "value": v} for k, v in found.items()), empty="nothing")


def _change(options: dict[str, Any]) -> dict[str, object]:
    """The fields of a policy that options name."""
    change: dict[str, object] = {}
    for key, value in options.items():
        if value is None:
            continue
        match key:
            case "cache":
                change |= _cache(value)
            case "shadow":
                change |= _shadow(value)
            case "escalate_to":
                change[key] = "" if value == OFF else ModelName.parse(value).name
            case "escalate_below" | "escalate_budget" | "escalate_accuracy":
                change[key] = _share(value)
            case "priority":
                change[key] = PRIORITIES[value]
            case _:
                change[key] = value
    return change


@click.command()
@click.argument("name", default="")
@json_option
@state_option
def shadow(state: Path | None, name: str, *, as_json: bool) -> None:
    """What shadows have shown, of NAME or of all: agreement, latency, drift.

    Agreement is the share of rows with the same class; difference the mean relative difference of the first output;
    drift the Jensen-Shannon divergence of the classes, 0 to 1. Edges that are away are not in it.
    """
    model = ModelName.parse(name).name if name else ""
    rows = ask(state, lambda cloud: cloud("model.shadow", model=model))
    if as_json:
        print_json(rows)
        return
    columns = [
        "model", "version", "against", "copies", "dropped", "failed", "agreement", "difference", "drift",
        "primary_p50_us", "shadow_p50_us", "primary_p99_us", "shadow_p99_us",
    ]  # fmt: skip
    table(columns, rows, empty="no shadow: msrt model policy NAME --shadow VERSION")
