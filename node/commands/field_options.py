"""The options of `add` and `edit` for what is said beside a text: title, type, reasoning and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from node.commands.options import complete_file

F = TypeVar("F", bound=Callable[..., Any])

CLEARABLE: Final = (
    "domain",
    "confidence",
    "citations",
    "format",
    "generated_by",
    "title",
    "type",
    "subdomains",
    "reasoning",
    "statements",
)
"""What `edit --clear` takes away."""
MAX_REASONING_FILE = 1 << 20
_OPTIONS = (
    click.option("--title", help="A title, at most 300 bytes."),
    click.option("--type", "type_", metavar="TYPE", help="What it is: fact, method, question, …"),
    click.option("--subdomain", "subdomains", multiple=True, help="May be given several times."),
    click.option("--format", "format_", metavar="FORMAT", help="Of the text: markdown, plain, …"),
    click.option("--generated-by", metavar="WHO", help="The model or person that wrote the text."),
    click.option("--method", metavar="TEXT", help="How you came to it."),
    click.option("--step", "steps", multiple=True, metavar="TEXT", help="A step of the method, in order."),
    click.option(
        "--reasoning",
        metavar="FILE",
        shell_complete=complete_file,
        help="JSON with method, steps and alternatives, in place of --method and --step.",
    ),
    click.option(
        "--statement",
        "statements",
        nargs=2,
        type=(str, click.FloatRange(0, 1)),
        multiple=True,
        metavar="TEXT CONFIDENCE",
        help="One thing that the text says, and how sure you are of it.",
    ),
)


def field_options(command: F) -> F:
    """The options; the command hands them all to `fields_body`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def fields_body(
    *,
    title: str | None,
    type_: str | None,
    subdomains: tuple[str, ...],
    format_: str | None,
    generated_by: str | None,
    method: str | None,
    steps: tuple[str, ...],
    reasoning: str | None,
    statements: tuple[tuple[str, float], ...],
) -> dict[str, Any]:
    """The given ones as the HTTP interface takes them."""
    if reasoning is not None and (method is not None or steps):
        raise click.UsageError("give either --reasoning FILE or --method and --step")
    if steps and method is None:
        raise click.UsageError("--step goes with --method")
    body: dict[str, Any] = {"title": title, "type": type_, "format": format_, "generated_by": generated_by}
    body["reasoning"] = _reasoning(reasoning) if reasoning is not None else None
    if method is not None:
        body["reasoning"] = {"method": method, "steps": list(steps)}
    body["subdomains"] = list(subdomains) or None
    body["statements"] = [{"text": text, "confidence": sure} for text, sure in statements] or None
    return {name: value for name, value in body.items() if value is not None}


def _reasoning(path: str) -> Any:
    import json

    from node.errors import InvalidInput

    try:
        with open(path, "rb") as file:
            return json.loads(file.read(MAX_REASONING_FILE + 1))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
