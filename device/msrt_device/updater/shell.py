"""The shell of updates: fetches, writes, restarts and tests as `updating` decides, one kind beside another."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.images import Image, fits, read_image
from msrt.artifacts.store import Fetch as FetchArtifact
from msrt.hop.durable import DurableSender
from msrt.protocol import wire
from msrt.protocol.messages import Event, Offer, UpdateOffers, UpdateState
from msrt.trust.tuf.claims import Vouch, image_claim
from msrt.world.world import Store, World
from msrt_device.updater import updating as u
from msrt_device.updater.slots import Slots, pieces

__all__ = ["Means", "Updater"]

log = structlog.get_logger()
TICK_S: Final = 0.5
RETRY_S: Final = (1.0, 30.0)
SOURCE: Final = "updater"
OWNER: Final = "update"


@dataclass(frozen=True)
class Means:
    """What an updater works with."""

    world: World
    store: Store
    """That of the events: a record and the event that tells of it are on disk in this order."""
    events: DurableSender
    artifacts: ArtifactStore
    fetch: Callable[[Image, Slots], FetchArtifact]
    """How the bytes of an image are brought."""
    vouch: Vouch
    who: tuple[str, str, str]
    """Node, name and region."""
    device_class: str
    answering: Callable[[], tuple[str, ...]]
    """Models that answer now."""
    test: Callable[[tuple[str, ...]], Awaitable[str]]
    quiet: Callable[[float], bool]
    """May it restart now, having waited so many seconds for it?"""
    changed: Callable[[], None]
    """The edge should hear of it."""
    tries: int = 1
    trial_s: float = 300.0


class Updater:
    """All kinds of images of one device."""

    def __init__(self, means: Means, slots: Mapping[str, Slots]) -> None:
        self._means = means
        self._kinds = {kind: _Kind(means, kind, backend, self._pin) for kind, backend in slots.items()}
        self._offers = UpdateOffers(())
        self._due = asyncio.Event()
        self._unsigned = False
        """An offer was refused for want of signed metadata: newer one may come without another word of the edge."""

    def states(self) -> tuple[UpdateState, ...]:
        """What the edge hears."""
        return tuple(one.state() for one in self._kinds.values())

    def offered(self, message: UpdateOffers) -> None:
        """What should run here, whole; `run` looks at it."""
        self._offers = message
        self._due.set()

    async def _look(self) -> None:
        """The latest word of the edge, once it is known who signed it."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S[1] if self._unsigned else None):
                    await self._due.wait()
            self._due.clear()
            self._unsigned = False
            offers, found = self._offers, dict[str, u.Proposal]()
            try:
                for offer in offers.offers:
                    proposal = await self._proposal(offer)
                    if proposal is not None:
                        found[proposal.image.kind] = proposal
            except errors.MsrtError as error:  # what was signed cannot be had now
                log.warning("update.offer_waits", error=errors.words_of(error))
                await asyncio.sleep(RETRY_S[0])
                self._due.set()
                continue
            if offers is self._offers:
                for kind, one in self._kinds.items():
                    one.offered(found.get(kind))

    async def _proposal(self, offer: Offer) -> u.Proposal | None:
        """None: it is refused. Raises what stands between here and a verdict."""
        try:
            image = read_image(offer.image)
            await self._means.vouch(image_claim(image, offer.image, offer.signature))
        except (errors.BadSignature, errors.NotTrusted, errors.InvalidImage) as error:
            self._unsigned |= isinstance(error, errors.NotTrusted)
            log.warning("update.offer_refused", campaign=offer.token, error=errors.words_of(error))
            return None
        unfit = ""
        if not fits(image, self._means.device_class):
            unfit = f"it is for {image.classes}, this is {self._means.device_class}"
        return u.Proposal(image, offer.token, offer.deadline_s, offer.state, unfit)

    def welcomed(self) -> None:
        """An edge has taken this process in."""
        for one in self._kinds.values():
            one.say(lambda machine, now: machine.welcomed(now))

    def _pin(self) -> None:
        self._means.artifacts.pin((one.pinned for one in self._kinds.values() if one.pinned), OWNER)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            for one in self._kinds.values():
                group.create_task(one.run())


class _Kind:
    """One kind of image."""

    def __init__(self, means: Means, kind: str, slots: Slots, pin: Callable[[], None]) -> None:
        self._means, self._kind, self._slots, self._pin = means, kind, slots, pin
        self._key = f"update/{kind}"
        found = dict(means.store.scan(self._key)).get(self._key)
        record = wire.unpack(found, u.Record) if found else u.Record()
        self.machine = u.Updating(kind, record, slots.state(), trial_s=means.trial_s)
        self._said: asyncio.Queue[Callable[[u.Updating, float], list[u.Action]]] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._waits_since: float | None = None

    @property
    def pinned(self) -> str:
        image = self.machine.record.image
        return "" if image is None or self.machine.record.stage in u.RESTING else image.digest

    def state(self) -> UpdateState:
        record, running = self.machine.record, self.machine.slots.running
        target = record.image.version if record.image is not None else ""
        stage = "" if record.stage is u.Stage.IDLE else record.stage.value
        return UpdateState(self._kind, running.version, target, stage, record.reason, record.token)

    def offered(self, proposal: u.Proposal | None) -> None:
        self.say(lambda machine, now: machine.offered(proposal, now))

    def say(self, event: Callable[[u.Updating, float], list[u.Action]]) -> None:
        """Tell the machine; what follows is done in turn."""
        self._said.put_nowait(event)

    async def run(self) -> None:
        world = self._means.world
        await self._told_before()
        self.say(lambda machine, now: machine.started(now))
        ticking = asyncio.create_task(self._tick())
        try:
            while True:
                event = await self._said.get()
                before = self.machine.record
                actions = event(self.machine, world.now())
                if actions:
                    await self._perform(actions)
                if self.machine.record != before:
                    log.info("update.stage", kind=self._kind, stage=self.machine.record.stage.value,
                             reason=self.machine.record.reason, campaign=self.machine.record.token)  # fmt: skip
                    self._means.changed()
        finally:
            ticking.cancel()
            self._stop_work()

    async def _tick(self) -> None:
        world = self._means.world
        while True:
            await asyncio.sleep(TICK_S)
            now = world.now()
            self.say(lambda machine, now: machine.tick(now))
            if self.machine.record.stage is not u.Stage.WAITING or self.machine.paused:
                self._waits_since = None
                continue
            self._waits_since = now if self._waits_since is None else self._waits_since
            if self._means.quiet(now - self._waits_since):
                self.say(lambda machine, now: machine.quiet(self._means.answering(), now))

    # --- what is to be done -----------------------------------------------------------------------------------------

    async def _perform(self, actions: list[u.Action]) -> None:
        means, slots = self._means, self._slots
        for action in actions:
            try:
                await self._one(action)
            except errors.DiskFull as error:
                log.warning("update.not_on_disk", kind=self._kind, error=error.text)
                if isinstance(action, u.Arm):
                    self._broken(error)
                    return
            except Exception as error:
                known = isinstance(error, errors.LocalError | errors.Conflict)
                if isinstance(action, u.Keep) and not known:
                    raise  # nothing may follow from what may not be on disk
                step = type(action).__name__
                said = errors.words_of(error)
                log.warning("update.step_failed", kind=self._kind, step=step, error=said, exc_info=not known)
                if isinstance(action, u.Commit):  # the trial is over: what is on disk says so to the next process
                    slots.restart()
                    return
                if isinstance(action, u.Arm | u.Restart):
                    self._broken(error)
                    return
        self.machine.slots = await means.world.offload(slots.state)

    async def _one(self, action: u.Action) -> None:
        means, slots = self._means, self._slots
        match action:
            case u.Keep(record, outcome):
                self._pin()
                await self._keep(record, outcome)
            case u.Fetch(image):
                self._begin(lambda: self._fetch(image))
            case u.Write(image):
                self._begin(lambda: self._write(image))
            case u.StopWork():
                self._stop_work()
            case u.Arm():
                await means.world.offload(lambda: slots.arm(means.tries, means.trial_s))
            case u.Disarm():
                await means.world.offload(lambda: slots.arm(0, 0.0))
            case u.Restart():
                log.info("update.restarts", kind=self._kind)
                slots.restart()
            case u.SelfTest(models):
                self._begin(lambda: self._test(models))
            case u.Commit():
                await means.world.offload(slots.commit)

    def _broken(self, error: Exception) -> None:
        """A fault that nobody thought of is named by its kind, too."""
        reason = error.text if isinstance(error, errors.MsrtError) else f"{type(error).__name__}: {error}"
        self.say(lambda machine, now: machine.broken(reason, now))

    def _begin(self, work: Callable[[], Awaitable[None]]) -> None:
        self._stop_work()
        self._work = asyncio.create_task(self._ends(work))

    async def _ends(self, work: Callable[[], Awaitable[None]]) -> None:
        """What nobody thought of ends the update: without a word of it, that would stay where it is to its deadline."""
        try:
            await work()
        except Exception as error:
            log.warning("update.work_failed", kind=self._kind, error=errors.words_of(error), exc_info=True)
            self._broken(error)

    def _stop_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _fetch(self, image: Image) -> None:
        """Until it is here, or the deadline of the machine ends it."""
        means, pause = self._means, RETRY_S[0]
        while True:
            try:
                await means.artifacts.ensure(image.digest, means.fetch(image, self._slots), image.size)
            except errors.NoRoom as error:
                self._broken(error)  # here or at the edge: told at once, in place of a disk that is full until then
                return
            except errors.MsrtError as error:
                log.info("update.not_fetched", kind=self._kind, error=errors.words_of(error), again_in_s=pause)
                self.machine.note(error.text)
                means.changed()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S[1])
            else:
                self.say(lambda machine, now: machine.fetched(now))
                return

    async def _write(self, image: Image) -> None:
        means, pause = self._means, RETRY_S[0]
        while True:
            try:
                async with means.artifacts.keeping(image.digest):
                    await self._to_slot(image)
            except errors.Corrupt as error:
                means.artifacts.lost(image.digest, error)
                await self._fetch(image)  # says `fetched` in a stage that does not listen
            except (errors.DiskFull, errors.NotFound) as error:
                log.warning("update.not_written", kind=self._kind, error=errors.words_of(error), again_in_s=pause)
                self.machine.note(error.text)
                means.changed()
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_S[1])
            except errors.MsrtError as error:
                self._broken(error)
                return
            else:
                break
        state = await means.world.offload(self._slots.state)
        self.say(lambda machine, now: machine.written(state, now))

    async def _to_slot(self, image: Image) -> None:
        """One write at a time: a thread that nobody waits for any more has to end before the next one begins."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._writing = asyncio.ensure_future(self._means.world.offload(self._write_now, image))
        self._writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._writing)

    def _write_now(self, image: Image) -> None:
        """Blocking. Raises Corrupt: it lies damaged here, and is gone now."""
        blobs = self._means.artifacts.blobs

        def read(offset: int, size: int) -> bytes:
            return blobs.read(image.digest, offset, size)

        running = hashlib.sha256()
        for piece in pieces(image, read):
            running.update(piece)
        if running.hexdigest() != image.digest:
            blobs.delete(image.digest)
            raise errors.Corrupt(f"{image.name} is damaged on disk", hint="it is fetched again")
        size = self._means.artifacts.size(image.index) if image.index else None
        self._slots.write(image, read, blobs.read(image.index, 0, size) if size is not None else b"")

    async def _test(self, models: tuple[str, ...]) -> None:
        fault = await self._means.test(models)
        self.say(lambda machine, now: machine.tested(fault, now))

    # --- what is kept -----------------------------------------------------------------------------------------------

    async def _keep(self, record: u.Record, outcome: u.Outcome | None) -> None:
        """The record first, with the number that its event will have: a crash between them is seen. Raises DiskFull."""
        means = self._means
        record = msgspec.structs.replace(record, left_s=max(0.0, self.machine.until - means.world.now()))
        if outcome is None:
            means.store.put(self._key, wire.pack(record))
            await means.events.flush()
            return
        record = msgspec.structs.replace(record, told=means.events.outbox.next_seq)
        means.store.put(self._key, wire.pack(record))
        await means.events.put(lambda seq: self._event(seq, record))

    async def _told_before(self) -> None:
        """The process may have ended between a record and its event."""
        record, events = self.machine.record, self._means.events
        if record.told and record.told >= events.outbox.next_seq:
            await events.put(lambda seq: self._event(seq, record))

    def _event(self, seq: int, record: u.Record) -> bytes:
        node, name, region = self._means.who
        assert record.image is not None
        data: dict[str, object] = {
            "update": self._kind, "version": record.image.version, "from": record.base,
            "outcome": record.stage.value, "reason": record.reason, "campaign": record.token,
        }  # fmt: skip
        event = Event(
            node=node, seq=seq, name=name, source=SOURCE, model="", version=0, wall=self._means.world.wall(), data=data,
            region=region,
        )  # fmt: skip
        return wire.pack(event)
