"""`msrt model show`: one version as a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msrt.inference.bundle import MICRO
from msrt.operator.show import console, table

__all__ = ["print_model", "print_tried"]

NAMES: Final = 12
"""Labels that are shown; the rest is counted."""
ELSEWHERE: Final = frozenset({
    "model", "version", "inputs", "outputs", "batchable", "rowwise", "variants", "chosen", "require", "state", "labels",
    "scores", "temperature", "pre", "post", "tried", "latency_us", "calibration_error", "calibration_error_unscaled",
    "calibration",
})  # fmt: skip
"""What is said above the gate's report, or under it."""


def print_model(found: dict[str, Any]) -> None:
    """What it takes and gives, what runs around it, how sure it is, its files, and what the gate saw."""
    out = console()
    out.print(f"[bold]{found['model']}@{found['version']}[/bold]")
    for what, said in _lines(found):
        out.print(f"{what:<12}{said}", markup=False)
    out.print()
    rows = [{"variant": name, **_measures(variant)} for name, variant in found["variants"].items()]
    table(["variant", "size", "weights", "one_row", "method", "digest"], rows, empty="")
    report = [{"gate": key, "value": value} for key, value in found.items() if key not in ELSEWHERE]
    if report:
        out.print()
        table(["gate", "value"], report, empty="")
    print_tried(found)


def print_tried(found: dict[str, Any]) -> None:
    """The ways to int8 that the gate compared, a line each."""
    if found.get("tried"):
        console().print()
        columns = list(dict.fromkeys(key for note in found["tried"] for key in note))
        table(columns, found["tried"], empty="")


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What there is to say, each under its name."""
    yield "inputs", ", ".join(found["inputs"])
    yield "outputs", ", ".join(found["outputs"])
    for stage in ("pre", "post"):
        if found.get(stage):
            yield stage, str(found[stage])
    if found["state"]:
        keeps = found["state"] if isinstance(found["state"], str) else ", ".join(found["state"])
        yield "keeps", keeps
    yield "rows", _rows(found)
    if found["labels"]:
        labels = found["labels"]
        more = f" ... ({len(labels)} in all)" if len(labels) > NAMES else ""
        yield "labels", ", ".join(labels[:NAMES]) + more
    yield "confidence", _confidence(found)
    yield "serves", _choice(found)


def _rows(found: dict[str, Any]) -> str:
    if found["batchable"]:
        return "of several requests are computed together"
    return "travel together and are computed one by one" if found["rowwise"] else "one request at a time"


def _confidence(found: dict[str, Any]) -> str:
    if not found["scores"]:
        return str(found.get("calibration") or "as the outputs say: give --eval to have the temperature fitted")
    errors = ""
    if "calibration_error" in found:
        errors = f"; off by {found['calibration_error']:.3f}, unscaled by {found['calibration_error_unscaled']:.3f}"
    return f"{found['scores']} at temperature {found['temperature']:.3g}{errors}"


def _choice(found: dict[str, Any]) -> str:
    if found["require"]:
        return f"{found['require']} only"
    names = [name for name in found["variants"] if name != MICRO]
    if len(names) == 1:
        return str(names[0])
    return f"the faster one, as each device measures it; {found['chosen']} where it was pushed"


def _measures(variant: dict[str, Any]) -> dict[str, Any]:
    return {
        "size": _bytes(variant["bytes"]), "weights": _bytes(variant["weight_bytes"]),
        "one_row": f"{variant['latency_us']} us" if variant["latency_us"] else "-",
        "method": variant["method"], "digest": variant["digest"][:12],
    }  # fmt: skip


def _bytes(size: int) -> str:
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.2f} MiB"
