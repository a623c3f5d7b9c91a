"""`msrt cloud keys make|export|request|sign|import`: lists that are signed on a machine without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from msrt.errors import CallerError, Conflict, NotFound, NotTrusted
from msrt.operator.session import ask, state_option
from msrt.operator.show import console, table

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from msrt.artifacts.images import Image
    from msrt_cloud.signing.keys import FolderRing

__all__ = ["export_key", "key_ring", "sign_elsewhere"]

EXPORTED = ("root", "targets", "agents", "images")
file_argument = click.argument("file", type=click.Path(path_type=Path))
present = click.Path(path_type=Path, exists=True, dir_okay=False)


def sign_elsewhere(keys: click.Group) -> None:
    """Add these commands."""
    for command in (make, export, request, sign_list, import_list):
        keys.add_command(command)


@click.command()
@file_argument
def make(file: Path) -> None:
    """Make a key: FILE (PEM, mode 0600) stays with you, FILE.pub goes to the cloud. Needs no cloud."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - --help stays quick
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415

    from msrt.trust.private import write_private  # noqa: PLC0415

    public = file.with_name(file.name + ".pub")
    for path in (file, public):
        if path.exists():
            raise Conflict(f"{path} exists already", hint="name a file that does not")
    signer = CryptoSigner.generate_ed25519()
    write_private(file, signer.private_bytes)
    loaded = serialization.load_pem_private_key(signer.private_bytes, None)
    public.write_bytes(
        loaded.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )  # fmt: skip
    console().print(f"key {signer.public_key.keyid[:12]}: {file}, and its public half {public}")


@click.command()
@click.argument("role", type=click.Choice(EXPORTED))
@file_argument
@click.option("--remove", is_flag=True, help="Take the key out of the cloud's state: then only FILE has it.")
@state_option
def export(state: Path | None, role: str, file: Path, *, remove: bool) -> None:
    """Write the key of a role to FILE (PEM, mode 0600). Runs where the cloud's state is.

    Without its root key the cloud goes on; without that of agents or images these are signed elsewhere (`request`).
    """
    export_key(state, role, file, remove=remove)


def export_key(state: Path | None, role: str, file: Path, *, remove: bool) -> None:
    """See `export`."""
    from msrt.trust.private import read_private, write_private  # noqa: PLC0415 - --help stays quick

    ring = key_ring(state)
    rows = {row["role"]: row for row in ask(state, lambda cloud: cloud("trust.show"))}
    found = {keyid: signer for keyid, signer in ring.signers().items() if keyid in rows[role]["keys"]}
    if not found:
        raise NotFound(f"the {role} key is not here: it was taken out before")
    if file.exists():
        raise Conflict(f"{file} exists already", hint="name a file that does not")
    data = b"".join(signer.private_bytes for signer in found.values())
    write_private(file, data)
    if read_private(file) != data:
        raise Conflict(f"{file} does not read back as it was written", hint="nothing was removed")
    if remove:
        for keyid in found:
            ring.remove(role, keyid)
    console().print(f"{len(found)} {role} key{'s' if len(found) > 1 else ''} written to {file}")
    console().print("removed from the cloud" if remove else "still in the cloud's state: --remove takes it out")


@click.command()
@click.argument("role", type=click.Choice(["targets", "agents", "images"]))
@file_argument
@click.option(
    "--public", "public", multiple=True, type=present, metavar="FILE",
    help="Public half of a key that shall sign from now on, in place of those that do. May be repeated.",
)  # fmt: skip
@click.option("--threshold", type=click.IntRange(1, 16), help="Signatures that it then takes. Default: 1.")
@state_option
def request(state: Path | None, role: str, file: Path, public: tuple[Path, ...], threshold: int | None) -> None:
    """Write what is to be signed where the keys are.

    That is the list of a role again, before it ends, or for new keys. For another image: `msrt update push ...
    --request FILE`. Sign FILE with `sign`, bring it with `import`.
    """
    from msrt_cloud.signing.offline import public_key  # noqa: PLC0415 - --help stays quick

    if threshold and not public:
        raise CallerError("a threshold is for new keys", hint="name them: --public FILE")
    pems = [path.read_bytes() for path in public]
    for path, pem in zip(public, pems, strict=True):
        public_key(pem, str(path))
    if file.exists():
        raise Conflict(f"{file} exists already", hint="name a file that does not")
    asked = {"role": role, "public": pems, "threshold": threshold or 0}
    file.write_bytes(ask(state, lambda cloud: cloud("trust.request", **asked)))
    console().print(f"{file}: msrt cloud keys sign {file.name} --key KEY, where the keys are")


@click.command(name="sign")
@file_argument
@click.option("--key", "sources", multiple=True, required=True, type=present, help="Its key file. May be repeated.")
@click.option(
    "--image", "images", multiple=True, type=present,
    help="An image that you have yourself: sign only when the new images are these, byte for byte. May be repeated.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign_list(file: Path, sources: tuple[Path, ...], images: tuple[Path, ...], *, yes: bool) -> None:
    """See what is in FILE, and sign it. Needs no cloud and no network."""
    from msrt_cloud.signing import offline  # noqa: PLC0415 - --help stays quick
    from msrt_cloud.signing.keys import load_keys  # noqa: PLC0415

    asked = offline.read(_bytes(file), str(file))
    signers = {one.public_key.keyid: one for path in sources for one in load_keys(path)}
    new = offline.news(asked, signers)
    signed = offline.sign_request(asked, signers)
    count, ends = offline.standing(signed)
    console().print(f"{asked.role}, good until {ends:%Y-%m-%d %H:%M} UTC{_new_keys(asked.rotates, signers)}")
    table(
        ["name", "classes", "size", "sha256"],
        ({"name": i.name, "classes": i.classes, "size": i.size, "sha256": i.digest} for i in new),
        empty="no image that these keys have not signed before",
    )
    if images:
        _check_images(new, images)
    if not yes and not click.confirm("Sign it?"):
        raise click.Abort
    file.write_bytes(offline.write(signed))
    missing = signed.threshold - count
    console().print(
        f"{file} has {count} of {signed.threshold} signatures: "
        + ("it takes more" if missing > 0 else f"msrt cloud keys import {file.name}, or msrt update push --signed")
    )


def _new_keys(rotates: bool, signers: dict[str, CryptoSigner]) -> str:  # noqa: FBT001 - a field of the request
    return f"; from now on by other keys, yours ({len(signers)}) among them" if rotates else ""


def _check_images(new: list[Image], files: tuple[Path, ...]) -> None:
    have = {}
    for path in files:
        with path.open("rb") as data:
            have[hashlib.file_digest(data, "sha256").hexdigest()] = path
    for image in new:
        if image.digest not in have:
            raise NotTrusted(
                f"none of these files is {image.name} for {image.classes}",
                hint="the cloud has another one: do not sign",
            )


@click.command(name="import")
@file_argument
@state_option
def import_list(state: Path | None, file: Path) -> None:
    """Bring a list that was signed: the cloud checks it, and devices hear of it."""
    data = _bytes(file)
    found = ask(state, lambda cloud: cloud("trust.accept", 120.0, request=data))
    console().print(f"{found['role']} {found['version']} is in force")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read {file}: {error.strerror}") from error


def key_ring(state: Path | None) -> FolderRing:
    """The cloud's keys on this machine. Raises CallerError."""
    from msrt.process import default_state  # noqa: PLC0415 - --help stays quick
    from msrt_cloud.signing.keys import FolderRing  # noqa: PLC0415

    folder = (state or default_state("cloud")) / "keys"
    if not folder.is_dir():
        raise CallerError(f"{folder} is not there", hint="run this where the cloud runs, with its --state")
    return FolderRing(folder)
