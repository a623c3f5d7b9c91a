"""What a user installs holds what a repository does."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this tree, built as pip builds it, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_carries_every_module(wheel):
    """Of all four packages, with their mark of being typed."""
    for package in ("runtime/msrt", "cloud/msrt_cloud", "edge/msrt_edge", "device/msrt_device"):
        house = ROOT / package
        ours = {file.relative_to(house.parent) for suffix in ("py", "typed") for file in house.rglob(f"*.{suffix}")}
        assert not {str(file) for file in ours if not (wheel / file).is_file()}


def test_the_demo_of_a_wheel_finds_its_job(wheel, tmp_path):
    """In an empty folder, without the repository: the example's job packs and its images are there."""
    code = (
        "import msrt.demo.data as d; from msrt.training.bundle import pack;"
        "job = d.example(); rows, labels = d.held_out(job); print(job, len(rows), len(pack(job).data) > 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(wheel / "msrt_examples" / "digits"), "360", "True"]


def test_the_commands_of_a_wheel_are_those_of_the_repository(wheel):
    """Its entry points name what is there."""
    (points,) = wheel.glob("*.dist-info/entry_points.txt")
    text = points.read_text()
    for group in ("msrt.commands", "msrt.nodes", "msrt.sources"):
        assert f"[{group}]" in text
    for line in text.splitlines():
        module = line.partition(" = ")[2].partition(":")[0].replace(".", "/")
        assert not module or (wheel / f"{module}.py").is_file() or (wheel / module / "__init__.py").is_file()
