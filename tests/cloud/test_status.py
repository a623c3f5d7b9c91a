"""What the operator sees at a glance."""

from __future__ import annotations

from msrt.journal.facts import NodeEnrolled, NodeRevoked
from tests.cloud.rig import device, simulate, until
from tests.runtime.hop.tree import identity
from tests.runtime.inference.models import mlp


async def enrol(rig, **roles):
    """Write these names into the journal."""
    await rig.cloud.writer.append(
        *(
            NodeEnrolled(identity(name).node, role, name, "north", serial=number)
            for number, (name, role) in enumerate(roles.items(), 1)
        )
    )


def test_the_tree_shows_each_device_once_at_its_edge():
    """And beside it who is enrolled and nowhere, removed nodes left out."""

    async def scenario(rig):
        await enrol(rig, a="device", b="device", lost="device", sold="device", gone="edge")
        await rig.cloud.writer.append(NodeRevoked(identity("sold").node))
        await rig.edge("edge-n", "north", device("b", ("net", 1, "ready")), device("a", link="zmq"))
        await rig.edge("edge-s", "south")
        tree = await rig.operator.ask("status")
        assert [(e["name"], [d["name"] for d in e["devices"]]) for e in tree["edges"]] == [
            ("edge-n", ["a", "b"]), ("edge-s", []),
        ]  # fmt: skip
        assert tree["edges"][0]["devices"][1]["models"][0]["state"] == "ready"
        assert {one["name"] for one in tree["unplaced"]} == {"lost", "gone"}
        assert tree["cloud"]["node"] == rig.cloud.identity.node

    simulate(scenario)


def test_lists_of_any_length_arrive():
    """More nodes than fit a packet: each once, in the list and in the tree."""
    many = 6000

    async def scenario(rig):
        await enrol(rig, **{f"d{number}": "device" for number in range(many)})
        rows = await rig.operator.ask("node.list")
        tree = await rig.operator.ask("status")
        assert {row["name"] for row in rows} == {one["name"] for one in tree["unplaced"]}
        assert len(rows) == len(tree["unplaced"]) == many

    simulate(scenario)


def test_an_edge_that_is_behind_or_away_is_seen():
    """By entries of its own scopes that it has not confirmed."""

    async def scenario(rig):
        await enrol(rig, a="device")
        edge = await rig.edge("edge-n", "north", device("a"))
        [row] = (await rig.operator.ask("status"))["edges"]
        assert (row["alive"], row["behind"]) == (True, 1)
        rig.cloud.fleet.edges[edge.one.node].position = {"global": 0, "north": 1}
        [row] = (await rig.operator.ask("status"))["edges"]
        assert row["behind"] == 0
        rig.sim.crash("edge-n")
        await until(lambda: not rig.cloud.fleet.edges[edge.one.node].alive)
        [row] = (await rig.operator.ask("status"))["edges"]
        assert (row["alive"], row["devices"][0]["alive"]) == (False, False)

    simulate(scenario)


def test_the_list_of_nodes_says_where_each_one_is():
    """Living or not, at which edge, with what models and which labels in force."""

    async def scenario(rig):
        await enrol(rig, a="device", away="device", laptop="client")
        await enrol(rig, **{"edge-n": "edge"})
        await rig.edge("edge-n", "north", device("a", ("net", 1, "ready")))
        rows = {row["name"]: row for row in await rig.operator.ask("node.list")}
        assert {name: row["alive"] for name, row in rows.items()} == {
            "a": True, "away": False, "laptop": False, "edge-n": True,
        }  # fmt: skip
        assert (rows["a"]["edge"], rows["a"]["models"], rows["a"]["labels"]) == (
            "edge-n", ["net@1 fp32 ready"], {"site": "a"},
        )  # fmt: skip

    simulate(scenario)


def test_the_list_of_models_says_what_serves():
    """A canary's model still serves the version before; one never rolled out serves nothing."""

    async def scenario(rig):
        edge = await rig.edge("edge-n", "north", device("a"))
        await rig.push(mlp(seed=1))
        [row] = await rig.operator.ask("model.list")
        assert (row["versions"], row["serving"], row["rollout"]) == ([1], 0, "")
        await rig.operator.ask("model.rollout", model="net")
        edge.report(device("a", ("net", 1, "ready")))
        await until(lambda: rig.cloud.rollouts.status("net")["state"] == "done")
        await rig.push(mlp(seed=2))
        await rig.operator.ask("model.rollout", model="net", canary="north")
        [row] = await rig.operator.ask("model.list")
        assert (row["versions"], row["serving"], row["rollout"], row["ready"]) == ([1, 2], 1, "2 canary", "0/1")

    simulate(scenario)


def test_a_shown_model_has_its_tensors_and_its_report():
    """What a caller must send, what the gate found, where the files are."""

    async def scenario(rig):
        await rig.push(mlp())
        shown = await rig.operator.ask("model.show", model="net")
        assert shown["inputs"] == ["x FP32 [-1, 4]"]
        assert shown["outputs"] == ["y FP32 [-1, 3]"]
        assert shown["variants"].keys() == {"fp32"}
        assert shown["variants"]["fp32"]["method"] == "as given"
        assert "not served" in shown["int8"]

    simulate(scenario)
