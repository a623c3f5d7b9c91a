"""Each command against a real cloud: what it prints, where, and how it exits."""

from __future__ import annotations

import asyncio
import json
import shutil

import msgspec
import numpy as np
import pytest

from msrt import cli, errors
from msrt.client.known import load_caller
from msrt.operator.infer import read_input
from msrt.protocol.messages import Parent
from msrt.trust.invite import Invite
from tests.runtime.inference.models import mlp


@pytest.fixture(scope="module")
def pushed(cloud, tmp_path_factory):
    """net@1 is in the registry."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "net.onnx").write_bytes(mlp(seed=1))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    argv = ["model", "push", folder / "net.onnx", "--name", "net", "--calibrate", folder / "x.npy"]
    assert cli.main([str(a) for a in [*argv, "--state", cloud.state]]) == 0
    return "net"


def ok(result):
    assert (result.code, result.err) == (0, ""), result.err
    return result.out


def fails(result, *words):
    """Status 1, nothing on standard output, one line on standard error that holds these words."""
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert result.err.startswith("msrt: ")
    for word in words:
        assert word in result.err
    return result.err


@pytest.mark.parametrize("argv", [("edge", "--region", "north"), ("client",), ("operator", "--hours", "2")])
def test_an_invite_stands_alone_on_standard_output(cloud, msrt, argv):
    """One string and nothing else, so that it can be passed on in a shell."""
    [text] = ok(msrt("invite", *argv, "--state", cloud.state)).splitlines()
    assert Invite.parse(text, 0.0).role == argv[0]


def test_an_invite_that_nobody_could_use_is_refused(cloud, msrt):
    """A device needs an edge to join at; an edge a region."""
    fails(msrt("invite", "device", "--state", cloud.state), "no edge has joined yet", "msrt edge join")
    fails(msrt("invite", "edge", "--region", "No Region", "--state", cloud.state), "region")
    fails(msrt("invite", "device", "--label", "nonsense", "--state", cloud.state), "nonsense")


def test_login_keeps_an_identity_that_later_commands_use(cloud, msrt, tmp_path):
    """Without --state it lies where commands look for it; spent, forged and other invites are refused."""
    invite = ok(msrt("invite", "operator", "--state", cloud.state)).strip()
    assert "logged in as operator ann" in ok(msrt("login", invite, "--name", "ann"))
    assert "ann" in [node["name"] for node in json.loads(ok(msrt("node", "list", "--json")))]
    fails(msrt("login", invite, "--state", tmp_path / "other"), "was used before", "msrt invite")
    fails(msrt("login", invite[:-3] + "abc", "--state", tmp_path / "other"), "damaged")
    edge = ok(msrt("invite", "edge", "--region", "north", "--state", cloud.state)).strip()
    fails(msrt("login", edge, "--state", tmp_path / "third"), "role edge", "msrt edge join")
    fails(msrt("login", invite, "--state", cloud.state), "held by another process")


def test_a_client_may_not_command(cloud, msrt, tmp_path):
    """Its identity is for inference; the refusal says which invite would do."""
    invite = ok(msrt("invite", "client", "--state", cloud.state)).strip()
    ok(msrt("login", invite, "--state", tmp_path / "app"))
    fails(msrt("status", "--state", tmp_path / "app"), "may not call 'status'", "an operator invite")
    fails(msrt("infer", "net", "-", "--state", tmp_path / "app", stdin=b"[1]"), "no edge yet")


def test_without_an_identity_commands_say_how_to_get_one(msrt, tmp_path):
    """Before anything is dialled."""
    fails(msrt("status"), "no identity in", "msrt login INVITE")
    fails(msrt("node", "list", "--state", tmp_path), str(tmp_path))


def test_a_cloud_that_is_away_is_named(msrt, cloud, tmp_path):
    """The error has the address that was tried."""
    shutil.copytree(cloud.state / "operator", tmp_path / "op")
    world, _, membership = asyncio.run(load_caller(tmp_path / "op"))
    away = Parent(membership.parents[0].node, membership.parents[0].link_key, zmq="tcp://127.0.0.1:9")
    msgspec.structs.replace(membership, parents=(away,)).save_now(world.disk.store("node"))
    fails(msrt("status", "--state", tmp_path / "op"), "tcp://127.0.0.1:9", "is it running?")


@pytest.mark.parametrize("argv", [("node", "list"), ("model", "list"), ("train", "status"), ("status",)])
def test_every_list_has_json(cloud, msrt, pushed, argv):
    """With --json it is one document; without, text that says something."""
    json.loads(ok(msrt(*argv, "--json", "--state", cloud.state)))
    assert ok(msrt(*argv, "--state", cloud.state)).strip()


def test_tables_are_whole_without_a_terminal(cloud, msrt, pushed):
    """No colours, no cut cells, no blanks at the ends of lines."""
    out = ok(msrt("model", "show", pushed, "--state", cloud.state))
    assert "\x1b" not in out
    assert "…" not in out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert json.loads(ok(msrt("model", "show", f"{pushed}@1", "--json", "--state", cloud.state)))["version"] == 1


def test_a_push_reports_what_was_judged(cloud, msrt, pushed, tmp_path):
    """The next push of a name is the next version, with its report; what is no model is refused with the fault."""
    (tmp_path / "m.onnx").write_bytes(mlp(seed=2))
    found = json.loads(
        ok(msrt("model", "push", tmp_path / "m.onnx", "--name", "net", "--json", "--state", cloud.state))
    )
    assert (found["model"], found["version"]) == ("net", 2)
    assert found["report"]
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    fails(msrt("model", "push", tmp_path / "bad.onnx", "--name", "bad", "--state", cloud.state), "ONNX")


def test_a_rollout_without_devices_is_recorded_and_warns(cloud, msrt, pushed):
    """Exit status 0, a warning on standard error: devices that join later get it."""
    result = msrt("model", "rollout", f"{pushed}@1", "--state", cloud.state)
    assert result.code == 0
    assert "net@1 live" in result.out
    assert "devices that join later get it" in result.err
    [row] = json.loads(ok(msrt("model", "list", "--json", "--state", cloud.state)))
    assert row["serving"] == 1


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("model", "show", "nothing"), ("nothing",)),
        (("model", "rollout", "net@77"), ("no version 77",)),
        (("model", "rollout", "net", "--to", "=x"), ("label '' is malformed",)),
        (("model", "rollback", "nothing"), ("never rolled out",)),
        (("node", "label", "nobody", "a=b"), ("no node is named 'nobody'", "msrt node list")),
        (("node", "remove", "nobody"), ("nobody",)),
        (("node", "logs", "nobody"), ("nobody",)),
        (("node", "diagnose", "nobody"), ("nobody",)),
        (("node", "decommission", "nobody"), ("no node answers to 'nobody'", "msrt node list")),
        (("train", "stop", "nothing"), ("nothing",)),
        (("train", "status", "nothing"), ("no job is named 'nothing'",)),
        (("train", "status", "--report", "x.json"), ("--report needs a job",)),
    ],
)
def test_what_is_not_there_is_one_clear_sentence(cloud, msrt, pushed, argv, words):
    """On standard error, with status 1."""
    fails(msrt(*argv, "--state", cloud.state), *words)


def test_a_folder_that_is_no_job_is_refused_before_it_is_sent(cloud, msrt, tmp_path):
    """The bundle is read here first."""
    fails(msrt("train", "run", tmp_path, "--state", cloud.state), "job.toml")


def test_labels_are_set_and_removed(cloud, msrt):
    """K=V sets, K= removes, and the line shows what is left."""
    invite = ok(msrt("invite", "operator", "--state", cloud.state)).strip()
    ok(msrt("login", invite, "--name", "labelled"))
    assert "a=1 b=2" in ok(msrt("node", "label", "labelled", "a=1", "b=2", "--state", cloud.state))
    assert ok(msrt("node", "label", "labelled", "a=", "--state", cloud.state)).strip() == "labelled: b=2"


@pytest.mark.parametrize(
    "argv", [(), *((c,) for c in ("invite", "model", "train", "node", "events", "infer", "login"))]
)
def test_help_is_there(msrt, argv):
    """Each command and group says what it is for."""
    out = ok(msrt(*argv, "--help"))
    assert "Usage: msrt" in out
    assert len(out.splitlines()) > 5


def test_inputs_are_read_in_four_ways(tmp_path):
    """npy, npz, JSON lists, a body of the Open Inference Protocol."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array, y=array)
    assert (read_input((tmp_path / "x.npy").read_bytes()) == array).all()
    assert sorted(read_input((tmp_path / "x.npz").read_bytes())) == ["x", "y"]
    assert read_input(b"[[1, 2]]") == [[1, 2]]
    assert read_input(b'{"x": [1]}') == {"x": [1]}
    assert read_input(b'{"inputs": [{"name": "x", "shape": [2, 1], "data": [1, 2]}]}') == {"x": [[1], [2]]}


@pytest.mark.parametrize(
    "data", [b"\x93NUMPYzz", b"PKzz", b"{", b"3", b'"x"', b'{"inputs": [{"name": "x", "data": 1}]}']
)
def test_an_input_that_is_none_is_refused(data):
    """With what it could have been."""
    with pytest.raises(errors.CallerError, match="input"):
        read_input(data)
