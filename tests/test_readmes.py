"""What the READMEs say of files and commands is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from msrt.cli import msrt

ROOT = Path(__file__).resolve().parent.parent
CODE = ("runtime", "cloud", "edge", "device")
TOPS = (*CODE, "tests", "deploy")
READMES = [ROOT / "README.md", *sorted(path for top in TOPS for path in (ROOT / top).rglob("README.md"))]
SOURCES = {".py", ".c", ".h", ".ld", ".proto"}
QUOTED = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)\)")
FILE = re.compile(r"(?<![\w./:-])\w[\w./-]*\.(?:py|md|c|h|ld|proto)(?![\w.(])")
TARGET = re.compile(r"^make ([a-z-]+)")
BLOCK = re.compile(r"```[a-z]*\n(.*?)```", re.DOTALL)
every_readme = pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.parent.relative_to(ROOT)))


def quoted(readme):
    """What stands in backticks, and the lines of blocks."""
    text = readme.read_text()
    blocks = BLOCK.findall(text)
    return [*QUOTED.findall(BLOCK.sub("", text)), *(line for block in blocks for line in block.splitlines())]


@pytest.mark.parametrize(
    "readme", [path for path in READMES if path.relative_to(ROOT).parts[0] in CODE],
    ids=lambda path: str(path.parent.relative_to(ROOT)),
)  # fmt: skip
def test_a_readme_names_each_source_file_of_its_folder(readme):
    """In backticks or as a link, with its ending or without."""
    named = set(re.findall(r"\w+", " ".join([*quoted(readme), *re.findall(r"\[([^\]]+)\]\(", readme.read_text())])))
    files = [path for path in readme.parent.iterdir() if path.suffix in SOURCES and path.name != "__init__.py"]
    assert [path.name for path in files if path.stem not in named] == []


@every_readme
def test_files_and_links_of_a_readme_are_there(readme):
    """Beside it, below it, or from the root on."""
    folder = readme.parent
    files = (file for words in quoted(readme) for file in FILE.findall(words))
    links = [link for link in LINK.findall(readme.read_text()) if "://" not in link]
    gone = [name for name in files if not ((folder / name).exists() or (ROOT / name).exists() or _is_tail(name))]
    assert gone + [link for link in links if not (folder / link).exists()] == []


def _is_tail(name):
    """Whether the path of some file of the house ends like this."""
    found = (path for top in TOPS for path in (ROOT / top).rglob(Path(name).name))
    return any(path.as_posix().endswith(name) for path in found)


@every_readme
def test_commands_of_a_readme_exist(readme):
    """`msrt GROUP COMMAND --option`: each word that leads to a command, and each option; and each `make TARGET`."""
    wrong = [f"{line}: {fault}" for line in quoted(readme) if (fault := _fault(line))]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong += [f"make {name}" for line in quoted(readme) for name in TARGET.findall(line) if name not in targets]
    assert wrong == []


def _fault(line):
    """What is wrong with a line that calls msrt."""
    line = re.sub(r"^\w*\$ ", "", line.strip())
    if not line.startswith("msrt "):
        return ""
    try:
        words = shlex.split(line, comments=True)[1:]
    except ValueError:
        return ""
    command, context = msrt, click.Context(msrt, info_name="msrt")
    for at, word in enumerate(words):
        if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z][a-z-]*", word):
            words = words[at:]
            break
        found = command.get_command(context, word)
        if found is None:
            return f"no command {word}"
        command, context = found, click.Context(found, parent=context, info_name=word)
    else:
        words = []
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    unknown = [word for word in (w.partition("=")[0].rstrip(",;:)") for w in words) if re.match(r"--[a-z]", word)]
    return " ".join(f"no option {word}" for word in unknown if word not in known)
