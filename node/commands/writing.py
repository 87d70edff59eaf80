"""`text` and `write`: reading and writing a text that several people write in."""

from __future__ import annotations

from typing import Any

import click

from node.commands.knowledge import read_text
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line


@click.command()
@click.argument("id")
@home_option
@json_option
def text(id: str, home: str | None, as_json: bool) -> None:
    """Print the text of the entry ID, with what was written apart put together."""
    answer = _client(home).get(_path(id))
    if as_json:
        print_json(answer)
        return
    print_line("(erased)" if answer["text"] is None else answer["text"])
    _tell_apart(answer)


@click.command()
@click.argument("id")
@click.option(
    "--file", "path", metavar="FILE", shell_complete=complete_file, help="Take the new text from FILE."
)
@home_option
@json_option
def write(id: str, path: str | None, home: str | None, as_json: bool) -> None:
    """Change the text of the entry ID in your editor ($VISUAL or $EDITOR), or to that of FILE.

    Only what you changed is written. What others write meanwhile stays, wherever they are.
    """
    from node.text_difference import splices_between

    client = _client(home)
    seen = client.get(_path(id))
    old: str | None = seen["text"]
    if old is None:
        raise click.UsageError("the entry has no text any more: give it a new one by edit")
    _tell_apart(seen)
    new = _edited(old) if path is None else read_text("-", path)
    if new is None:
        new = old
    splices = [
        {"at": one.at, "delete": one.delete, "insert": one.insert} for one in splices_between(old, new)
    ]
    if not splices:
        answer: dict[str, Any] = {"id": id, "records": [], "version_id": None}
    else:
        answer = client.send("PATCH", _path(id), {"version": seen["version"], "splices": splices})
    if as_json:
        print_json(answer)
    elif not answer["records"]:
        print_line("nothing to change", err=True)
    else:
        print_line(f"{answer['id']} is at version {answer['version_id']}")


def _edited(old: str) -> str | None:
    """What the editor made of it; None when nothing was saved. The newline at the end is the editor's."""
    new = click.edit(old)
    if new is not None and new.endswith("\n") and not old.endswith("\n"):
        return new[:-1]
    return new


def _tell_apart(answer: Any) -> None:
    for one in answer["apart"]:
        print_line(f"not in this text: one by {', '.join(one['authors'])}", err=True)
    if answer["reason"] is not None:
        print_line(answer["reason"], err=True)


def _client(home: str | None) -> Any:
    from node.api_client import ApiClient
    from node.home import open_home

    return ApiClient(open_home(home))


def _path(id: str) -> str:
    from node.api_client import path_segment

    return f"/v1/entries/{path_segment(id)}/text"
