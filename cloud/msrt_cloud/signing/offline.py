"""Signing where the keys are: a file with what is to be signed goes there, and comes back signed.

It holds all that whoever signs must see: the list, the one before it, and the description of every image that it names.
What a cloud says is not believed there: only what these very keys signed before counts as known. Nor does the cloud
believe what comes back: it is held against the keys in force, the version in force, and the clock.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import Delegations, Metadata, TargetFile, Targets

from msrt.artifacts.images import Image, pack_image
from msrt.errors import CallerError, Conflict, Corrupt, InvalidConfig, NotTrusted
from msrt.trust.tuf import names
from msrt.trust.tuf.names import Kind
from msrt_cloud.signing.signed import decode, encode, renewed

__all__ = [
    "OFFLINE", "Request", "authority", "check_offline", "checked", "draft", "more", "news", "path_of", "public_key",
    "read", "sign_request", "standing", "write",
]  # fmt: skip

OFFLINE: Final = ("targets", Kind.AGENT.value, Kind.IMAGE.value)
"""Lists that change seldom enough to be signed by hand."""
KEYS: Final = 16


class Request(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True,
    tag_field="format", tag="msrt signing request 1",
):  # fmt: skip
    """One list to be signed, as JSON that a person can read."""

    role: str
    keys: dict[str, dict[str, Any]]
    """Public keys whose signatures count, by their ids."""
    threshold: int
    """Signatures that it takes."""
    metadata: str
    """The list (TUF), with the signatures that it has so far."""
    former: str
    """The list in force."""
    images: tuple[Image, ...] = ()
    """What it names."""
    rotates: bool = False
    """These keys are to take the place of those in force."""


def read(data: bytes, what: str) -> Request:
    """A request's file. Raises Corrupt."""
    try:
        request = msgspec.json.decode(data, type=Request)
        decode(Targets, request.metadata.encode())
        authority(request)
    except (msgspec.MsgspecError, UnicodeDecodeError, Corrupt) as error:
        raise Corrupt(f"{what} is no signing request: {error}", hint="msrt cloud keys request ROLE FILE") from error
    return request


def write(request: Request) -> bytes:
    """The inverse of `read`."""
    return msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n"


def public_key(pem: bytes, what: str) -> Key:
    """The key in a file of `msrt cloud keys make`. Raises Corrupt."""
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        hint = "name the .pub file" if b"PRIVATE" in pem else "it is PEM, as msrt cloud keys make writes it"
        raise Corrupt(f"{what} is no public key", hint=hint) from error
    if not isinstance(key, Ed25519PublicKey):
        raise Corrupt(f"{what} is no Ed25519 key", hint="devices know no other kind")
    return SSlibKey.from_crypto(key)


def authority(request: Request) -> dict[str, Key]:
    """The keys that it names. Raises Corrupt."""
    try:
        keys = {keyid: Key.from_dict(keyid, dict(fields)) for keyid, fields in request.keys.items()}
        different = {key.keyval["public"] for key in keys.values() if key.keytype == "ed25519"}
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"a key in it cannot be read: {error}") from error
    if not 1 <= request.threshold <= len(different) <= KEYS:
        raise Corrupt(f"{request.threshold} signatures of {len(different)} Ed25519 keys cannot be had")
    return keys


def check_offline(role: str, keys: Sequence[Key], threshold: int) -> None:
    """May this list be signed elsewhere, by these new keys? Raises InvalidConfig."""
    if role not in OFFLINE:
        raise InvalidConfig(f"{role} is signed by the cloud itself", hint=f"elsewhere: {', '.join(OFFLINE)}")
    if keys and role == "targets":
        raise InvalidConfig("the root names the keys of targets", hint="msrt cloud keys rotate-root --role targets")
    if keys and not 1 <= (threshold or 1) <= len({key.keyid for key in keys}):
        raise InvalidConfig(
            f"{threshold} signatures of {len(keys)} keys cannot be had", hint="name more keys: --public FILE"
        )


# --- at the cloud, before -------------------------------------------------------------------------------------------


def draft(
    role: str, former: bytes, keys: Sequence[Key], threshold: int, images: Iterable[Image], *,
    rotates: bool, wall: float, period_s: float,
) -> Request:  # fmt: skip
    """The next version of a list, unsigned. images: all that the journal names of this kind."""
    described = {path_of(image): image for image in images}
    metadata = decode(Targets, former)
    if rotates:  # what nobody names any more is not signed again
        targets = metadata.signed.targets
        metadata.signed.targets = {path: file for path, file in targets.items() if path in described}
    renewed(metadata.signed, wall, period_s)
    metadata.signatures.clear()
    known = tuple(image for path, image in described.items() if path in metadata.signed.targets)
    by_id = {key.keyid: key.to_dict() for key in keys}
    return Request(role, by_id, threshold, encode(metadata).decode(), former.decode(), known, rotates)


def more(request: Request, image: Image) -> Request:
    """With another image on its list. Raises Conflict."""
    metadata = decode(Targets, request.metadata.encode())
    if metadata.signatures:
        raise Conflict("the request is signed already: what is added now would not be", hint="name another file")
    path, description = path_of(image), pack_image(image)
    metadata.signed.targets[path] = TargetFile(
        len(description), {"sha256": hashlib.sha256(description).hexdigest()}, path
    )
    others = tuple(other for other in request.images if path_of(other) != path)
    return msgspec.structs.replace(request, metadata=encode(metadata).decode(), images=(*others, image))


def path_of(image: Image) -> str:
    """Where it is signed."""
    return names.image(image.kind, image.version, image.classes)


# --- where the keys are ---------------------------------------------------------------------------------------------


def news(request: Request, signers: Mapping[str, CryptoSigner]) -> list[Image]:
    """The images that it names and none of these keys signed for before. Raises NotTrusted where it names something
    that it does not describe, or other keys than these keys named before: then nobody can tell what would be signed."""
    metadata, former = (decode(Targets, text.encode()) for text in (request.metadata, request.former))
    ours = _good(former, {keyid: one.public_key for keyid, one in signers.items()})
    known = former.signed.targets if ours else {}
    named = former.signed.delegations if ours and request.role == "targets" else None
    if _plain(metadata.signed.delegations) != _plain(named):
        raise NotTrusted(
            f"{request.role} would name other keys than this key has signed for", hint="do not sign it; make it anew"
        )
    described = {path_of(image): image for image in request.images}
    found = []
    for path, file in metadata.signed.targets.items():
        if path in known and known[path].hashes == file.hashes:
            continue
        image = described.get(path)
        if image is None or hashlib.sha256(pack_image(image)).hexdigest() != file.hashes.get("sha256"):
            raise NotTrusted(f"the request does not say what is behind {path}", hint="do not sign it; make it anew")
        found.append(image)
    return found


def sign_request(request: Request, signers: Mapping[str, CryptoSigner]) -> Request:
    """With the signatures of these keys. Raises CallerError where one of them counts for nothing."""
    metadata = decode(Targets, request.metadata.encode())
    for keyid, signer in signers.items():
        if keyid not in request.keys:
            raise CallerError(
                f"the key {keyid[:12]} does not sign {request.role}",
                hint=f"its keys are {', '.join(known[:12] for known in request.keys)}",
            )
        metadata.sign(signer, append=True)
    return msgspec.structs.replace(request, metadata=encode(metadata).decode())


def standing(request: Request) -> tuple[int, dt.datetime]:
    """How many of its keys have signed it, and until when it is good."""
    metadata = decode(Targets, request.metadata.encode())
    return len(_good(metadata, authority(request))), metadata.signed.expires


# --- at the cloud, after --------------------------------------------------------------------------------------------


def checked(
    request: Request, current: bytes, keys: Mapping[str, Key], threshold: int, needed: Collection[str], wall: float
) -> bytes:
    """The list as it will travel; empty: it is in force already. current: the one in force; keys: whose signatures
    count; needed: paths that the journal names. Raises NotTrusted (signatures; an old list), Conflict (it does not
    follow on the one in force, or has ended)."""
    role, metadata, former = request.role, decode(Targets, request.metadata.encode()), decode(Targets, current)
    good = _good(metadata, keys)
    if len(good) < threshold:
        raise NotTrusted(
            f"{role} has {len(good)} of the {threshold} signatures that it takes",
            hint=f"msrt cloud keys sign, with the keys {', '.join(keyid[:12] for keyid in keys)}",
        )
    new, old = metadata.signed, former.signed
    if metadata.signed_bytes == former.signed_bytes:
        return b""
    if new.version < old.version:
        raise NotTrusted(f"{role} {new.version} is older than {old.version}, which is in force")
    if new.version != old.version + 1:
        raise Conflict(
            f"{role} {new.version} was not made from {role} {old.version}, which is in force",
            hint="make a new request; several images can go into one",
        )
    if new.expires.timestamp() <= wall:
        raise Conflict(f"what was signed has ended: {new.expires:%Y-%m-%d %H:%M}", hint="make a new request")
    _check_content(request, new, old, needed)
    for keyid in list(metadata.signatures):
        if keyid not in good:
            del metadata.signatures[keyid]
    return encode(metadata)


def _check_content(request: Request, new: Targets, old: Targets, needed: Collection[str]) -> None:
    """Raises Conflict where it gives up or changes what others rely on."""
    if _plain(new.delegations) != _plain(old.delegations):
        raise Conflict(f"{request.role} names other keys than before", hint="msrt cloud keys rotate, or rotate-root")
    lost = [path for path, file in old.targets.items() if path in needed and new.targets.get(path) != file]
    if lost:
        raise Conflict(f"it no longer signs {lost[0]} as it was", hint="make a new request")
    odd = [path for path in new.targets if path.partition("/")[0] != request.role]
    if odd:
        raise Conflict(f"{request.role} does not sign {odd[0]}")


def _plain(delegations: Delegations | None) -> dict[str, Any] | None:
    """To be compared."""
    return delegations.to_dict() if delegations is not None else None


def _good(metadata: Metadata[Targets], keys: Mapping[str, Key]) -> set[str]:
    """Ids of the keys that signed it."""
    out = set()
    for keyid, key in keys.items():
        signature = metadata.signatures.get(keyid)
        if signature is not None:
            try:
                key.verify_signature(signature, metadata.signed_bytes)
            except (UnverifiedSignatureError, VerificationError):
                continue
            out.add(keyid)
    return out
