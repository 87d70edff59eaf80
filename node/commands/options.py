"""Options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def home_option(command: F) -> F:
    """`--home DIR`, given to the command as `home`."""
    return click.option(
        "--home", metavar="DIR", help="Home folder of the node [ROSEFOREST_HOME or ~/.roseforest]."
    )(command)


def json_option(command: F) -> F:
    """`--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)
