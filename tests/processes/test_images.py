"""Our images in an emulator: from the power switch to an answered inference, with the commands that a user has."""

from __future__ import annotations

import random
import time
import tomllib
from collections.abc import Iterator

import pytest

from msrt_device.updater.packing import pack_agent
from tests.bench.tree import Tree, until
from tests.processes.boards import Site, built
from tests.processes.machine import MSRTID, read_file

pytestmark = [pytest.mark.slow, pytest.mark.minutes, pytest.mark.timeout(1800)]
BOUND = {"spent": True, "name": "board-1", "region": "north"}


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests here, which come one after the other: what takes long is to boot."""
    base, packed = built("amd64", tmp_path_factory.mktemp("image"))
    with Tree() as tree, Site(tree, base, packed) as site:
        yield site


def test_a_flashed_arm64_image_boots_enrols_and_answers(tree, tmp_path):
    """As on the other CPU."""
    base, packed = built("arm64", tmp_path)
    with Site(tree, base, packed, "arm64") as site:
        site.answered()
        assert tomllib.loads(read_file(site.machine, MSRTID, "identity.toml")) == BOUND


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
