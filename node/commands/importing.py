"""`import`: a corpus or an export into the node, in batches, resumable, with bad lines named and skipped.

Every entry is sent with a key made from its content, or from the entry that it was exported from, and the
node adds a key at most once; so an import that was interrupted is resumed by running it again. A batch is
acknowledged when it is durable, as a whole. An archive of records goes to the daemon as it is
(`node.commands.archive_importing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from node.commands.exit_codes import ExitCode
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line
from node.commands.progress import Tick, progress_bar
from node.exchange_formats import CAR, JSON_LD, JSON_LINES, MEDIA_TYPES

if TYPE_CHECKING:
    from node.api_client import ApiClient
    from node.corpus.entry import CorpusEntry

FORMATS = tuple(MEDIA_TYPES)
SNIFFED = 4096
"""Bytes by which a file's format is told, where its name does not."""
BATCH_ENTRIES = 200
BATCH_BYTES = 2 << 20
"""Bytes of JSON in one request, unless a single entry is larger."""
BATCH_SECONDS = 300.0
REPORTED_LINES = 20
"""Bad lines printed one by one; the rest is counted."""
KEPT_LINES = 1000
"""Bad lines listed in the JSON summary."""
PPM = 1_000_000


class Tally:
    """What became of the lines so far."""

    def __init__(self, quiet: bool) -> None:
        self.read = self.added = self.known = self.bad = 0
        self.bad_lines: list[dict[str, Any]] = []
        self._quiet = quiet

    def skip(self, number: int, reason: str) -> None:
        """Count a bad line, and say so."""
        self.bad += 1
        if len(self.bad_lines) < KEPT_LINES:
            self.bad_lines.append({"line": number, "reason": reason})
        if not self._quiet and self.bad <= REPORTED_LINES:
            print_line(f"line {number}: {reason}; skipped", err=True)
            if self.bad == REPORTED_LINES:
                print_line("further bad lines are only counted; --json lists them", err=True)

    def summary(self) -> dict[str, Any]:
        """The JSON summary."""
        return {
            "read": self.read,
            "added": self.added,
            "known": self.known,
            "bad": self.bad,
            "bad_lines": self.bad_lines,
        }

    def sentence(self) -> str:
        """The summary for people."""
        return f"{self.read} read: {self.added} added, {self.known} known before, {self.bad} bad and skipped"


@click.command("import")
@click.argument("file", required=False, shell_complete=complete_file)
@click.option(
    "--source", type=click.Choice(["stdlib"]), help="A corpus every machine has: Python's own docstrings."
)
@click.option("--format", "form", type=click.Choice(["auto", *FORMATS]), default="auto", show_default=True)
@click.option("--part", metavar="I/N", help="Only part I of N, so that N nodes can share a corpus.")
@home_option
@json_option
@click.pass_context
def import_entries(
    ctx: click.Context,
    file: str | None,
    source: str | None,
    form: str,
    part: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Add the entries of a FILE or a --source.

    FILE (- for standard input) is JSON lines, one object a line: text and, if wanted, tags, domain,
    confidence, citations, vector and the fields of an entry; or JSON-LD; or an archive of this network's
    records, which keep their authors. Of what was exported elsewhere you are the author here, and the source
    is cited. A bad line is named and skipped. Run an interrupted import again to go on: what is there is not
    added twice.
    """
    if (file is None) == (source is None):
        raise click.UsageError("give either FILE or --source stdlib")
    share = _part(part)
    from node.api_client import ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    tally = Tally(quiet=as_json)
    try:
        if file is None:
            _import_stdlib(client, share, tally)
        elif _import_file(client, file, form, share, tally) == CAR:
            from node.commands.archive_importing import import_archive

            ctx.exit(import_archive(client, file, as_json))
    except BaseException:
        if tally.read:
            print_line(f"{tally.sentence()}; run the same command again to go on", err=True)
        raise
    if as_json:
        print_json(tally.summary())
    else:
        print_line(tally.sentence())
    if tally.bad:
        ctx.exit(ExitCode.PARTLY_DONE)


def _import_stdlib(client: ApiClient, share: tuple[int, int], tally: Tally) -> None:
    from node.corpus.stdlib import entries

    index, parts = share
    chosen = [entry for place, entry in enumerate(entries()) if place % parts == index]
    with progress_bar("importing", "entries", len(chosen)) as tick:
        _send_all(
            client, ((place, entry, float(place)) for place, entry in enumerate(chosen, 1)), tally, tick
        )


def _import_file(client: ApiClient, file: str, form: str, share: tuple[int, int], tally: Tally) -> str:
    """Import the file unless it is an archive; its format."""
    import os
    import sys

    from node.errors import InvalidInput

    try:
        stream = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    try:
        form = _format_of(file, stream) if form == "auto" else form
        if form == CAR:
            return form
        size = os.fstat(stream.fileno()).st_size if stream.seekable() else None
        with progress_bar("importing", "bytes", size or None) as tick:
            _send_all(client, _lines(stream, form, share, tally, _network(client)), tally, tick)
    except IsADirectoryError as error:
        raise InvalidInput(f"{file} is a folder, not a file to import") from error
    finally:
        if file != "-":
            stream.close()
    return form


def _format_of(file: str, stream: Any) -> str:
    """The format by the file's name, else by its first bytes."""
    for form in FORMATS:
        if file.endswith(f".{form}"):
            return form
    begin = stream.peek(SNIFFED)[:SNIFFED]
    if b"\xa2\x65roots" in begin[:16]:
        return CAR
    return JSON_LD if b'"@context"' in begin or b'"@graph"' in begin else JSON_LINES


def _network(client: ApiClient) -> str:
    network: str = client.get("/v1/status")["network"]
    return network


def _lines(
    stream: Any, form: str, share: tuple[int, int], tally: Tally, network: str
) -> Iterator[tuple[int, CorpusEntry, float]]:
    from node.corpus.json_lines import BadLine, read_json_lines
    from node.exchange_formats.json_ld_reading import read_json_ld

    index, parts = share
    seekable = stream.seekable()
    for line in (read_json_ld if form == JSON_LD else read_json_lines)(stream):
        if line.number % parts != (index + 1) % parts:
            continue
        reason = None
        if isinstance(line, BadLine):
            reason = line.reason
        elif line.entry.origin is not None and line.entry.origin.network == network:
            reason = "this is an entry of the network that the node is in: export an archive (car) instead"
        if isinstance(line, BadLine) or reason is not None:
            tally.read += 1
            tally.skip(line.number, reason or "")
        else:
            yield line.number, line.entry, float(stream.tell()) if seekable else 0.0


def _send_all(
    client: ApiClient, lines: Iterator[tuple[int, CorpusEntry, float]], tally: Tally, tick: Tick
) -> None:
    import json

    batch: list[Any] = []
    numbers: list[int] = []
    size = 0
    done = 0.0
    for number, entry, done_after in lines:
        body = _body(entry)
        length = len(json.dumps(body))
        if batch and (len(batch) >= BATCH_ENTRIES or size + length > BATCH_BYTES):
            _send(client, batch, numbers, tally)
            tick(done)
            batch, numbers, size = [], [], 0
        batch.append(body)
        numbers.append(number)
        size += length
        done = done_after
    if batch:
        _send(client, batch, numbers, tally)
        tick(done)


def _send(client: ApiClient, batch: list[Any], numbers: list[int], tally: Tally) -> None:
    answer = client.post("/v1/entries/batch", {"entries": batch}, BATCH_SECONDS)
    tally.read += len(batch)
    tally.added += answer["added"]
    tally.known += answer["known"]
    for result in answer["results"]:
        if "error" in result:
            tally.skip(numbers[result["index"]], result["error"])


def _body(entry: CorpusEntry) -> dict[str, Any]:
    return {
        "text": entry.text,
        "tags": list(entry.tags),
        "domain": entry.domain,
        "confidence": None if entry.confidence is None else entry.confidence / PPM,
        "citations": list(entry.citations),
        "vector": None if entry.vector is None else list(entry.vector),
        "key": entry.import_key.hex(),
        **dict(entry.more),
    }


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    index, _, parts = text.partition("/")
    if not (index.isascii() and index.isdigit() and parts.isascii() and parts.isdigit()):
        raise click.UsageError(f"--part {text!r} is not I/N such as 1/5")
    if not 1 <= int(index) <= int(parts):
        raise click.UsageError(f"--part {text!r}: I runs from 1 to N")
    return int(index) - 1, int(parts)
