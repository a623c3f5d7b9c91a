"""`msrt cloud keys`: the keys that sign artifacts. Runs where the cloud's state is; new roots can be made elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from msrt.errors import Conflict, DeadlineExceeded, Disconnected
from msrt.operator.session import ask, state_option
from msrt.operator.show import console, json_option, print_json, table
from msrt.settings import CloudConfig
from msrt_cloud.signing_elsewhere import export_key, key_ring, sign_elsewhere

__all__ = ["keys"]

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def keys() -> None:
    """Keys that sign models, jobs, agents and images (TUF).

    They are made at the first start, and kept in STATE/keys.
    """


@keys.command()
@json_option
@state_option
def show(state: Path | None, *, as_json: bool) -> None:
    """Every role: its keys, its version, until when it is good.

    And how many of its keys are here.
    """
    rows = ask(state, lambda cloud: cloud("trust.show"))
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "keys": " ".join(key[:12] for key in row["keys"])} for row in rows]
    table(["role", "version", "expires", "threshold", "here", "keys"], shown, empty="")


@keys.command(name="export-root")
@file_argument
@click.option("--remove", is_flag=True, help="Take the key out of the cloud's state: then only FILE has it.")
@state_option
def export_root(state: Path | None, file: Path, *, remove: bool) -> None:
    """The same as `export root FILE`. The cloud needs it only for new roots, and goes on without."""
    export_key(state, "root", file, remove=remove)


@keys.command()
@file_argument
@state_option
def root(state: Path | None, file: Path) -> None:
    """Write the signed root that is in force to FILE (JSON).

    Where the keys are the next one is made of it.
    """
    file.write_bytes(ask(state, lambda cloud: cloud("trust.root"))["root"])
    console().print(f"{file}")


@keys.command(name="rotate-root")
@click.option(
    "--key", "sources", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="File with a key of the present root, where it is not in the cloud's state. May be repeated.",
)  # fmt: skip
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(["root", "targets", "snapshot", "timestamp"]),
    help="Whose keys are replaced. Default: root. May be repeated.",
)  # fmt: skip
@click.option("--keys", "count", type=click.IntRange(1, 16), default=1, show_default=True, help="New root keys.")
@click.option("--threshold", type=click.IntRange(1, 16), help="Signatures a root takes. Default: as before.")
@click.option("--root", "given", type=click.Path(path_type=Path, exists=True), help="The present root, from `root`.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the new root there, and change nothing yet.")
@state_option
def rotate_root(
    state: Path | None, sources: tuple[Path, ...], roles: tuple[str, ...], count: int, threshold: int | None,
    given: Path | None, out: Path | None,
) -> None:  # fmt: skip
    """Replace the root key, or those of another role.

    Nothing that the old ones sign counts from then on. New keys lie in STATE/keys. Without `--out` the cloud takes
    the new root at once; with `--root` as well this runs without the cloud, and `import-root` brings the result.
    """
    from msrt_cloud.signing.keys import load_keys  # noqa: PLC0415 - --help stays quick
    from msrt_cloud.signing.rotation import lacking, next_root, sign_root  # noqa: PLC0415
    from msrt_cloud.signing.signed import encode  # noqa: PLC0415

    known = {"root": given.read_bytes()} if given is not None else {}
    found: dict[str, Any] = known or ask(state, lambda cloud: cloud("trust.root"))
    current, period, ring = found["root"], float(found.get("period_s", CloudConfig().trust_root_s)), key_ring(state)
    old = ring.signers() | {one.public_key.keyid: one for path in sources for one in load_keys(path)}
    made = [(role, ring.make(role)) for role in roles or ("root",) for _ in range(count if role == "root" else 1)]
    try:
        fresh = {role: [one.public_key for other, one in made if other == role] for role, _ in made}
        wall = time.time()  # noqa: TID251 - a command lives in real time
        metadata = next_root(current, wall, period, fresh, threshold or 0)
        sign_root(metadata, current, old | {one.public_key.keyid: one for _, one in made})
        _bring(state, encode(metadata), lacking(metadata, current), out)
    except (Disconnected, DeadlineExceeded, KeyboardInterrupt):
        raise  # the cloud may have taken it: its keys must not be lost
    except BaseException:
        for role, one in made:
            ring.remove(role, one.public_key.keyid)
        raise
    console().print(f"root {metadata.signed.version}: new keys for {', '.join(fresh)}")


def _bring(state: Path | None, data: bytes, missing: str, out: Path | None) -> None:
    """A new root to the cloud, or into a file."""
    if out is not None:
        out.write_bytes(data)
        console().print(f"written to {out}{f': it has {missing} (sign-root)' if missing else ''}")
    elif missing:
        raise Conflict(f"the new root has {missing}", hint="name the keys with --key, or write it with --out")
    else:
        _import(state, [data])


@keys.command(name="sign-root")
@file_argument
@click.option(
    "--key", "sources", multiple=True, required=True, type=click.Path(path_type=Path, exists=True),
    help="Its key file. May be repeated.",
)  # fmt: skip
@click.option("--root", "given", required=True, type=click.Path(path_type=Path, exists=True), help="The present root.")
def sign_root_file(file: Path, sources: tuple[Path, ...], given: Path) -> None:
    """Add signatures to a new root in FILE, where a root takes several people's. Needs no cloud."""
    from tuf.api.metadata import Root  # noqa: PLC0415 - --help stays quick

    from msrt_cloud.signing.keys import load_keys  # noqa: PLC0415
    from msrt_cloud.signing.rotation import lacking, sign_root  # noqa: PLC0415
    from msrt_cloud.signing.signed import decode, encode  # noqa: PLC0415

    metadata, current = decode(Root, file.read_bytes()), given.read_bytes()
    sign_root(metadata, current, {one.public_key.keyid: one for path in sources for one in load_keys(path)})
    file.write_bytes(encode(metadata))
    console().print(f"{file} has {lacking(metadata, current) or 'all signatures that it takes'}")


@keys.command(name="import-root")
@click.argument("files", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@state_option
def import_root(state: Path | None, files: tuple[Path, ...]) -> None:
    """Bring signed new roots, oldest first.

    The cloud checks them and signs what follows from them.
    """
    console().print(f"root {_import(state, [path.read_bytes() for path in files])} is in force")


@keys.command()
@click.argument("kind", type=click.Choice(["models", "jobs", "agents", "images"]))
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def rotate(state: Path | None, kind: str, *, yes: bool) -> None:
    """Replace the key of a kind of artifacts by one that is made here.

    All that it signed is signed by the new one.
    """
    row = next(row for row in ask(state, lambda cloud: cloud("trust.show")) if row["role"] == kind)
    if row["here"] < row["threshold"] and not yes:
        click.confirm(
            f"The keys of {kind} are elsewhere (request {kind} FILE --public KEY.pub replaces them there). "
            "Have one here sign in their place, alone?",
            abort=True, err=True,
        )  # fmt: skip
    found = ask(state, lambda cloud: cloud("trust.rotate", 120.0, kind=kind))
    console().print(f"{kind}: new key {found['keyid'][:12]}")


def _import(state: Path | None, roots: list[bytes]) -> int:
    found: dict[str, Any] = ask(state, lambda cloud: cloud("trust.import", 120.0, roots=roots))
    return int(found["version"])


sign_elsewhere(keys)
