"""`msrt model policy`: what its options mean, and what it prints."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest

from msrt import cli
from msrt.dispatch.policy import ModelPolicy
from msrt.operator.policy import _change
from tests.runtime.inference.models import mlp


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"cache": "16MiB:60s"}, {"cache_bytes": 16 << 20, "cache_age_s": 60.0}),
        ({"cache": "1.5MB:500ms"}, {"cache_bytes": 1_500_000, "cache_age_s": 0.5}),
        ({"cache": "4096"}, {"cache_bytes": 4096}),
        ({"cache": "off"}, {"cache_bytes": 0}),
        ({"shadow": "3:25%"}, {"shadow": 3, "shadow_share": 0.25}),
        ({"shadow": "3"}, {"shadow": 3, "shadow_share": 1.0}),
        ({"shadow": "off"}, {"shadow": 0}),
        ({"escalate_to": "default/big"}, {"escalate_to": "big"}),
        ({"escalate_to": "off"}, {"escalate_to": ""}),
        ({"escalate_budget": "10%", "escalate_accuracy": ".95"}, {"escalate_budget": 0.1, "escalate_accuracy": 0.95}),
        ({"priority": "background", "overflow": False}, {"priority": -1, "overflow": False}),
        ({"cache": None, "overflow": None}, {}),
    ],
)
def test_options_name_fields_of_the_policy(options, change):
    """Only what is named changes, and every name is one of the policy's."""
    assert _change(options) == change
    assert set(change) <= set(ModelPolicy.__struct_fields__)


@pytest.mark.parametrize(
    "options", [{"cache": "much"}, {"cache": "1MiB:long"}, {"shadow": "new"}, {"shadow": "0"}, {"shadow": "2:200%"},
                {"escalate_budget": "lots"}, {"escalate_below": "-1"}],
)  # fmt: skip
def test_what_is_no_amount_is_misuse(options):
    """Said before anything is asked of the cloud."""
    with pytest.raises(click.BadParameter):
        _change(options)


@pytest.fixture(scope="module")
def pushed(cloud, tmp_path_factory):
    """served@1 is in the registry."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "net.onnx").write_bytes(mlp(seed=1))
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32))
    argv = ["model", "push", folder / "net.onnx", "--name", "served", "--calibrate", folder / "x.npy"]
    assert cli.main([str(a) for a in [*argv, "--state", cloud.state]]) == 0
    return "served"


def test_a_policy_is_set_and_shown(cloud, msrt, pushed):
    """JSON for programs, a table for people; a model without a shadow says how to get one."""
    done = msrt("model", "policy", pushed, "--cache", "1MiB:5s", "--no-overflow", "--json", "--state", cloud.state)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert (found["cache_bytes"], found["cache_age_s"], found["overflow"]) == (1 << 20, 5.0, False)
    shown = msrt("model", "policy", pushed, "--show", "--state", cloud.state)
    assert "cache_bytes" in shown.out
    assert "1048576" in shown.out
    both = msrt("model", "policy", pushed, "--show", "--cache", "off", "--state", cloud.state)
    assert both.code == 2
    none = msrt("model", "shadow", pushed, "--state", cloud.state)
    assert none.code == 1
    assert "--shadow VERSION" in none.err
    assert json.loads(msrt("model", "shadow", "--json", "--state", cloud.state).out) == []
