"""What holds for every command of `msrt`, whichever room it comes from."""

from __future__ import annotations

import re

import click
import pytest

from msrt.cli import main, msrt

WIDTH = 100


def walk(command, context):
    """(words, command, context) of it and of all below."""
    yield context.command_path.split()[1:], command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            yield from walk(below, click.Context(below, parent=context, info_name=name, max_content_width=WIDTH))


ALL = list(walk(msrt, click.Context(msrt, info_name="msrt", terminal_width=WIDTH, max_content_width=WIDTH)))
LEAVES = [(words, command) for words, command, _ in ALL if not isinstance(command, click.Group)]


def name(words):
    return " ".join(words) if isinstance(words, list) else ""


@pytest.mark.parametrize(
    ("words", "group", "context"), [one for one in ALL if isinstance(one[1], click.Group)], ids=name
)
def test_a_list_of_commands_shows_whole_sentences(words, group, context):
    """The first sentence of each fits its line."""
    listed = group.get_help(context).partition("\nCommands:\n")[2]
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


def test_every_option_says_what_it_is_for():
    """And what is said more than once says so in one way."""
    options = [
        (words, option) for words, command, _ in ALL for option in command.params if option.param_type_name == "option"
    ]
    assert [(words, option.opts) for words, option in options if not option.help and option.name != "help"] == []
    often = [(words, option) for words, option in options if option.multiple]
    odd = [
        (words, option.opts)
        for words, option in often
        if not re.search(r"[Mm]ay be repeated|once for each", option.help)
    ]
    assert odd == []


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=name)
def test_misuse_of_a_command_is_status_2_and_shows_its_usage(words, command, capsys):
    """An option that it does not know; an argument or an option that is missing."""
    wrong = [[*words, "--no-such-option"]]
    if any(param.required for param in command.params):
        wrong.append(words)
    for argv in wrong:
        assert main(argv) == 2, argv
        said = capsys.readouterr().err
        assert said.startswith("Usage: msrt"), said
        assert re.search(r"No such option|Missing (argument|option)", said), said
