"""The `msrt` command. Its sub-commands come through the entry-point group `msrt.commands`, loaded when they are used.

So the ground floor imports no tier, `msrt status` does not wait for onnx to be imported, and a tier whose extra is not
installed says which one that is.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from msrt.errors import LocalError, MsrtError

__all__ = ["MissingExtra", "main", "msrt", "node_options"]

F = TypeVar("F", bound=Callable[..., Any])
GROUP: Final = "msrt.commands"
EXTRAS: Final = {
    "msrt_cloud": "cloud", "msrt_edge": "edge", "msrt_device": "device", "msrt.operator.infer": "client",
    "msrt.demo": "cloud,edge,device,train",
}  # fmt: skip
"""Where a command lives, and the extra that brings what it needs."""
ORDER: Final = (
    "demo", "cloud", "edge", "device", "invite", "login", "key", "status", "node", "model", "infer", "train", "update",
    "events",
)  # fmt: skip
"""As one comes to need them."""


def _structlog_alone() -> None:
    """Import structlog without what it takes when it is there: rich, 3 MiB of every node, and tracebacks in the log
    that show what variables hold; greenlet, another MiB, for threads that are none."""
    if "structlog" in sys.modules:
        return
    unwanted = [name for name in ("rich", "greenlet") if name not in sys.modules]
    for name in unwanted:
        sys.modules[name] = None  # type: ignore[assignment] # what makes an import fail
    try:
        importlib.import_module("structlog")
    finally:
        for name in unwanted:
            del sys.modules[name]


class MissingExtra(LocalError):
    """A command needs packages that are not installed."""

    code = "missing_extra"

    def __init__(self, command: str, package: str, extra: str) -> None:
        whole = f"msrt[{extra}]" if extra else package
        super().__init__(f"msrt {command} needs the package {package}", hint=f"pip install '{whole}'")
        self.package, self.extra = package, extra


class _Commands(click.Group):
    """Finds commands by entry point. A broken one is listed, and says what it lacks when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = {*super().list_commands(ctx), *_points()}
        return [*(name for name in ORDER if name in found), *sorted(found - set(ORDER))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = _points().get(cmd_name)
        if point is None:
            return super().get_command(ctx, cmd_name)
        try:
            _structlog_alone()
            command = point.load()
        except ModuleNotFoundError as error:
            return _missing(point, error.name or "")
        assert isinstance(command, click.Command), f"{point.value} is not a click command"
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Most of what one needs is imported only now: raises MissingExtra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package, point = (error.name or "").split(".")[0], _points().get(ctx.invoked_subcommand or "")
            if point is None or not package or package.startswith("msrt"):
                raise
            raise MissingExtra(point.name, package, _extra(point)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("msrt"), prog_name="msrt")
def msrt() -> None:
    """Train, compress, ship, serve and heal AI models on a tree of machines.

    \b
    Begin:    msrt cloud start             one cloud master; prints how to join
              msrt invite edge --region R  one string, for: msrt edge join INVITE
              msrt invite device           one string, for: msrt device join INVITE
    Use:      msrt model push FILE --name N, msrt model rollout N, msrt infer N INPUT
    See:      msrt status, msrt node list, msrt events follow
    Try all:  msrt demo                    in a minute, on this machine alone
    """  # noqa: D301 - \b is click's mark for "leave these lines as they are"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors are one sentence on stderr."""
    try:
        result = msrt.main(args=argv, prog_name="msrt", standalone_mode=False)
        sys.stdout.flush()
    except MsrtError as error:
        click.echo(f"msrt: {error}", err=True)
        return 1
    except click.ClickException as error:
        if _of_a_file(error):
            click.echo(f"msrt: {error.format_message()}", err=True)
            return 1
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:  # `msrt ... | head`: nobody reads on, and Python must not complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a file that the caller named, for reading or writing
        if error.filename is None:
            raise
        click.echo(f"msrt: cannot use {error.filename}: {error.strerror}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _of_a_file(error: click.ClickException) -> bool:
    """Whether a file is at fault, which may be there the next time, and not how the command was called."""
    return (
        isinstance(error, click.BadParameter)
        and not isinstance(error, click.MissingParameter)
        and error.param is not None
        and isinstance(error.param.type, click.Path | click.File)
    )


def node_options(command: F) -> F:
    """What every `start` and `join` takes: --config FILE, --set SETTING=VALUE, --state DIR, --log-format, --log-level.

    Hand `config` and `sets` to `msrt.config.load(config, TYPE, parse_sets(sets) | {"state": state, ...})`.
    """
    options = (
        click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Settings (TOML); deploy/config has an example per tier.",
        ),
        click.option(
            "--set",
            "sets",
            multiple=True,
            metavar="SETTING=VALUE",
            help="One setting, over the file's; may be repeated.",
        ),
        click.option(
            "--state", metavar="DIR", help="Where it keeps keys and data. Default: $XDG_STATE_HOME/msrt/ROLE."
        ),
        click.option(
            "--log-format", type=click.Choice(["console", "json"]), help="Of the log on stderr. Default: console."
        ),
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _extra(point: EntryPoint) -> str:
    return next((extra for prefix, extra in EXTRAS.items() if point.module.startswith(prefix)), "")


def _missing(point: EntryPoint, package: str) -> click.Command:
    extra = _extra(point)

    def refuse(**_: object) -> None:
        raise MissingExtra(point.name, package, extra)

    return click.Command(
        point.name,
        callback=refuse,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
        short_help=f"(needs {f'msrt[{extra}]' if extra else package})",
    )
