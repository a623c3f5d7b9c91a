from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from msrt import cli, config, errors


@click.group()
def good():
    """Works."""


@good.command()
@click.option("--code", default=0)
def run(code):
    """Run it."""
    if code == 9:
        raise errors.PortInUse("127.0.0.1:80 is in use", hint="take another")
    click.echo("ran")


@good.command()
@click.argument("file", type=click.Path(path_type=Path))
def write(file):
    """Write."""
    file.write_bytes(b"")


@good.command()
def late():
    """Import when called."""
    import no_such_package  # noqa: F401, PLC0415


@good.command()
@cli.node_options
def start(config, sets, state, log_format, log_level):
    """Start."""
    click.echo(repr((config, sets, state, log_format, log_level)))


@pytest.fixture(autouse=True)
def points(monkeypatch):
    found = {
        "good": EntryPoint("good", f"{__name__}:good", cli.GROUP),
        "cloud": EntryPoint("cloud", "msrt_cloud.no_such_part:cloud", cli.GROUP),
        "demo": EntryPoint("demo", "msrt.demo.command:demo", cli.GROUP),
        "other": EntryPoint("other", "no_such_package:other", cli.GROUP),
    }
    monkeypatch.setattr(cli, "_points", lambda: found)


def test_commands_are_found_by_entry_point(capsys):
    """What the group names can be called."""
    assert cli.main(["good", "run"]) == 0
    assert capsys.readouterr().out == "ran\n"


def test_an_error_of_ours_is_one_sentence(capsys):
    """On stderr, with status 1 and no traceback."""
    assert cli.main(["good", "run", "--code", "9"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "msrt: 127.0.0.1:80 is in use; take another\n")


def test_a_file_that_cannot_be_written_is_one_sentence_too(capsys):
    """Whatever command wanted it."""
    assert cli.main(["good", "write", "/no/such/folder"]) == 1
    assert capsys.readouterr().err == "msrt: cannot use /no/such/folder: No such file or directory\n"


def test_help_survives_a_broken_command(capsys):
    """What is not installed is listed, with what it needs."""
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "Works." in out
    assert "(needs msrt[cloud])" in out


def test_a_missing_extra_is_named(capsys):
    """Calling it, whatever the arguments, says what to install."""
    for rest in (["start", "--state", "x"], ["--help"], []):
        assert cli.main(["cloud", *rest]) == 1
        assert "pip install 'msrt[cloud]'" in capsys.readouterr().err
    assert cli.main(["other"]) == 1
    assert "pip install 'no_such_package'" in capsys.readouterr().err


def test_a_package_that_is_missed_later_is_named_too(capsys):
    """A command that imports what it needs when it runs: one sentence, and the extra that brings it."""
    assert cli.main(["good", "late"]) == 1
    assert "msrt good needs the package no_such_package; pip install 'no_such_package'" in capsys.readouterr().err


def test_the_demo_says_at_once_what_it_lacks(capsys, monkeypatch, tmp_path):
    """Before it starts anything or makes a directory."""
    monkeypatch.setattr("msrt.demo.command.NEEDS", ("no_such_package",))
    assert cli.main(["demo", "--state", str(tmp_path / "tree")]) == 1
    assert "pip install 'msrt[cloud,edge,device,train]'" in capsys.readouterr().err
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("argv", [["nix"], ["good", "run", "--nix"], ["good", "run", "--code", "x"]])
def test_misuse_is_status_2(argv, capsys):
    """As every command does."""
    assert cli.main(argv) == 2
    assert "Error" in capsys.readouterr().err


def test_node_options_reach_the_config(capsys):
    """--config, --set, --state and the log options stand after the sub-command."""
    assert (
        cli.main(["good", "start", "--set", "lease_s=2", "--set", "name=a", "--state", "d", "--log-format", "json"])
        == 0
    )
    assert capsys.readouterr().out == "(None, ('lease_s=2', 'name=a'), 'd', 'json', None)\n"
    assert config.load(None, config.EdgeConfig, config.parse_sets(["lease_s=2"]) | {"state": "d"}).state == "d"


def test_the_real_command_answers():
    """`msrt --version` from a shell, and a closed pipe on stdout is no traceback."""
    argv = [sys.executable, "-c", "import sys; from msrt.cli import main; sys.exit(main())"]
    done = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("msrt, version ")
    with subprocess.Popen([*argv, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""


def test_the_ground_floor_loads_no_tier():
    """`msrt --version` imports neither torch nor onnxruntime nor a tier."""
    code = (
        "import sys; from msrt.cli import main; main(['--version']);"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'onnx', 'onnxruntime', 'msrt_cloud', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
