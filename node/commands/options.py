"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete a file name; the value stays a plain string, so its errors stay ours."""
    return _shell_item(incomplete, "file")


def complete_folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the name of a folder."""
    return _shell_item(incomplete, "dir")


def home_option(command: F) -> F:
    """`--home DIR`, given to the command as `home`."""
    return click.option(
        "--home",
        metavar="DIR",
        shell_complete=complete_folder,
        help="Home folder of the node [ROSEFOREST_HOME or ~/.roseforest].",
    )(command)


def json_option(command: F) -> F:
    """`--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def passphrase_file_option(command: F) -> F:
    """`--passphrase-file FILE`, given to the command as `passphrase_file`."""
    return click.option(
        "--passphrase-file",
        metavar="FILE",
        shell_complete=complete_file,
        help="The keys' passphrase is the first line of this file [ROSEFOREST_PASSPHRASE].",
    )(command)


def _shell_item(incomplete: str, kind: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]
