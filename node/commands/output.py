"""What commands print: JSON for programs, plain lines for people.

Texts come from strangers, so everything that a terminal could take for a command (escape sequences,
overrides of the writing direction) is shown as its escape instead of being sent.
"""

from __future__ import annotations

import json
from typing import Any

import click

INDENT = "    "


def print_json(value: Any) -> None:
    """One line of ASCII JSON."""
    click.echo(json.dumps(value, ensure_ascii=True, allow_nan=False))


def print_line(text: str = "", err: bool = False) -> None:
    """One or more lines for people, made safe for a terminal."""
    click.echo(printable(text), err=err)


def printable(text: str) -> str:
    """`text` with every character that is neither printable nor a line feed or tab written as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _escape(char) for char in text)


def in_line(text: str) -> str:
    """A stranger's text inside a line of ours: whatever ends a line is shown, so it can begin none."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def excerpt(text: str, lines: int, width: int) -> str:
    """The first `lines` non-blank lines of `text`, each cut to `width` characters and indented."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip()]
    shown = [line if len(line) <= width else f"{line[: width - 1]}…" for line in kept[:lines]]
    if len(kept) > lines:
        shown.append("…")
    return "\n".join(INDENT + line for line in shown)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
