"""Lists that are signed where their keys are, and what the cloud takes back."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from msrt.artifacts import ArtifactStore
from msrt.artifacts.images import Image, pack_image
from msrt.errors import CallerError, Conflict, Corrupt, InvalidConfig, NotTrusted
from msrt.trust.identity import Identity
from msrt.trust.tuf.names import Kind
from msrt.world.network import Faults
from msrt.world.simulation import Simulation
from msrt_cloud.signing import Periods, Repository, SeededRing
from msrt_cloud.signing import offline as o
from tests.runtime.trust.tuf.test_floor import Quiet

CLOUD = Identity(b"a" * 32, b"b" * 32)
DAY = 86_400.0
PERIODS = Periods(14 * DAY, 365 * DAY, 730 * DAY)


def image(version, data=b"agent"):
    return Image("agent", version, hashlib.sha256(data).hexdigest(), len(data))


ONE, TWO, THREE = map(image, "123")


def target(one):
    data = pack_image(one)
    return {o.path_of(one): (hashlib.sha256(data).hexdigest(), len(data))}


class Away:
    """A repository whose agents key was taken out after it had signed version 1."""

    def __init__(self, sim):
        self.sim, self.world, self.ring = sim, sim.node("cloud").world, SeededRing(b"seed")
        self.repository = Repository(self.world, CLOUD, ArtifactStore(self.world), self.ring, PERIODS)
        self.journal = [ONE]

    def later(self, seconds):
        self.sim.skew("cloud", seconds)

    async def start(self):
        await self.repository.open(dict)
        await self.repository.publish(target(ONE))
        [keyid] = self.row("agents")["keys"]
        self.key = {keyid: self.ring.signers()[keyid]}
        self.ring.gone.add(keyid)
        return self

    def row(self, role):
        return next(row for row in self.repository.lists.rows() if row["role"] == role)

    def request(self, *images, **more):
        found = self.repository.lists.request("agents", self.journal, **more)
        for one in images:
            found = o.more(found, one)
        return o.read(o.write(found), "file")

    async def accept(self, request):
        """The version in force."""
        return await self.repository.accept(request, {o.path_of(one) for one in self.journal})

    def knows(self, one):
        return not self.repository.lists.missing(target(one))


def away(scenario):
    with Simulation(1, Faults()) as sim:

        async def run():
            sim.add("cloud", lambda world, _: Quiet(world), None)
            await asyncio.sleep(0.1)
            await scenario(await Away(sim).start())

        sim.run(run(), until=1e9)


def keys(*names):
    made = [SeededRing(name.encode()).make("agents") for name in names]
    return [one.public_key for one in made], [{one.public_key.keyid: one} for one in made]


def test_an_image_is_signed_elsewhere_and_models_go_on_being_signed_here():
    """Without the key it is refused with what to do; signed it comes into force, once, and a push finds it signed."""

    async def scenario(rig):
        with pytest.raises(Conflict, match="0 of the 1 keys that sign agents are here") as refused:
            await rig.repository.publish(target(TWO))
        assert "--request FILE" in refused.value.hint
        request = rig.request(TWO)
        assert o.news(request, rig.key) == [TWO]
        signed = o.sign_request(request, rig.key)
        assert await rig.accept(signed) == await rig.accept(signed) == 3
        assert rig.knows(ONE)
        assert rig.knows(TWO)
        await rig.repository.publish(target(TWO))
        await rig.repository.publish({"models/default/net/1": ("a" * 64, 1)})

    away(scenario)


def test_several_images_go_into_one_request_until_it_is_signed():
    """What is added after a signature would not be signed."""

    async def scenario(rig):
        signed = o.sign_request(rig.request(TWO, THREE), rig.key)
        with pytest.raises(Conflict, match="signed already"):
            o.more(signed, image("4"))
        await rig.accept(signed)
        assert rig.knows(TWO)
        assert rig.knows(THREE)

    away(scenario)


def test_another_key_signs_nothing():
    """It is told where the key is, and a signature put there all the same does not count."""

    async def scenario(rig):
        _, [wrong] = keys("thief")
        request = rig.request(TWO)
        with pytest.raises(CallerError, match="does not sign agents"):
            o.sign_request(request, wrong)
        forged = msgspec.structs.replace(request, keys={k: s.public_key.to_dict() for k, s in wrong.items()})
        with pytest.raises(NotTrusted, match="0 of the 1 signatures"):
            await rig.accept(o.sign_request(forged, wrong))
        assert not rig.knows(TWO)

    away(scenario)


def test_new_keys_made_elsewhere_take_over_with_a_threshold():
    """Two of three sign the list anew; from then on one alone is too few, and the old key counts no more."""

    async def scenario(rig):
        public, (a, b, _) = keys("a", "b", "c")
        rotation = rig.request(keys=public, threshold=2)
        assert o.news(rotation, a) == [ONE]  # the new holders never signed for it
        with pytest.raises(NotTrusted, match="1 of the 2"):
            await rig.accept(o.sign_request(rotation, a))
        await rig.accept(o.sign_request(o.sign_request(rotation, a), b))
        assert (rig.row("agents")["threshold"], len(rig.row("agents")["keys"])) == (2, 3)
        once = o.sign_request(rig.request(TWO), a)
        with pytest.raises(NotTrusted, match="1 of the 2"):
            await rig.accept(o.sign_request(once, a))
        with pytest.raises(CallerError, match="does not sign agents"):
            o.sign_request(once, rig.key)
        await rig.accept(o.sign_request(once, b))
        assert rig.knows(ONE)
        assert rig.knows(TWO)

    away(scenario)


def test_an_old_signature_is_not_taken_again():
    """Nor one for a list that another has overtaken."""

    async def scenario(rig):
        first, other = (o.sign_request(rig.request(one), rig.key) for one in (TWO, THREE))
        await rig.accept(first)
        with pytest.raises(Conflict, match="not made from"):
            await rig.accept(other)
        await rig.accept(o.sign_request(rig.request(THREE), rig.key))
        with pytest.raises(NotTrusted, match="agents 3 is older than 4"):
            await rig.accept(first)
        assert rig.knows(TWO)
        assert rig.knows(THREE)

    away(scenario)


def test_what_has_ended_on_its_way_is_not_taken():
    """The hint says what to do."""

    async def scenario(rig):
        signed = o.sign_request(rig.request(TWO), rig.key)
        rig.later(366 * DAY)
        with pytest.raises(Conflict, match="has ended"):
            await rig.accept(signed)

    away(scenario)


def test_a_list_that_gives_up_or_changes_an_image_is_not_taken():
    """A key that signs may not take away what devices run."""

    async def scenario(rig):
        former = rig.request(TWO)
        for change in ({}, target(ONE) | {o.path_of(ONE): ("b" * 64, 9)}):
            signed = o.decode(o.Targets, former.metadata.encode())
            signed.signed.targets = {
                path: o.TargetFile(size, {"sha256": digest}, path) for path, (digest, size) in change.items()
            }
            request = msgspec.structs.replace(former, metadata=o.encode(signed).decode())
            with pytest.raises(Conflict, match="no longer signs"):
                await rig.accept(o.sign_request(request, rig.key))

    away(scenario)


def test_whoever_signs_sees_what_is_new_whatever_the_cloud_says():
    """An image that is not described, or as another one, stops it; only their own signature makes one known."""

    async def scenario(rig):
        request = rig.request(TWO)
        hidden = msgspec.structs.replace(request, images=(ONE,))
        lying = msgspec.structs.replace(request, images=(ONE, image("2", b"a good one")))
        for bad in (hidden, lying):
            with pytest.raises(NotTrusted, match="does not say what is behind agents/2/"):
                o.news(bad, rig.key)
        _, [stranger] = keys("stranger")
        pretended = msgspec.structs.replace(request, former=request.metadata)
        assert o.news(pretended, stranger) == [ONE, TWO]

    away(scenario)


def test_a_list_is_renewed_elsewhere_and_status_says_when():
    """After half of its time, with nothing new in it."""

    async def scenario(rig):
        assert not rig.repository.lists.unsigned
        rig.later(200 * DAY)
        await rig.repository.renew()
        assert 164 * DAY < rig.repository.summary()["unsigned_agents_s"] < 166 * DAY
        request = rig.request()
        assert o.news(request, rig.key) == []
        await rig.accept(o.sign_request(request, rig.key))
        await rig.repository.renew()
        assert not rig.repository.lists.unsigned

    away(scenario)


def test_who_signs_for_what_is_renewed_elsewhere_and_never_changed_on_the_way():
    """The key of targets is elsewhere as well: without it nobody makes a new key for agents, here or in a request."""

    async def scenario(rig):
        [keyid] = rig.row("targets")["keys"]
        key = {keyid: rig.ring.signers()[keyid]}
        rig.ring.gone.add(keyid)
        with pytest.raises(Conflict, match="the key of targets is not here"):
            await rig.repository.rotate(Kind.AGENT)
        public, _ = keys("thief")
        with pytest.raises(Conflict, match="the key of targets is not here"):
            rig.request(keys=public)
        request = rig.repository.lists.request("targets", [])
        assert o.news(request, key) == []
        changed = o.decode(o.Targets, request.metadata.encode())
        changed.signed.delegations.keys[public[0].keyid] = public[0]
        changed.signed.delegations.roles["agents"].keyids = [public[0].keyid]
        bad = msgspec.structs.replace(request, metadata=o.encode(changed).decode())
        for lie in (bad, msgspec.structs.replace(bad, former=bad.metadata)):
            with pytest.raises(NotTrusted, match="would name other keys"):
                o.news(lie, key)
        with pytest.raises(Conflict, match="names other keys"):
            await rig.accept(o.sign_request(bad, key))
        assert await rig.accept(o.sign_request(request, key)) == 2

    away(scenario)


def test_what_cannot_be_signed_elsewhere_is_said():
    """Lists of models change with every push; the root names the keys of targets; two keys cannot give three."""

    async def scenario(rig):
        lists, (public, _) = rig.repository.lists, keys("a", "b")
        for role, more, why in (
            ("models", {}, "signed by the cloud itself"),
            ("targets", {"keys": public}, "the root names"),
            ("agents", {"keys": public, "threshold": 3}, "3 signatures of 2 keys"),
        ):
            with pytest.raises(InvalidConfig, match=why):
                lists.request(role, [], **more)
        with pytest.raises(Corrupt, match="no signing request"):
            o.read(b'{"role": "agents"}', "file")

    away(scenario)


def test_a_cloud_starts_though_it_cannot_sign_for_all_that_its_journal_names():
    """The key is elsewhere, and the signed lists are from an older copy."""

    async def scenario(rig):
        again = Repository(rig.world, CLOUD, rig.repository._artifacts, rig.ring, PERIODS)
        await again.open(lambda: target(TWO) | {"models/default/net/1": ("a" * 64, 1)})
        assert again.lists.missing(target(TWO))
        assert not again.lists.missing({"models/default/net/1": ("a" * 64, 1)})

    away(scenario)


def test_keys_are_kept_as_files():
    """A public half is read; a private one, or none, is refused in words."""
    one = CryptoSigner.generate_ed25519()
    with pytest.raises(Corrupt, match="no public key") as refused:
        o.public_key(one.private_bytes, "key.pem")
    assert ".pub" in refused.value.hint
