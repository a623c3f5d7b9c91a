"""`msrt train serve`: a node's own model of a job, run on that node."""

from __future__ import annotations

from pathlib import Path

import click

from msrt.operator.session import ask, state_option
from msrt.operator.show import console, json_option, print_json

__all__ = ["serve"]


@click.command()
@click.argument("job")
@click.option("--node", required=True, metavar="NAME", help="The device whose model it is, and that runs it.")
@click.option("--model", default="", metavar="MODEL", help="Name of the model; left out: JOB-NAME.")
@json_option
@state_option
def serve(state: Path | None, job: str, node: str, model: str, *, as_json: bool) -> None:
    """Run on a node the model of JOB as that node has it.

    It has the layers that [train] keep_local keeps there, and they do not leave it. The node makes the model and
    the cloud signs for its digest; its requests, and the node's own sensors, are answered by that node alone. Say
    it again after more rounds: that is the next version.
    """
    found = ask(state, lambda cloud: cloud("train.serve", 500.0, job=job, node=node, model=model))
    if as_json:
        print_json(found)
        return
    what = f"{found['model']}@{found['version']}"
    console().print(f"{what} goes to {found['node']} with the layers of its own that it kept in round {found['round']}")
    if not found["matching"]:
        console().print(f"{found['node']} is away: it loads it when it is back")
