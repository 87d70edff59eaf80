"""Where a command gets a passphrase from: a file, the environment, or the terminal; never the command line.

What stands on a command line is seen by every user of the machine and kept in the shell's history. The
variable is taken out of the environment as it is read, so that no child process inherits it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.errors import InvalidInput
from node.home import PASSPHRASE_VARIABLE

if TYPE_CHECKING:
    from node.home import Home, Protection

NEW_PASSPHRASE_VARIABLE = "ROSEFOREST_NEW_PASSPHRASE"
MAX_FILE = 64 * 1024


def passphrase_of(folder: Home, file: str | None) -> str | None:
    """The passphrase that opens a home's signing key; None when it needs none, or nobody can be asked.

    A key that stays locked is then reported by whoever opens it.
    """
    return passphrase_for(folder.key, folder.is_sealed(), file)


def passphrase_for(path: Path, sealed: bool, file: str | None) -> str | None:
    """The passphrase that opens the key in the file `path`; as `passphrase_of`."""
    if not sealed:
        return None
    given = _given(file, PASSPHRASE_VARIABLE)
    if given is None and sys.stdin.isatty():
        given = _asked(f"Passphrase of {path}")
    return given


def protection_for(folder: Home, wanted: bool, file: str | None) -> Protection | None:
    """How `init` seals the keys: with what is given, or, when `wanted`, with what is asked for.

    For a home that has a sealed key already, that key's passphrase, so that an interrupted `init` goes on.
    """
    if folder.key.exists():
        if folder.is_initialised():
            return None
        given = passphrase_of(folder, file)
    else:
        given = new_passphrase(wanted, file, PASSPHRASE_VARIABLE)
    return None if given is None else _protection(given)


def new_protection(file: str | None) -> Protection:
    """How the keys are to be sealed from now on; raises `InvalidInput` when nobody says it."""
    given = new_passphrase(True, file, NEW_PASSPHRASE_VARIABLE)
    assert given is not None
    return _protection(given)


def new_passphrase(wanted: bool, file: str | None, variable: str) -> str | None:
    """A passphrase to seal with, asked for twice at a terminal when it is `wanted` and not given."""
    from node.key_file import check_passphrase

    given = _given(file, variable)
    if given is None and wanted:
        if not sys.stdin.isatty():
            raise InvalidInput(
                f"there is no terminal to ask at: give the passphrase in a file or in {variable}"
            )
        given = _asked("New passphrase", confirm=True)
    if given is not None:
        check_passphrase(given)
    return given


def _protection(passphrase: str) -> Protection:
    from dht.ports import system_random
    from node.home import Protection

    return Protection(passphrase, system_random().random_bytes)


def _given(file: str | None, variable: str) -> str | None:
    from_environment = os.environ.pop(variable, None)
    if file is not None:
        return _first_line(Path(file))
    return from_environment or None


def _first_line(path: Path) -> str:
    from node.durable_files import read_bounded, require_private

    data = read_bounded(path, MAX_FILE, "write the passphrase on its first line")
    if path.is_file():
        require_private(path)
    try:
        line = data.split(b"\n", 1)[0].removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the first line of {path} is not text in UTF-8") from error
    if not line:
        raise InvalidInput(f"the first line of {path} is empty: write the passphrase there")
    return line


def _asked(prompt: str, confirm: bool = False) -> str:
    answer: str = click.prompt(
        prompt,
        hide_input=True,
        err=True,
        default="",
        show_default=False,
        confirmation_prompt="Again" if confirm else False,
    )
    return answer
