"""The command line: a click group whose commands are the entry points of the group `roseforest.commands`.

The table of commands is data, so a floor above this one (or another distribution) adds commands without
being imported here, and a command's module is imported when it is named. Those modules import only click at
the top: that is what keeps `roseforest --help` fast. Errors leave as one line on stderr and an exit code;
`ROSEFOREST_DEBUG=1` shows the traceback instead.
"""

from __future__ import annotations

import difflib
import gc
import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from typing import Any, NoReturn

import click

from node.commands.exit_codes import ExitCode, exit_code_of
from node.commands.output import printable

PROGRAM = "roseforest"
GROUP = "roseforest.commands"
DEBUG_VARIABLE = "ROSEFOREST_DEBUG"
OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""Python's 700 would look for cycles 280 times while a daemon imports what it needs, a tenth of its start."""


class Commands(click.Group):
    """The commands that are installed; each is imported on first use."""

    _table: dict[str, EntryPoint] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._entries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._entries().get(cmd_name)
        if entry is None:
            close = difflib.get_close_matches(cmd_name, self._entries(), n=3)
            if close and not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {' or '.join(close)}?")
            return None
        try:
            command = entry.load()
        except (ImportError, AttributeError) as error:
            return _unavailable(cmd_name, f"{entry.value} cannot be loaded: {error}")
        return command if isinstance(command, click.Command) else _unavailable(cmd_name, "no click command")

    def _entries(self) -> dict[str, EntryPoint]:
        if self._table is None:
            self._table = {}
            for entry in entry_points(group=GROUP):
                # Ours win over another distribution's command of the same name. To ask whose one is costs a
                # millisecond, so only those are asked.
                if entry.name not in self._table or _distribution(entry) == PROGRAM:
                    self._table[entry.name] = entry
        return self._table


@click.command(
    cls=Commands,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="A node of a peer-to-peer network of knowledge: what you add is signed, what you ask is answered "
    "by meaning, with proof.",
    epilog="Start with: roseforest init, then roseforest run. Exit codes are listed in docs/cli.md.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    help="Show the version and exit.",
    callback=lambda ctx, _, asked: _show_version(ctx) if asked else None,
)
def cli() -> None:
    """The root of the command line."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors have been printed."""
    try:
        outcome: Any = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return int(outcome) if isinstance(outcome, int) else ExitCode.OK
    except BrokenPipeError:
        # The reader has gone (`| head`): keep the interpreter from failing once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return ExitCode.USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else PROGRAM
        _complain(f"{error.format_message()} (see {where} --help)")
        return ExitCode.USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return ExitCode.USAGE
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return report(error)


def report(error: BaseException) -> int:
    """Print an error as one line on stderr; returns its exit code. A group of one counts as its member."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    code = exit_code_of(error)
    if code is ExitCode.UNEXPECTED:
        _complain(
            f"unexpected {type(error).__name__}: {error}; run again with {DEBUG_VARIABLE}=1 for the traceback"
        )
    else:
        _complain(str(error))
    return code


def installed_version() -> str:
    """The distribution's version; "unknown" in a checkout that is not installed."""
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "unknown"


def _show_version(ctx: click.Context) -> None:
    click.echo(f"{PROGRAM} {installed_version()}")
    ctx.exit()


def _complain(message: str) -> None:
    line = printable(" ".join(message.split()))
    print(f"{PROGRAM}: {line}", file=sys.stderr)


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def _unavailable(name: str, reason: str) -> click.Command:
    def refuse() -> None:
        raise click.UsageError(f"the command {name} is not available: {reason}")

    return click.Command(name, callback=refuse, help=f"Not available: {reason}", params=[])
