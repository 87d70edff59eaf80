"""`delta` and `snapshot`: what has come of an entry since a version, and what it came to, checked here."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from node.api_client import ApiClient


@click.command()
@click.argument("id")
@click.option("--since", metavar="VERSION", default="", help="What an earlier delta or snapshot ended with.")
@home_option
@json_option
def delta(id: str, since: str, home: str | None, as_json: bool) -> None:
    """Show the records of the entry ID that have come since a version, causes first, and the version now."""
    from node.api_client import ApiClient
    from node.home import open_home

    records, version = _follow(ApiClient(open_home(home)), id, since)
    if as_json:
        print_json({"id": id, "records": records, "version": version})
        return
    for one in records:
        print_line(f"{one['id']}  {one['kind']:<14}  {one['author']}")
    print_line(f"version {version}", err=True)


@click.command()
@click.argument("id")
@home_option
@json_option
def snapshot(id: str, home: str | None, as_json: bool) -> None:
    """Take the snapshot of the entry ID, and check it here: its signed records must fold to it."""
    from chain.errors import ChainError
    from chain.record import decode_record, verify_signature
    from crdt.errors import CrdtError
    from crdt.snapshot import believed, decode_snapshot
    from node.api_client import LONG_SECONDS, ApiClient, path_segment
    from node.errors import InvalidInput
    from node.home import open_home

    client = ApiClient(open_home(home))
    answer = client.get(f"/v1/entries/{path_segment(id)}/snapshot", LONG_SECONDS)
    shown, _ = _follow(client, id, "")
    try:
        records = [decode_record(base64.b64decode(one["data"])) for one in shown]
        if not all(map(verify_signature, records)):
            raise InvalidInput(f"a record of {id} is not signed by its author")
        taken = decode_snapshot(base64.b64decode(answer["snapshot"]))
        believed(taken, records)
    except (ChainError, CrdtError) as error:
        raise InvalidInput(f"the snapshot of {id} is not to be believed: {error}") from error
    if (taken.digest.hex(), taken.entry) != (answer["digest"], records[0].cid):
        raise InvalidInput(f"the snapshot of {id} has another digest, or is of another entry")
    if as_json:
        print_json({**answer, "records": len(records)})
        return
    print_line(f"digest   {answer['digest']}")
    print_line(f"heads    {' '.join(answer['heads'])}")
    print_line(f"checked  {len(records)} signed records fold to it")
    print_line(f"version  {answer['version']}")


def _follow(client: ApiClient, id: str, since: str) -> tuple[list[dict[str, Any]], str]:
    """All records since a version, and the version then."""
    from node.api_client import LONG_SECONDS, path_segment

    records: list[dict[str, Any]] = []
    more = True
    while more:
        page = client.post(f"/v1/entries/{path_segment(id)}/delta", {"since": since}, LONG_SECONDS)
        records += page["records"]
        since, more = page["version"], page["more"]
    return records, since
