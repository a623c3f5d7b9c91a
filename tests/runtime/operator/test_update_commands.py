"""`msrt update`, held against a real cloud."""

from __future__ import annotations

import json
import tarfile

import pytest

from tests.runtime.operator.test_commands import fails, ok


def test_no_firmware_of_a_microcontroller_is_taken(cloud, msrt, tmp_path):
    """No device would know what to do with it."""
    push = ("update", "push", system(tmp_path, b""), "--kind", "firmware", "--version", "3", "--state", cloud.state)
    assert "'firmware' is not one of 'agent', 'system'" in msrt(*push).err


def system(folder, root):
    """An image with what every system's has."""
    for name, data in (("system.json", b"{}"), ("root.img", root)):
        (folder / name).write_bytes(data)
    with tarfile.open(folder / "system.tar", "w") as archive:
        for name in ("system.json", "root.img"):
            archive.add(folder / name, name)
    return folder / "system.tar"


def test_an_image_is_pushed_listed_and_rolled_out(cloud, msrt, tmp_path):
    """Once: the same bytes again are the same image, other bytes of that version are refused."""
    file = system(tmp_path, b"a system" * 1000)
    state = ("--state", cloud.state)
    push = ("update", "push", file, "--kind", "system", "--version", "2.0", "--class", "x86_64-*", *state)
    assert "system@2.0 for x86_64-*: 20480 bytes" in ok(msrt(*push))
    assert "20480 bytes" in ok(msrt(*push))
    system(tmp_path, b"another one")
    fails(msrt(*push), "another image", "a version of its own")
    [row] = json.loads(ok(msrt("update", "list", "--json", *state)))
    assert (row["name"], row["classes"], row["size"]) == ("system@2.0", "x86_64-*", 20480)
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
        (("push", __file__, "--kind", "system", "--version", "3"), ("no whole tar file", "--set update=FILE")),
        (("push", "a.tar", "--kind", "agent", "--version", "3"), ("has no agent.py", "msrt device pack-agent")),
        (("push", "a.tar", "--kind", "system", "--version", "3*"), ("cannot be described", "a version is letters")),
        (("push", "a.tar", "--kind", "system", "--version", "3", "--class", ""), ("empty pattern",)),
        (("push", "a.tar", "--kind", "system", "--version", "3", "--request", "/no/r"), ("cannot use /no/r",)),
    ],
)
def test_what_cannot_work_is_named(cloud, msrt, argv, words, tmp_path):
    """In one sentence, with what to do; `a.tar` is a system's image."""
    argv = [str(system(tmp_path, b"a system")) if one == "a.tar" else one for one in argv]
    fails(msrt("update", *argv, "--state", cloud.state), *words)
