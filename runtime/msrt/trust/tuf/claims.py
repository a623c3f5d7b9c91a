"""What is asked of a floor: may this artifact be used? Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import msgspec

from msrt.artifacts.images import Image
from msrt.trust.identity import Purpose
from msrt.trust.tuf import names

__all__ = ["Claim", "Vouch", "bundle_claim", "image_claim", "manifest_claim"]


class Claim(msgspec.Struct, frozen=True):
    """An artifact that somebody names, and the path under which it would be signed."""

    path: str
    digest: str
    """SHA-256, hex."""
    size: int = -1
    """Bytes; -1: whoever asks does not know."""
    signed: bytes = b""
    """What the cloud's identity signed of it: counts only in a tree that has no TUF metadata yet."""
    signature: bytes = b""
    purpose: Purpose = Purpose.MANIFEST


Vouch = Callable[[Claim], Awaitable[None]]
"""Raises BadSignature, NotTrusted or TrustExpired unless it may be used; and what stands between here and the answer:
Disconnected, DeadlineExceeded, DiskFull."""


def manifest_claim(model: str, version: int, manifest: bytes, signature: bytes) -> Claim:
    """A model version, as a placement or the journal brings it. Raises InvalidAddress."""
    digest = hashlib.sha256(manifest).hexdigest()
    return Claim(names.model(model, version), digest, len(manifest), manifest, signature, Purpose.MANIFEST)


def image_claim(image: Image, description: bytes, signature: bytes) -> Claim:
    """An image of an agent, a system or a firmware, by its description, which names its bytes by digest."""
    path = names.image(image.kind, image.version, image.classes)
    digest = hashlib.sha256(description).hexdigest()
    return Claim(path, digest, len(description), description, signature, Purpose.IMAGE)


def bundle_claim(job: str, digest: str, signature: bytes) -> Claim:
    """A job's bundle, as a round names it. Raises InvalidAddress."""
    return Claim(names.job(job), digest, -1, digest.encode(), signature, Purpose.BUNDLE)
