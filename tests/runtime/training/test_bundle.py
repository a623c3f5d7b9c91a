from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msrt.errors import InvalidJob
from msrt.training.bundle import open_bundle, pack, unpack
from msrt.training.settings import parse_config

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
MINIMAL = 'name = "toy"\ntask = "task:Toy"\n'


def _job(directory: Path, text: str = MINIMAL) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "job.toml").write_text(text)
    (directory / "task.py").write_text("class Toy: ...\n")
    return directory


def _zip(**entries: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def test_the_same_files_give_the_same_digest(tmp_path: Path) -> None:
    """Dates, caches and hidden files do not matter; contents do."""
    one, two = _job(tmp_path / "one"), _job(tmp_path / "two")
    os.utime(two / "task.py", (1e9, 1e9))
    (two / "__pycache__").mkdir()
    (two / "__pycache__" / "task.pyc").write_text("x")
    (two / ".git").mkdir()
    assert pack(one) == pack(two)
    (two / "task.py").write_text("class Toy: pass\n")
    assert pack(one).digest != pack(two).digest


def test_a_bundle_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Unpacking gives the files and the settings."""
    bundle = pack(_job(tmp_path / "job"))
    assert unpack(bundle.data, tmp_path / "out") == bundle.config
    assert (tmp_path / "out" / "task.py").read_text() == "class Toy: ...\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MINIMAL + "roundz = 3\n", "did you mean 'rounds'"),
        (MINIMAL + "[train]\nepoch = 3\n", r"\[train\] has no setting 'epoch'; did you mean 'epochs'"),
        (MINIMAL + "[publish]\nmodel = 'm'\ncanari = ''\n", "did you mean 'canary'"),
        (MINIMAL + "quorum = 0.0\n", "quorum"),
        (MINIMAL + "rounds = 'many'\n", "rounds"),
        ('name = "Toy!"\ntask = "task:Toy"\n', "name"),
        ('name = "toy"\ntask = "task"\n', "task"),
        ("name = \n", "not TOML"),
    ],
)
def test_a_wrong_setting_is_named(text: str, why: str) -> None:
    """A typo names the nearest known key; a value out of range names its place."""
    with pytest.raises(InvalidJob, match=why):
        parse_config(text)


def test_a_directory_without_settings_or_with_links_is_refused(tmp_path: Path) -> None:
    """A bundle is plain files with a job.toml."""
    with pytest.raises(InvalidJob, match=r"no job\.toml"):
        pack(tmp_path)
    job = _job(tmp_path / "job")
    (job / "data.csv").symlink_to("/etc/passwd")
    with pytest.raises(InvalidJob, match="symbolic link"):
        pack(job)


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "a/../../b", "a\\b"])
def test_an_entry_outside_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    """Nothing is written outside the job's directory."""
    with pytest.raises(InvalidJob, match="not a plain file inside"):
        unpack(_zip(**{"job.toml": MINIMAL, name: "x"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_zip_is_refused(tmp_path: Path) -> None:
    """Symbolic links do not come out of a bundle either."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("job.toml", MINIMAL)
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidJob, match="'link'"):
        unpack(buffer.getvalue(), tmp_path)


@given(st.data())
def test_broken_zips_are_refused_and_nothing_else(data: st.DataObject) -> None:
    """Any flipped byte either still opens or raises InvalidJob."""
    raw = bytearray(_zip(**{"job.toml": MINIMAL, "task.py": "x = 1\n" * 20}))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        open_bundle(bytes(raw))
    except InvalidJob:
        return


@pytest.mark.parametrize("job", sorted(path.parent.name for path in EXAMPLES.glob("*/job.toml")))
def test_every_example_packs(job: str) -> None:
    """Each job under deploy/examples has valid settings."""
    assert pack(EXAMPLES / job).config.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Toy:\n    def model(: ...\n", r"task\.py, line 2: invalid syntax: def model\(: \.\.\."),
        ("x = 1\0", "task.py: source code"),
    ],
)
def test_what_no_python_reads_is_not_sent(text: str, said: str, tmp_path: Path) -> None:
    """The file, the line and what stands there, before a node hears of it."""
    job = _job(tmp_path / "job")
    (job / "task.py").write_text(text)
    with pytest.raises(InvalidJob, match=said):
        pack(job)
