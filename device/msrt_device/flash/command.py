"""`msrt device targets`, `image` and `flash`."""

from __future__ import annotations

import click

from msrt.operator.show import json_option, print_json, table

__all__ = ["targets"]


@click.command()
@json_option
def targets(*, as_json: bool) -> None:
    """The boards that images can be made for: what each needs here, and what was verified of it."""
    from msrt_device.flash.targets import targets as known  # noqa: PLC0415 - --help stays quick

    rows = [
        {
            "name": one.name, "title": one.title, "needs": one.needs(), "verified": one.verified,
            "options": dict(one.options),
        }
        for one in known()
    ]  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        table(["name", "title", "needs", "verified"], rows, empty="no target is installed")
