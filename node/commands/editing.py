"""`edit`, `tag`, `untag`, `vote`, `delete`, `retract`, `purge`: changing an entry, one's own or another's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from node.commands.field_options import CLEARABLE, field_options, fields_body
from node.commands.knowledge import read_text, read_vector
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line

F = TypeVar("F", bound=Callable[..., Any])


def if_version_option(command: F) -> F:
    """`--if-version V`, given to the command as `if_version`."""
    return click.option(
        "--if-version",
        metavar="V",
        help="Only if the entry still is at this version, as `get` shows it; else exit code 12.",
    )(command)


@click.command()
@click.argument("id")
@click.argument("text", required=False)
@click.option("--file", "path", metavar="FILE", shell_complete=complete_file, help="Read the text from FILE.")
@click.option("--tag", "tags", multiple=True, help="A tag to add; may be given several times.")
@click.option("--domain", help="The field of knowledge.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="How sure you are, from 0 to 1.")
@click.option("--citation", "citations", multiple=True, help="The sources, in place of those there are.")
@click.option(
    "--clear",
    multiple=True,
    type=click.Choice(CLEARABLE),
    help="Take this field away; may be given several times.",
)
@click.option(
    "--vector",
    metavar="FILE",
    shell_complete=complete_file,
    help="JSON list of numbers, where the network takes the caller's vectors.",
)
@field_options
@if_version_option
@home_option
@json_option
def edit(
    id: str,
    text: str | None,
    path: str | None,
    tags: tuple[str, ...],
    domain: str | None,
    confidence: float | None,
    citations: tuple[str, ...],
    clear: tuple[str, ...],
    vector: str | None,
    if_version: str | None,
    home: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Give the entry ID a new TEXT (- for standard input), or change what is said beside it.

    What is not given stays as it is; tags are removed by untag. A conflict between several values ends: the
    new value takes the place of all of them.
    """
    if text is not None and path is not None:
        raise click.UsageError("give either TEXT or --file FILE")
    body: dict[str, Any] = dict.fromkeys(clear)
    given = {"domain": domain, "confidence": confidence, "vector": read_vector(vector)}
    body |= {name: value for name, value in given.items() if value is not None} | fields_body(**fields)
    if text is not None or path is not None:
        body["text"] = read_text("-" if text is None else text, path)
    if tags:
        body["tags"] = list(tags)
    if citations:
        body["citations"] = list(citations)
    if not body:
        raise click.UsageError("say what is to change: TEXT, --file, or one of the other options")
    send("PATCH", id, "", body, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.argument("tags", nargs=-1, required=True)
@if_version_option
@home_option
@json_option
def tag(id: str, tags: tuple[str, ...], if_version: str | None, home: str | None, as_json: bool) -> None:
    """Add TAGS to the entry ID."""
    send("POST", id, "/tags", {"add": list(tags)}, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.argument("tags", nargs=-1, required=True)
@if_version_option
@home_option
@json_option
def untag(id: str, tags: tuple[str, ...], if_version: str | None, home: str | None, as_json: bool) -> None:
    """Remove TAGS from the entry ID, whoever added them."""
    send("POST", id, "/tags", {"remove": list(tags)}, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.argument("value", metavar="up|down|none", type=click.Choice(["up", "down", "none"]))
@click.option("--reason", help="Why; at most 1,000 bytes, for everybody to read.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="How sure you are, from 0 to 1.")
@if_version_option
@home_option
@json_option
def vote(
    id: str,
    value: str,
    reason: str | None,
    confidence: float | None,
    if_version: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Vote on the entry ID; your last vote counts, none takes it back."""
    body = {"value": value, "reason": reason, "confidence": confidence}
    send("PUT", id, "/vote", body, if_version, home, as_json)


@click.command()
@click.argument("id")
@if_version_option
@home_option
@json_option
def delete(id: str, if_version: str | None, home: str | None, as_json: bool) -> None:
    """Delete the entry ID as it is now. An edit made meanwhile elsewhere wins over it."""
    send("DELETE", id, "", None, if_version, home, as_json)


@click.command()
@click.argument("id")
@if_version_option
@home_option
@json_option
def retract(id: str, if_version: str | None, home: str | None, as_json: bool) -> None:
    """Take back the entry ID for good; only its creator can."""
    send("POST", id, "/retract", None, if_version, home, as_json)


@click.command()
@click.argument("id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
@json_option
def purge(id: str, yes: bool, home: str | None, as_json: bool) -> None:
    """Erase what you said in the entry ID, or in your record ID, everywhere and for good.

    Only your own words go. What others wrote stays, and so does the signed line that you wrote something.
    """
    if not yes:
        click.confirm("This cannot be undone, here or anywhere. Erase?", abort=True, err=True)
    send("POST", id, "/purge", None, None, home, as_json)


def send(
    method: str, id: str, rest: str, body: Any, if_version: str | None, home: str | None, as_json: bool
) -> None:
    """Send a change of the entry to the daemon, and print what came of it."""
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    answer = client.send(method, f"/v1/entries/{path_segment(id)}{rest}", body, if_version)
    if as_json:
        print_json(answer)
        return
    if not answer["records"]:
        print_line("nothing to change", err=True)
    print_line(f"{answer['id']} is at version {answer['version_id']}")
