"""Our images in an emulator: from the power switch to an answered inference, with the commands that a user has."""

from __future__ import annotations

import random
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from msrt_device.flash.linux.root import ROOTFS
from msrt_device.flash.linux.run import run
from msrt_device.updater.packing import pack_agent
from tests.bench.tree import Tree, until
from tests.processes.boards import BOOT_S, ROOT_A, Site, built
from tests.processes.machine import MSRTID, Machine, read_file
from tests.processes.systems import lay_over

pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(1800)]
MANAGER = "etc/systemd/system.conf.d/msrt.conf"
BOUND = {"spent": True, "name": "board-1", "region": "north"}


HANG = """
said() { echo "test: $*" >/dev/ttyS0; }
told() { systemctl show --property "$1" --value msrt-device.service; }
if [ -e /var/hung ]; then
    said started again
    exit 0
fi
until [ "$(systemctl is-active multi-user.target)" = active ]; do sleep 1; done
said without: $(told ActiveState) $(told NRestarts)
echo 'name = "board-1"' >/identity/identity.toml
until [ "$(told ActiveState)" = active ]; do sleep 1; done
said with: $(told ActiveState)
touch /var/hung
sync
said hangs
echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze
"""
"""In the place of a script that root runs at each boot: the first program is frozen, as a system that hangs is."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The base, and its system as it is sent."""
    return built("amd64", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def board(images: tuple[Path, Path]) -> Iterator[Site]:
    """One for all tests here, which come one after the other: what takes long is to boot."""
    with Tree() as tree, Site(tree, *images) as site:
        yield site


def test_a_flashed_arm64_image_boots_enrols_and_answers(tree, tmp_path):
    """As on the other CPU."""
    base, packed = built("arm64", tmp_path)
    with Site(tree, base, packed, "arm64") as site:
        site.answered()
        assert tomllib.loads(read_file(site.machine, MSRTID, "identity.toml")) == BOUND


def test_a_board_waits_for_an_identity_and_one_that_hangs_is_reset(images, tmp_path):
    """It says what to do, begins when an identity is there, and its watchdog (of the kind i6300esb) restarts it when
    systemd stands still; after 20 s here, not after a minute."""
    medium, quick = tmp_path / "medium.img", (ROOTFS / MANAGER).read_text().replace("=1min", "=20s")
    run(["cp", "--sparse=always", str(images[0]), str(medium)])
    lay_over(medium, ROOT_A, {"/usr/lib/msrt/trial": HANG, f"/{MANAGER}": quick}, tmp_path)
    with Machine("amd64", medium, tmp_path, "-device", "i6300esb", "-action", "watchdog=reset") as machine:
        until("it has started again", lambda: "test: started again" in machine.said(), BOOT_S)
    said = machine.said()
    assert "this board has no identity, and waits for one" in said
    assert "test: without: inactive 0" in said
    assert "test: with: active" in said
    assert said.index("test: hangs") < said.index("test: started again")


def test_a_flashed_amd64_image_boots_enrols_and_answers(board):
    """The claim is spent at its edge and gone from the medium."""
    board.answered()
    assert tomllib.loads(read_file(board.machine, MSRTID, "identity.toml")) == BOUND


def test_a_system_comes_over_the_air_while_the_board_serves(board):
    """It is written beside the one that runs, of which most is taken; started once on trial, and in force when its edge
    has welcomed it and its model has answered. The cloud hears of it once."""
    board.answered()
    name = board.push("2")
    board.tree.cli("update", "rollout", name)
    until("it is being written", lambda: board.stage(name) in {"writing", "waiting"}, 300)
    assert board.answers()
    assert 0 < board.fetched(name) < 0.05 * board.systems.size
    row = board.ended(name)
    assert (row["state"], row["done"], row["errors"]) == ("done", 1, 0)
    assert [(one["state"], one["version"]) for one in row["nodes"]] == [("done", "2")]
    board.answered()
    assert board.running() == "2"
    until("the outcome is told", lambda: board.outcomes("2"), 30)
    assert board.outcomes("2") == [("done", "")]


def test_an_agent_comes_over_the_air_on_top_of_its_system(board, tmp_path):
    """The root never changes: another agent lies on the data partition, beside the packages that the system brought."""
    board.answered()
    image = tmp_path / "agent.tar"
    pack_agent(image, alone=True)
    board.tree.cli("update", "push", str(image), "--kind", "agent", "--version", "9")
    board.tree.cli("update", "rollout", "agent@9")
    assert board.ended("agent@9")["state"] == "done"
    assert board.running("agent") == "9"
    board.answered()


def test_the_power_may_go_at_any_moment_of_an_update(board):
    """At three sampled moments: while it is fetched and written, and when it starts. What it brings cannot even boot,
    so the old system is back each time, and says once what became of it; another try with the same is refused."""
    board.answered()
    before, draw = board.running(), random.Random(5)
    name = board.push("3", "kernel")
    board.ask("update.rollout", name=name, errors=1.0, success=0.5)
    for stages in (
        {"fetching", "writing", "waiting"},
        {"writing", "waiting", "starting", "failed"},
        {"starting", "failed"},
    ):
        until(f"it is one of {stages}", lambda stages=stages: board.stage(name) in stages, 600)
        time.sleep(draw.uniform(0.0, 8.0))  # that is the fault: any moment will do
        board.power_cycle()
        board.answered()
        assert board.running() == before
    row = board.ended(name)
    assert [(one["state"], one["version"]) for one in row["nodes"]] == [("error", before)]
    assert "Kernel panic" in board.machine.said()
    until("what became of it is told", lambda: board.outcomes("3"), 60)
    assert board.outcomes("3") == [("failed", "1 of 1 starts ended before it was committed")]
    board.ask("update.rollout", name=name)
    assert "failed here before" in board.ended(name)["reason"]
