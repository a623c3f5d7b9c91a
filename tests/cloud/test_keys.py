"""API keys as operators make, see and revoke them."""

from __future__ import annotations

import pytest

from msrt import errors
from msrt.journal.state import State
from tests.cloud.rig import simulate


def test_a_key_is_made_once_and_kept_as_a_hash():
    """The answer has its text; the journal, the list and a snapshot have not, and lead from the text to its record."""

    async def scenario(rig):
        operator = await rig.member("ops", "operator")
        made = await operator.ask("key.create", name="app", role="client", rate=5.0, days=1.0)
        text = made["key"].encode()
        state = rig.cloud.writer.state
        found = state.api_keys.find(text, rig.cloud.world.wall())
        assert (found.name, found.role, found.rate) == ("app", "client", 5.0)
        assert found.expires == pytest.approx(rig.cloud.world.wall() + 86400, abs=60)
        secret = text.split(b"_", 2)[2]
        assert secret not in state.snapshot()
        (row,) = await operator.ask("key.list")
        assert (row["name"], row["state"], row["id"]) == ("app", "active", found.id)
        assert secret.decode() not in str(row)
        assert State.from_snapshot(state.snapshot()).api_keys.find(text, 0.0) == found

    simulate(scenario)


def test_a_revoked_key_stays_in_the_list_and_its_name_may_be_given_again():
    """Revoking twice is no error; a name nobody knows is."""

    async def scenario(rig):
        operator = await rig.member("ops", "operator")
        old = (await operator.ask("key.create", name="app", role="client"))["key"].encode()
        for _ in range(2):
            await operator.ask("key.revoke", name="app")
        book = rig.cloud.writer.state.api_keys
        with pytest.raises(errors.Unauthorized, match="revoked"):
            book.find(old, 0.0)
        assert [row["state"] for row in await operator.ask("key.list")] == ["revoked"]
        new = (await operator.ask("key.create", name="app", role="operator"))["key"].encode()
        assert book.find(new, 0.0).role == "operator"
        with pytest.raises(errors.NotFound, match="no key 'nobody'"):
            await operator.ask("key.revoke", name="nobody")

    simulate(scenario)


def test_a_key_that_could_not_be_is_refused():
    """A name that is taken, a role that is none, a rate or an end that cannot be; and nothing is written."""

    async def scenario(rig):
        operator = await rig.member("ops", "operator")
        await operator.ask("key.create", name="app", role="client")
        with pytest.raises(errors.Conflict, match="there is a key 'app' already"):
            await operator.ask("key.create", name="app", role="operator")
        for wrong in ({"role": "edge"}, {"rate": -1.0}, {"days": -1.0}, {"name": ""}, {"colour": "red"}):
            with pytest.raises(errors.CallerError):
                await operator.ask("key.create", **{"name": "other", "role": "client", **wrong})
        assert [row["role"] for row in await operator.ask("key.list")] == ["client"]

    simulate(scenario)


def test_keys_are_the_operators_affair():
    """Clients and edges neither make nor see them."""

    async def scenario(rig):
        for who in (await rig.member("client", "client"), await rig.edge()):
            for method in ("key.create", "key.list", "key.revoke"):
                with pytest.raises(errors.Forbidden):
                    await who.ask(method)

    simulate(scenario)
