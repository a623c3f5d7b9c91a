"""Keys as a user handles them, on real processes; and a tree that was made before artifacts were signed under TUF."""

from __future__ import annotations

import json
import shutil
import subprocess

import msgspec
import pytest

from msrt.joining import IDENTITY, Membership
from msrt.trust.certificate import check_certificate, issue
from msrt.trust.identity import Identity
from msrt.world.files import FieldDisk
from tests.bench.tree import BODY, MSRT, Tree, post, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree():
    """One for all: each test leaves it serving."""
    with Tree() as one:
        one.edge("e1", "north")
        one.device("d1", "north")
        one.push()
        until("the model is served", lambda: answers(one), 60)
        yield one


def answers(tree):
    return post(tree.procs["e1"].field("http") + "/v2/models/mlp/infer", BODY)[0] == 200


def rows(tree):
    return {row["role"]: row for row in json.loads(tree.cli("cloud", "keys", "show", "--json"))}


def refused(tree, *argv):
    """What a command that must fail says."""
    line = [MSRT, *argv, "--state", str(tree.path / "cloud")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode
    return done.stderr


def test_the_root_key_is_taken_out_and_the_cloud_goes_on(tree):
    """Export, rotate with the exported key, and a push that devices accept under the new root."""
    path = tree.path / "root.pem"
    tree.cli("cloud", "keys", "export-root", str(path), "--remove")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (rows(tree)["root"]["here"], rows(tree)["timestamp"]["here"]) == (0, 1)
    assert "was taken out before" in refused(tree, "cloud", "keys", "export-root", str(tree.path / "again.pem"))
    assert "0 of 1 signatures by the present root's keys" in refused(tree, "cloud", "keys", "rotate-root")

    tree.cli("cloud", "keys", "rotate-root", "--key", str(path), "--role", "root", "--role", "timestamp")
    tree.cli("cloud", "keys", "rotate", "models")
    assert rows(tree)["root"]["version"] == 2
    tree.push("second")
    until("it is served", lambda: trust(tree)["trust_root"] == 2 and ready(tree, "second"), 60)
    assert answers(tree)
    assert trust(tree)["trust_refused"] == 0


def test_a_new_root_is_made_where_the_keys_are_and_brought(tree):
    """A root that takes two keys, signed by one command after another, without the cloud."""
    there = tree.path / "there"
    (there / "keys").mkdir(parents=True)
    old, new = tree.path / "root.json", tree.path / "next.json"
    tree.cli("cloud", "keys", "root", str(old))
    tree.cli("cloud", "keys", "export-root", str(tree.path / "second.pem"), "--remove")
    made = [
        MSRT,
        "cloud",
        "keys",
        "rotate-root",
        "--root",
        str(old),
        "--out",
        str(new),
        "--keys",
        "2",
        "--threshold",
        "2",
    ]
    subprocess.run([*made, "--state", str(there)], check=True, timeout=60)
    assert "does not follow on root 2" in refused(tree, "cloud", "keys", "import-root", str(new))
    sign = [MSRT, "cloud", "keys", "sign-root", str(new), "--root", str(old), "--key", str(tree.path / "second.pem")]
    subprocess.run(sign, check=True, timeout=60)
    tree.cli("cloud", "keys", "import-root", str(new))
    root = rows(tree)["root"]
    assert (root["version"], root["threshold"], len(root["keys"]), root["here"]) == (3, 2, 2, 0)
    tree.push("third")
    until("the device follows", lambda: trust(tree)["trust_root"] == 3 and ready(tree, "third"), 60)


def test_a_tree_from_before_tuf_is_taken_over(tree):
    """What its journal names is signed at the first start, and the models go on."""
    for name in ("d1", "e1", "cloud"):
        tree.procs[name].stop()
        for store in (tree.path / name).glob("*.sqlite*"):
            if store.name.partition(".")[0] in {"trust", "signing"}:
                store.unlink()
        if name != "cloud":
            as_before_tuf(tree.path / name, Identity.load(tree.path / "cloud" / IDENTITY))
    shutil.rmtree(tree.path / "cloud" / "keys")
    tree.start("cloud", "cloud", "start")
    tree.start("e1", "edge", "join")
    tree.start("d1", "device", "join")
    until("it serves again", lambda: answers(tree), 60)
    until("it trusts", lambda: trust(tree).get("trust_root") == 1, 60)
    assert trust(tree)["trust_refused"] == 0
    tree.push("fourth")
    until("a new model comes", lambda: ready(tree, "fourth"), 60)


def as_before_tuf(state, cloud):
    """A certificate that knows of no signed root."""
    disk = FieldDisk(state)
    known = Membership.load(disk.store("node"))
    certificate = msgspec.structs.replace(check_certificate(known.certificate, cloud.public), root=b"")
    msgspec.structs.replace(known, certificate=issue(cloud, certificate)).save_now(disk.store("node"))
    disk.close()


def device(tree):
    return json.loads(tree.cli("status", "--json"))["edges"][0]["devices"][0]


def trust(tree):
    """What the device says of its trust."""
    return device(tree)["values"]


def ready(tree, model):
    return any(m["model"] == model and m["state"] == "ready" for m in device(tree)["models"])
