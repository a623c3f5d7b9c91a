"""What is asked of a repository over HTTP, and how a version's state is named."""

from __future__ import annotations

import asyncio
import json

import pytest

from msrt.errors import Unavailable
from msrt.inference.bundle import Manifest, Variant
from msrt.protocol.messages import ModelState, TensorSpec
from msrt.serving.app import App
from msrt.serving.repository import config_from, config_of, index_row, settled
from tests.runtime.serving.caller import call
from tests.runtime.serving.grpc.rig import Keeper
from tests.runtime.serving.test_access import FAR, Door


def state(name, error=""):
    return ModelState("m", 1, "fp32", name, error)


@pytest.mark.parametrize(
    ("states", "rolled_out", "said", "reason"),
    [
        ([], False, "UNAVAILABLE", "not rolled out here"),
        ([], True, "UNAVAILABLE", "nobody here has it"),
        (["fetching"], True, "LOADING", "fetching"),
        (["loading", "failed"], True, "LOADING", "loading"),
        (["failed"], True, "UNAVAILABLE", "no room"),
        (["failed", "ready"], True, "READY", ""),
        (["loading", "ready"], True, "READY", ""),
        (["ready"], False, "UNLOADING", "not rolled out here"),
        (["failed"], False, "UNAVAILABLE", "not rolled out here"),
    ],
)
def test_a_version_is_as_ready_as_the_readiest_that_has_it(states, rolled_out, said, reason):
    """By what those who compute say of it, and whether it should run at all."""
    row = index_row("m", 1, [state(name, "no room") for name in states], rolled_out=rolled_out)
    assert (row.state, row.reason) == (said, reason)


@pytest.mark.parametrize(("batchable", "most", "dims"), [(True, 32, [3]), (False, 0, [-1, 3])])
def test_dims_leave_the_batch_out_where_rows_are_joined(batchable, most, dims):
    """As Triton's tools read them."""
    tensors = (TensorSpec("x", "BYTES", (-1, 3)),)
    manifest = Manifest(
        "m", 2, tensors, tensors, {"fp32": Variant("0" * 64, 1)}, batchable=batchable, labels=("a", "b")
    )
    said = config_of(config_from(manifest, 32))
    assert (said["max_batch_size"], list(said["input"][0]["dims"])) == (most, dims)
    assert said["input"][0]["data_type"] == "TYPE_STRING"
    assert said["version_policy"] == {"specific": {"versions": [2]}}
    assert said["parameters"] == {"labels": {"string_value": "a\nb"}}
    assert said["platform"].startswith(said["backend"])


def test_waiting_ends_with_its_time():
    """It says whether it came true."""

    async def scenario():
        now = asyncio.get_running_loop().time
        return await settled(lambda: True, now, 0), await settled(lambda: False, now, 0.1)

    assert asyncio.run(scenario()) == (True, False)


# --- over HTTP -------------------------------------------------------------------------------------------------------


def ask(path, body=None, keeper=None):
    keeper = keeper or Keeper()
    return call(path, body, app=App(keeper, models=keeper))


def test_the_index_lists_all_or_only_what_is_ready():
    """An empty body asks for all."""
    every = ask("/v2/repository/index", b"").json
    assert every == [
        {"name": "digits", "version": "1", "state": "UNAVAILABLE", "reason": "not rolled out"},
        {"name": "digits", "version": "3", "state": "READY", "reason": ""},
    ]
    assert ask("/v2/repository/index", {"ready": True}).json == every[1:]


def test_configuration_and_statistics():
    """Of a model, of one version, of all; 404 for what is not there."""
    assert ask("/v2/models/digits/config").json["name"] == "digits"
    assert ask("/v2/models/digits/versions/1/config").json["version_policy"]["specific"]["versions"] == [1]
    for path in ("/v2/models/digits/stats", "/v2/models/digits/versions/3/stats", "/v2/models/stats"):
        (row,) = ask(path).json["model_stats"]
        assert (row["version"], row["inference_count"]) == ("3", 8)
        assert row["inference_stats"]["success"] == {"count": 8, "ns": 900}
        assert row["batch_stats"][0]["compute_infer"] == {"count": 2, "ns": 20}
    assert ask("/v2/models/nobody/config").status == 404
    assert ask("/v2/models/nobody/stats").status == 404


def test_load_and_unload():
    """By name; namespaces as everywhere."""
    keeper = Keeper()
    assert ask("/v2/repository/models/ns/net/load", b"", keeper).status == 200
    assert ask("/v2/repository/models/net/unload", {"parameters": {"unload_dependents": False}}, keeper).status == 200
    assert keeper.managed == [("load", "ns/net", 0), ("unload", "net")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", b"{"),
        ("/v2/repository/index", b'{"ready": 1}'),
        ("/v2/repository/index", b"[" * 60_000),
        ("/v2/repository/models/net/load", b'{"parameters": {"config": "{}"}}'),
        ("/v2/repository/models/net/load", b"[]"),
        ("/v2/repository/models/net/unload", b"\xff"),
    ],
)
def test_a_question_that_is_none_is_refused(path, body):
    """400, and nothing is done; an own configuration is refused by its name."""
    keeper = Keeper()
    answer = ask(path, body, keeper)
    assert (answer.status, keeper.managed) == (400, [])
    if b"config" in body:
        assert "'config'" in answer.json["error"]


def test_a_question_has_a_bound():
    """Far under that of tensors."""
    assert ask("/v2/repository/index", b" " * 70_000).status == 413


def test_a_node_without_a_repository_says_so():
    """503, not a page that is missing."""
    answer = call("/v2/repository/index", b"")
    assert (answer.status, "no model repository" in answer.json["error"]) == (503, True)


def test_a_load_that_fails_names_why():
    """Its error is the caller's answer."""

    class Away(Keeper):
        async def load(self, model, version=0):
            raise Unavailable(f"nobody loaded {model}")

    answer = ask("/v2/repository/models/net/load", b"", Away())
    assert (answer.status, json.loads(answer.body)["error"]) == (503, "nobody loaded net")


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/v2/trace/setting", "tracing by request"),
        ("/v2/models/digits/trace/setting", "tracing by request"),
        ("/v2/logging", "changing the log by request"),
        ("/v2/systemsharedmemory/status", "shared memory"),
        ("/v2/systemsharedmemory/region/a/register", "shared memory"),
        ("/v2/cudasharedmemory/region/a/unregister", "CUDA shared memory"),
    ],
)
@pytest.mark.parametrize("body", [None, b"{}"])
def test_what_is_unsupported_says_so(path, what, body):
    """Asked or told, as an error in JSON."""
    answer = call(path, body)
    assert (answer.status, answer.json) == (400, {"error": f"{what} is unsupported"})


def test_only_operators_load_and_unload():
    """A client's key may look, and no more."""
    door, keeper = Door(), Keeper()
    client, operator = ({"x-api-key": door.key(role, role)} for role in ("client", "operator"))

    def at(path, headers):
        app = App(keeper, models=keeper, access=door.access)
        return call(path, b"", app=app, peer=FAR, headers=headers).status

    for change in ("load", "unload"):
        assert at(f"/v2/repository/models/net/{change}", client) == 403
        assert at(f"/v2/repository/models/net/{change}", {}) == 401
        assert at("/v2/repository/index", client) == 200
        assert keeper.managed == []
    assert at("/v2/repository/models/net/load", operator) == 200
    assert keeper.managed == [("load", "net", 0)]
