"""What the journal names, as targets that are signed for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msrt.artifacts.images import Image, read_image
from msrt.journal.facts import ImagePushed, JobCreated, ModelPushed
from msrt.journal.state import State
from msrt.trust.tuf import names
from msrt_cloud.signing.lists import Target

__all__ = ["bundle_of", "described", "image_of", "signed_for", "target_of"]


def target_of(pushed: ModelPushed) -> tuple[str, Target]:
    """A model version: its manifest, which names its files by digest."""
    digest = hashlib.sha256(pushed.manifest).hexdigest()
    return names.model(pushed.model, pushed.version), (digest, len(pushed.manifest))


def bundle_of(created: JobCreated, size: int) -> tuple[str, Target]:
    """A job: its bundle."""
    return names.job(created.job), (created.bundle, size)


def image_of(pushed: ImagePushed) -> tuple[str, Target]:
    """An image of an agent, a system or a firmware: its description, which names its bytes by digest."""
    digest = hashlib.sha256(pushed.image).hexdigest()
    return names.image(pushed.kind, pushed.version, pushed.classes), (digest, len(pushed.image))


def described(state: State) -> list[Image]:
    """Every image that it names."""
    return [read_image(pushed.image) for by_class in state.images.values() for pushed in by_class.values()]


def signed_for(state: State, size: Callable[[str], int | None]) -> dict[str, Target]:
    """All of it. size: bytes of an artifact that is here; a job whose bundle is gone is left out."""
    models = dict(target_of(pushed) for versions in state.models.values() for pushed in versions.values())
    sized = ((job.created, size(job.created.bundle)) for job in state.jobs.values())
    models |= dict(image_of(pushed) for by_class in state.images.values() for pushed in by_class.values())
    return models | dict(bundle_of(created, found) for created, found in sized if found is not None)
