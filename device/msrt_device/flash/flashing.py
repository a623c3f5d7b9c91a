"""A board's medium from beginning to end: checked, asked about, written, verified, and given its identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msrt.process import default_state
from msrt_device.flash.identity.issued import issue
from msrt_device.flash.identity.medium import find_volume, write_identity
from msrt_device.flash.identity.place import need_place
from msrt_device.flash.identity.settings import IdentitySettings
from msrt_device.flash.kinds import look
from msrt_device.flash.raspberrypi.boot import seed_medium
from msrt_device.flash.writing.errors import MediumRefused, NotVerified
from msrt_device.flash.writing.image import Image
from msrt_device.flash.writing.journal import Journal
from msrt_device.flash.writing.machine import Machine
from msrt_device.flash.writing.medium import Medium, OpenMedium, check, describe
from msrt_device.flash.writing.verify import verify
from msrt_device.flash.writing.writer import Progress, Written, write_image

__all__ = ["Flashed", "Plan", "check_base", "flash", "give_identity"]


@dataclass(frozen=True)
class Plan:
    """What a flash is allowed to do."""

    confirm: Callable[[Medium], None]
    """Called before anything changes on a medium that holds something; raises to stop it."""
    force_non_removable: bool = False
    resume: bool = True
    bmap: Path | None = None
    force_unknown_image: bool = False
    """Write a file that is no image of a kind that is known."""
    issue: bool = False
    """The claim is spent here, once the image is verified, and the medium gets keys and a certificate instead."""


@dataclass(frozen=True)
class Flashed:
    """What came of it. It is verified, or an error was raised."""

    size: int
    """Bytes of the image, unpacked."""
    wrote: int
    """Bytes that went to the medium."""
    resumed: int
    """Bytes that an earlier try had written."""
    ranges: int
    """How many were read back and compared."""


def flash(
    source: Path,
    target: Path,
    settings: IdentitySettings | None,
    plan: Plan,
    progress: Progress,
    machine: Machine | None = None,
) -> Flashed:
    """Write the image, read it back, then write the identity, if one is given, and read that back.

    Raises MediumRefused, MediumFailed, BadImage, UnknownImage, NotVerified, SettingNotTaken, NotFound (no place for an
    identity: where a look can tell, before the medium is touched), what `plan.confirm` raises. After any of them the
    medium does not boot, or boots the whole image.
    """
    image = Image.open(source, plan.bmap)
    medium = describe(target, machine or Machine())
    if target.exists() and source.samefile(target):
        raise MediumRefused("kind", f"{target} is the image itself")
    check(medium, image.size, force_non_removable=plan.force_non_removable)
    _look(image, plan, on_disk=medium.disk is not None, identity=settings is not None)
    if medium.size:
        plan.confirm(medium)
    with OpenMedium.open(medium) as sink:
        journal = Journal.of(default_state("flash"), source, medium)
        if not (plan.resume and journal.believe(sink)):
            journal.forget()
            sink.blank()
        resumed = journal.bytes
        written = write_image(image, sink, progress, journal)
        sink.grow(written.size)
        sink.sync()
        _verify(written, sink, journal, progress)
        if settings is not None:
            _give(sink, max(written.size, medium.size), settings, plan)
    return Flashed(written.size, written.wrote, resumed, len(written.ranges))


def check_base(source: Path, plan: Plan) -> None:
    """May boards be made of it, in files, each with an identity? Raises BadImage, UnknownImage, NotFound."""
    _look(Image.open(source, plan.bmap), plan, on_disk=False, identity=True)


def give_identity(target: Path, settings: IdentitySettings, plan: Plan, machine: Machine | None = None) -> None:
    """Write only the identity: the base is on the medium already. Raises what `flash` raises."""
    medium = describe(target, machine or Machine())
    if not medium.size:
        raise MediumRefused("kind", f"there is nothing on {target} yet", hint="write an image first")
    check(medium, 0, force_non_removable=plan.force_non_removable)
    plan.confirm(medium)
    with OpenMedium.open(medium) as sink:
        _give(sink, medium.size, settings, plan)


def _look(image: Image, plan: Plan, *, on_disk: bool, identity: bool) -> None:
    if not plan.force_unknown_image:
        look(image, on_disk=on_disk, identity=identity)
    if identity:
        need_place(image)


def _give(sink: OpenMedium, size: int, settings: IdentitySettings, plan: Plan) -> None:
    if plan.issue:
        find_volume(sink, size)  # before the claim is spent for nothing
        write_identity(sink, size, settings.without_claim(), issue(settings))
    else:
        write_identity(sink, size, settings)
    seed_medium(sink, settings)


def _verify(written: Written, sink: OpenMedium, journal: Journal, progress: Progress) -> None:
    try:
        verify(written.ranges, sink, progress)
    except NotVerified:
        journal.forget()  # what it says was written is not there
        raise
    journal.forget()
