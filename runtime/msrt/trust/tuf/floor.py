"""The shell on every floor: what is trusted lies on its disk, what is newer comes from its parent, children ask it.

A question costs nothing on the network while what is here answers it. Else the parent is asked once (`trust.get`: newer
roots, the timestamp), and the snapshot and targets files that this names are fetched as artifacts, by digest and with
their exact length. What was accepted once may be used again while the metadata has ended or cannot be had: losing the
cloud changes nothing for what is in service.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from msrt.artifacts import ArtifactStore, Fetch
from msrt.errors import (
    BadSignature,
    CallerError,
    DiskFull,
    Forbidden,
    MalformedFrame,
    MsrtError,
    NotFound,
    NotTrusted,
    PeerError,
    TrustExpired,
    words_of,
)
from msrt.trust.identity import Purpose, verify
from msrt.trust.tuf.claims import Claim
from msrt.trust.tuf.metadata import File, TargetFile, Targets
from msrt.trust.tuf.workflow import Trusted, Wanted
from msrt.world.world import World

__all__ = ["BUILT", "GET", "Answer", "Floor"]

log = structlog.get_logger()
GET: Final = "trust.get"
ROOTS_AT_ONCE: Final = 16
ROUNDS: Final = 64
"""A floor that slept over more rotations than ROOTS_AT_ONCE * ROUNDS starts over with a new invite."""
BUILT: Final = 1_767_225_600.0
"""Seconds since 1970, 2026-01-01: a clock that shows less was never set."""
ACCEPTED_LIMIT: Final = 1 << 14
"""Artifacts that are remembered as accepted; the oldest go first."""
ROLES_LIMIT: Final = 160
"""Targets files held in memory."""
POLL_S: Final = (1.0, 3600.0)
ASK_S: Final = 3600.0
"""So soon every floor knows of keys that were replaced, while it is in touch."""
LOOK_S: Final = 1.0
"""A floor asks its parent for its children's sake at most so often."""
_DAMAGE: Final = (BadSignature, NotTrusted, MalformedFrame)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """To `trust.get`."""

    roots: tuple[bytes, ...] = ()
    """Those after the one that the child has, in order; not necessarily all."""
    anchor: bytes = b""
    """The cloud's signature over the first root, where that is among them."""
    timestamp: bytes = b""


Ask = Callable[[dict[str, object]], Awaitable[object]]


class Floor:
    """What one node trusts. `ask` puts `trust.get` to the parent, `fetch` brings an artifact from it; both have
    deadlines."""

    def __init__(
        self,
        world: World,
        artifacts: ArtifactStore,
        cloud_identity: bytes,
        *,
        ask: Ask,
        fetch: Fetch,
        first_root: bytes = b"",
    ) -> None:
        """`first_root`: its SHA-256, by this node's certificate; empty: the tree may be one from before TUF."""
        self._first_root = first_root
        self._world, self._artifacts, self._cloud = world, artifacts, cloud_identity
        self._ask, self._fetch = ask, fetch
        self.renewed: Callable[[], None] = lambda: None
        """Called after something newer came into force."""
        self._store = world.disk.store("trust")
        self._roots = [data for _, data in self._store.scan("root/")]
        kept = dict(self._store.scan())
        self._anchor, self._timestamp = kept.get("anchor", b""), kept.get("timestamp", b"")
        self._snapshot = kept.get("snapshot", b"")
        self._accepted = {path: value.decode() for path, value in self._store.scan("accepted/")}
        self._trusted: Trusted | None = None
        if self._roots:
            self._trusted = self._recalled(Trusted(self._roots[-1]))
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._dirty, self._due, self._asked_at = False, False, -LOOK_S
        self.refused = 0
        """Artifacts and metadata that were not accepted."""
        self.expired = 0
        """Those among them because what was signed has ended."""

    def _recalled(self, trusted: Trusted) -> Trusted:
        """With what was trusted before. What the present root's keys did not sign is let go: keys that were replaced
        take versions that ran ahead with them (fast-forward recovery, 5.3.11)."""
        try:
            if self._timestamp:
                trusted.add_timestamp(self._timestamp)
                if self._snapshot:
                    trusted.add_snapshot(self._snapshot, known=True)
        except _DAMAGE as error:
            log.info("trust.let_go", error=words_of(error))
        return trusted

    # --- asking ------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds since 1970 by whatever knows most: this clock, this release, or the last timestamp."""
        said = self._trusted.timestamp.signed_at if self._trusted and self._trusted.timestamp else 0.0
        return max(self._world.wall(), BUILT, said)

    async def vouch(self, claim: Claim) -> None:
        """See `claims.Vouch`."""
        try:
            await self._judge(claim)
        except (BadSignature, NotTrusted) as error:
            self._refused(error, claim.path)
            raise

    def _refused(self, error: MsrtError, what: str) -> None:
        self.refused += 1
        self.expired += isinstance(error, TrustExpired)
        log.warning("trust.refused", what=what, code=error.code, error=error.text)

    async def _judge(self, claim: Claim) -> None:
        if self._trusted is None:
            await self._begin()
        if self._trusted is None:  # a tree from before TUF
            verify(self._cloud, claim.signed, claim.signature, claim.purpose)
            return
        known = self._accepted.get("accepted/" + claim.path) == claim.digest
        try:
            _same(claim, await self._find(claim.path))
        except TrustExpired:
            if known:
                return
            await self.refresh()
            _same(claim, await self._find(claim.path))
        except (NotTrusted, BadSignature):
            await self.refresh(missing=True)
            _same(claim, await self._find(claim.path))
        except PeerError:  # a targets file is not here, and cannot be had
            if known:
                return
            raise
        self._accept(claim)

    async def _begin(self) -> None:
        """Get the first root. Where this node's certificate says that there is one, a parent that has none may be
        behind, or lies: then nothing is trusted. Raises NotTrusted, BadSignature, and what asking raises."""
        if not self._first_root:
            with contextlib.suppress(PeerError):
                await self.refresh()
            return
        await self.refresh(missing=True)
        if self._trusted is None:
            raise NotTrusted(
                "the parent has no signed root, and the certificate of this node says that its tree has one",
                hint="nothing is used until it comes: look at the edge (msrt status), or join another one",
            )

    def _accept(self, claim: Claim) -> None:
        key = "accepted/" + claim.path
        if self._accepted.get(key) == claim.digest:
            return
        self._accepted.pop(key, None)
        self._accepted[key] = claim.digest
        self._store.put(key, claim.digest.encode())
        while len(self._accepted) > ACCEPTED_LIMIT:
            oldest = next(iter(self._accepted))
            del self._accepted[oldest]
            self._store.put(oldest, None)
        self._dirty = True
        self._wake.set()

    async def _find(self, path: str) -> TargetFile:
        """Raises NotTrusted, TrustExpired, BadSignature, and what fetching raises."""
        trusted = self._trusted
        assert trusted is not None
        while isinstance(found := trusted.find(path, self.now), Wanted):
            data = await self._file(found.file)
            await self._world.offload(trusted.add_targets, found, data)
            leaves = [name for name, role in trusted.roles.items() if role.delegations is None and name != found.role]
            for name in leaves[: max(0, len(trusted.roles) - ROLES_LIMIT)]:
                del trusted.roles[name]
            self._pin(trusted)
        return found

    async def _file(self, file: File) -> bytes:
        if file.length < 0:
            raise BadSignature("the metadata names a file without its length")
        return bytes(await self._artifacts.get(file.digest, self._fetch, file.length))

    def _pin(self, trusted: Trusted) -> None:
        meta = trusted.snapshot.meta if trusted.snapshot is not None else {}
        files = [meta[f"{name}.json"] for name in trusted.roles if f"{name}.json" in meta]
        self._artifacts.pin([file.digest for file in files], "trust")

    # --- newer metadata ----------------------------------------------------------------------------------------

    async def refresh(self, *, missing: bool = False) -> None:
        """Take over what the parent has; missing: it shall look itself whether there is more.

        Raises BadSignature, NotTrusted, and what asking and fetching raise; then all is as before, but for roots that
        held.
        """
        async with self._turn:
            self._asked_at = self._world.now()
            answer = await self._newer(missing=missing)
            if answer is None or self._trusted is None or not answer.timestamp:
                return
            trusted = self._recalled(Trusted(self._roots[-1]))
            try:
                new = await self._world.offload(trusted.add_timestamp, answer.timestamp)
                snapshot = self._snapshot
                if trusted.behind:
                    snapshot = await self._file(trusted.snapshot_file)
                    await self._world.offload(trusted.add_snapshot, snapshot)
            except _DAMAGE as error:
                self._refused(error, "metadata")
                raise
            if not new and self._trusted.timestamp is not None:
                return
            self._take(trusted, answer.timestamp if new else self._timestamp, snapshot)
            await self._commit()
        self.renewed()

    def _take(self, trusted: Trusted, timestamp: bytes, snapshot: bytes) -> None:
        """It comes into force. Roles that did not change stay in memory."""
        trusted.roles.update(_unchanged(self._trusted, trusted))
        self._trusted, self._timestamp, self._snapshot = trusted, timestamp, snapshot
        self._store.put("timestamp", timestamp)
        self._store.put("snapshot", snapshot)
        self._pin(trusted)

    async def _newer(self, *, missing: bool) -> Answer | None:
        """Ask the parent, and take over its newer roots; None: it knows nothing of TUF."""
        for _ in range(ROUNDS):
            try:
                said = await self._ask({"root": len(self._roots), "timestamp": self._stamp, "missing": missing})
                answer = msgspec.convert(said, Answer, builtin_types=(bytes,))
            except (NotFound, Forbidden) as error:  # a parent of the release before
                log.info("trust.parent_without", error=error.text)
                return None
            except msgspec.ValidationError as error:
                raise MalformedFrame(f"{GET}: {error}") from None
            if not answer.roots:
                return answer
            try:
                await self._add_roots(answer)
            except _DAMAGE as error:
                self._refused(error, "root")
                raise
        raise NotTrusted(f"there are more than {ROUNDS * ROOTS_AT_ONCE} newer roots", hint="join again")

    async def _add_roots(self, answer: Answer) -> None:
        for data in answer.roots:
            if self._trusted is None:
                verify(self._cloud, data, answer.anchor, Purpose.ROOT)
                if self._first_root not in (b"", hashlib.sha256(data).digest()):
                    raise NotTrusted(
                        "this first root is not the one that the certificate of this node names", hint="join again"
                    )
                trusted, self._anchor = await self._world.offload(Trusted, data), answer.anchor
                if trusted.root.version != 1:
                    raise NotTrusted(f"the first root has version {trusted.root.version}")
                self._store.put("anchor", answer.anchor)
            else:
                trusted = Trusted(self._roots[-1])
                await self._world.offload(trusted.add_root, data)
            self._roots.append(data)
            self._store.put(f"root/{len(self._roots):08}", data)
            log.info("trust.root", version=trusted.root.version)
            self._trusted = self._recalled(trusted)
        await self._commit()

    async def _commit(self) -> None:
        self._dirty = False
        try:
            await self._world.offload(self._store.commit)
        except DiskFull as error:
            self._dirty = True
            log.warning("trust.not_on_disk", error=error.text)

    # --- life --------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """A parent is here: what it has may be newer."""
        self._due = True
        self._wake.set()

    async def run(self) -> None:
        """Ask for a newer timestamp in good time, and keep what was accepted. Until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s()):
                    await self._wake.wait()
            self._wake.clear()
            if self._due or self._stale():
                self._due = False
                with contextlib.suppress(MsrtError):
                    await self.refresh()
            if self._dirty:
                await self._commit()

    def _poll_s(self) -> float:
        return min(max(self._period() / 16, POLL_S[0]), POLL_S[1])

    def _period(self) -> float:
        """Seconds that the timestamp is good for from its signing on."""
        stamp = self._trusted.timestamp if self._trusted is not None else None
        return stamp.expires.timestamp() - stamp.signed_at if stamp is not None else 16 * POLL_S[1]

    def _stale(self) -> bool:
        """It is time to ask: a quarter of the timestamp's time has passed, or keys may have been replaced."""
        stamp = self._trusted.timestamp if self._trusted is not None else None
        since = self._world.now() - self._asked_at
        return stamp is not None and (since > ASK_S or self.now > stamp.signed_at + self._period() / 4)

    # --- what others hear --------------------------------------------------------------------------------------

    async def answer(self, params: dict[str, object]) -> object:
        """To a child's `trust.get`: one that misses something, or knows more, makes this floor look first. Raises
        NotFound while there is nothing to tell, CallerError."""
        theirs = params.get("timestamp")
        behind = params.get("missing") is True or (isinstance(theirs, int) and theirs > self._stamp)
        if behind and self._world.now() - self._asked_at > LOOK_S:
            with contextlib.suppress(MsrtError):
                await self.refresh(missing=True)
        return told(params, self._roots, self._anchor, self._timestamp, self._stamp)

    @property
    def _stamp(self) -> int:
        """Version of the timestamp, 0 for none."""
        stamp = self._trusted.timestamp if self._trusted is not None else None
        return stamp.version if stamp is not None else 0

    def values(self) -> dict[str, float]:
        """Numbers for `status`: empty in a tree without TUF."""
        trusted = self._trusted
        if trusted is None or trusted.timestamp is None:
            return {}
        return {
            "trust_root": float(trusted.root.version), "trust_timestamp": float(trusted.timestamp.version),
            "trust_left_s": trusted.timestamp.expires.timestamp() - self.now, "trust_refused": float(self.refused),
            "trust_expired": float(self.expired), "trust_clock": float(self._world.wall() >= BUILT),
        }  # fmt: skip


def told(params: dict[str, object], roots: list[bytes], anchor: bytes, timestamp: bytes, version: int) -> object:
    """The answer of whoever has these to a `trust.get`; the timestamp only where it is newer. Raises NotFound,
    CallerError."""
    have, stamp = params.get("root"), params.get("timestamp", 0)
    if not isinstance(have, int) or have < 0 or not isinstance(stamp, int):
        raise CallerError(f"{GET} takes the versions of the root and the timestamp that the asker has")
    if not roots:
        raise NotFound("no signed metadata is here")
    new = tuple(roots[have : have + ROOTS_AT_ONCE])
    answer = Answer(new, anchor if not have else b"", b"" if new or stamp >= version else timestamp)
    return msgspec.to_builtins(answer, builtin_types=(bytes,))


def _unchanged(former: Trusted | None, now: Trusted) -> dict[str, Targets]:
    """Roles that need not be read again; none of them where somebody who delegates has changed his mind."""
    if former is None or former.root.version != now.root.version or now.snapshot is None:
        return {}
    meta = now.snapshot.meta
    same = {
        name: role
        for name, role in former.roles.items()
        if f"{name}.json" in meta and meta[f"{name}.json"].version == role.version
    }
    whole = all(name in same for name, role in former.roles.items() if role.delegations is not None)
    return same if whole else {}


def _same(claim: Claim, target: TargetFile) -> None:
    if target.hashes.get("sha256") != claim.digest or claim.size not in (-1, target.length):
        raise BadSignature(f"{claim.path} is not what was signed under that name")
