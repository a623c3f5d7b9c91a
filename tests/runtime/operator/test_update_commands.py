"""`msrt update`, held against a real cloud."""

from __future__ import annotations

import json

import pytest

from tests.runtime.operator.test_commands import fails, ok


def test_an_image_is_pushed_listed_and_rolled_out(cloud, msrt, tmp_path):
    """Once: the same bytes again are the same image, other bytes of that version are refused."""
    file = tmp_path / "root.img"
    file.write_bytes(b"a system" * 1000)
    state = ("--state", cloud.state)
    push = ("update", "push", file, "--kind", "system", "--version", "2.0", "--class", "x86_64-*", *state)
    assert "system@2.0 for x86_64-*: 8000 bytes" in ok(msrt(*push))
    assert "8000 bytes" in ok(msrt(*push))
    file.write_bytes(b"another one")
    fails(msrt(*push), "another image", "a version of its own")
    [row] = json.loads(ok(msrt("update", "list", "--json", *state)))
    assert (row["name"], row["classes"], row["size"]) == ("system@2.0", "x86_64-*", 8000)
    assert "0 devices match, in 3 groups" in ok(
        msrt("update", "rollout", "system@2.0", "--groups", ".05,.25,1", "--soak", "5", *state)
    )
    [row] = json.loads(ok(msrt("update", "status", "system@2.0", "--json", *state)))
    assert (row["state"], row["group"], row["nodes"]) == ("running", 1, [])
    ok(msrt("update", "pause", "system@2.0", *state))
    fails(msrt("update", "pause", "system@2.0", *state), "system@2.0 is paused")
    ok(msrt("update", "resume", "system@2.0", *state))
    ok(msrt("update", "stop", "system@2.0", *state))
    assert "stopped" in ok(msrt("update", "status", *state))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("rollout", "agent@9"), ("no image is named 'agent@9'", "msrt update list")),
        (("status", "agent@9"), ("no update 'agent@9' was rolled out",)),
        (("stop", "agent@9"), ("agent@9",)),
        (("rollout", "agent@9", "--groups", "a,b"), ("no list of shares",)),
        (("push", __file__, "--kind", "agent", "--version", "3"), ("no whole tar file", "msrt device pack-agent")),
        (("push", __file__, "--kind", "system", "--version", "3*"), ("cannot be described", "a version is letters")),
        (("push", __file__, "--kind", "system", "--version", "3", "--class", ""), ("empty pattern",)),
        (("push", __file__, "--kind", "system", "--version", "3", "--request", "/no/r"), ("cannot use /no/r",)),
    ],
)
def test_what_cannot_work_is_named(cloud, msrt, argv, words):
    """In one sentence, with what to do."""
    fails(msrt("update", *argv, "--state", cloud.state), *words)
