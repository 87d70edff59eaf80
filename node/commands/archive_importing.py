"""The part of `import` that is about archives of records: up to the daemon, which judges them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from node.commands.exit_codes import ExitCode
from node.commands.exporting import PORTION, REPORTED, reading
from node.commands.output import print_json, print_line
from node.commands.progress import Tick, progress_bar
from node.exchange_formats import CAR, MEDIA_TYPES

if TYPE_CHECKING:
    from node.api_client import ApiClient


def import_archive(client: ApiClient, file: str, as_json: bool) -> ExitCode:
    """Send an archive to the daemon, and say what became of it."""
    with reading(file) as (stream, size), progress_bar("importing", "bytes", size) as tick:
        told = client.upload("/v1/import", _portions(stream, tick), MEDIA_TYPES[CAR])
    if as_json:
        print_json(told)
    else:
        _print(told)
    if told["error"] is not None:
        return ExitCode.DAMAGED
    return ExitCode.PARTLY_DONE if told["refused"] else ExitCode.OK


def _portions(stream: Any, tick: Tick) -> Iterator[bytes]:
    done = 0
    while portion := stream.read(PORTION):
        yield portion
        done += len(portion)
        tick(done)


def _print(told: dict[str, Any]) -> None:
    for fault in told["faults"][:REPORTED]:
        print_line(f"at byte {fault['at']}: {fault['record']} was not taken: {fault['reason']}", err=True)
    if told["refused"] > REPORTED:
        print_line("further records that were not taken are only counted; --json lists them", err=True)
    if told["error"] is not None:
        print_line(f"{told['error']}; what came before it was taken", err=True)
    print_line(
        f"{told['entries']} entries, {told['records']} records: {told['added']} added, {told['known']} known "
        f"before, {told['refused']} not taken",
        err=told["error"] is not None,
    )
