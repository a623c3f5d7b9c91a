"""Images that go over the air: registered in the journal, signed for here or where the key is."""

from __future__ import annotations

import msgspec

from msrt import errors
from msrt.artifacts import ArtifactStore
from msrt.artifacts.chunks import index_of, pack_index
from msrt.artifacts.images import Image, Kind, pack_image
from msrt.hop import Peer
from msrt.journal.facts import ImagePushed
from msrt.journal.writer import Writer
from msrt.protocol import wire
from msrt.trust.identity import Identity, Purpose
from msrt.world.world import World
from msrt_cloud.signing import Repository
from msrt_cloud.signing.journal import described, image_of
from msrt_cloud.signing.offline import more, path_of, read, write

__all__ = ["ImagePush", "ImageRequest", "Images"]


class ImagePush(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image whose bytes were sent before."""

    digest: str
    kind: str
    version: str
    classes: str = "*"


class ImageRequest(ImagePush, frozen=True):
    """What is to be signed for it elsewhere."""

    base: bytes = b""
    """A request that it is added to."""


class Images:
    """All images of one cloud. bound: bytes of one."""

    def __init__(
        self, world: World, identity: Identity, writer: Writer, artifacts: ArtifactStore, signing: Repository,
        bound: int,
    ) -> None:  # fmt: skip
        self._world, self._identity, self._writer, self._artifacts = world, identity, writer, artifacts
        self._signing, self._bound = signing, bound

    async def push(self, peer: Peer, p: ImagePush) -> object:
        """Register an image. Raises InvalidImage, NotFound, Conflict (the version is taken by other bytes; the key that
        signs it is elsewhere)."""
        image, new = await self._described(p)
        packed = pack_image(image)
        if new:
            sign, wall = self._identity.signer(Purpose.IMAGE), self._world.wall()
            fact = ImagePushed(p.kind, p.version, p.classes, packed, sign(packed), peer.name, wall)
            async with self._signing.turn:
                await self._signing.publish(dict([image_of(fact)]))
                await self._writer.append(fact)
        return {"name": image.name, "classes": p.classes, "size": image.size, "digest": p.digest}

    async def request(self, _peer: Peer, p: ImageRequest) -> object:
        """What is to be signed for an image where the key is; it is not registered yet. Raises as `push`, Corrupt."""
        image, _ = await self._described(p)
        world, lists = self._world, self._signing.lists
        role = path_of(image).partition("/")[0]
        request = await world.offload(lists.request, role, described(self._writer.state))
        if p.base:
            base = await world.offload(read, p.base, "the file that is there")
            if (base.role, base.former) != (role, request.former):
                raise errors.Conflict(
                    f"the request that is there is for another list than {role} as it is now",
                    hint="name a file that does not exist",
                )
            request = base
        return write(await world.offload(more, request, image))

    async def _described(self, p: ImagePush) -> tuple[Image, bool]:
        """An image that was sent, and whether it is new here."""
        if p.kind not in set(Kind):
            raise errors.InvalidImage(f"there is no kind {p.kind!r}", hint=f"give {', '.join(Kind)}")
        size = self._artifacts.size(p.digest)
        if size is None:
            raise errors.NotFound(f"no image {p.digest[:12]} was sent here", hint="send it first")
        if size > self._bound:
            raise errors.FrameTooLarge(size, self._bound, "image")
        try:
            image = msgspec.convert(
                {"kind": p.kind, "version": p.version, "digest": p.digest, "size": size, "classes": p.classes}, Image
            )
        except msgspec.ValidationError as error:
            raise errors.InvalidImage(
                f"the image cannot be described: {error}",
                hint="a version is letters, digits and . _ + -, at most 64, the first a letter or digit",
            ) from None
        if not p.classes:
            raise errors.InvalidImage("no device class matches an empty pattern", hint="--class '*' is all of them")
        image = msgspec.structs.replace(image, index=await self._indexed(image))
        known = self._writer.state.images.get((p.kind, p.version), {}).get(p.classes)
        if known is not None and known.image != pack_image(image):
            raise errors.Conflict(f"{image.name} for {p.classes} is another image", hint="give it a version of its own")
        return image, known is None

    async def _indexed(self, image: Image) -> str:
        """Digest of the index of its chunks, for devices that have most of them. Raises DiskFull."""
        async with self._artifacts.keeping(image.digest):
            blobs, digest = self._artifacts.blobs, image.digest
            index = await self._world.offload(
                lambda: pack_index(index_of(lambda offset, size: blobs.read(digest, offset, size), image.size))
            )
        return await self._artifacts.put_bytes(index)

    async def rows(self, _peer: Peer, _p: object) -> object:
        """Every image."""
        return [
            {
                "name": f"{pushed.kind}@{pushed.version}", "classes": pushed.classes,
                "size": (image := wire.unpack(pushed.image, Image)).size, "digest": image.digest,
                "pushed": pushed.wall, "by": pushed.said_by,
            }
            for by_class in self._writer.state.images.values()
            for pushed in by_class.values()
        ]  # fmt: skip
