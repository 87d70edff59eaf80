"""`export` and `verify`: knowledge into a file, and a file of records judged without daemon or home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from node.commands.exit_codes import ExitCode
from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line
from node.commands.progress import progress_bar

if TYPE_CHECKING:
    from chain.archive_parts import Begun
    from validation.archive import Fault, Tally

PORTION = 1 << 20
"""Bytes of an archive read at a time."""
REPORTED = 20
"""Faults printed one by one; the rest is counted."""
KEPT = 1000
"""Faults listed in the JSON summary."""


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--format", "form", type=click.Choice(["car", "jsonld", "jsonl"]), default="car", show_default=True
)
@click.option("--all", "everything", is_flag=True, help="All entries that are on this node.")
@click.option("--domain", help="Those of this field of knowledge.")
@click.option("--tag", help="Those with this tag.")
@click.option(
    "-o", "--output", required=True, metavar="FILE", shell_complete=complete_file, help="- for stdout."
)
@home_option
@json_option
def export(
    ids: tuple[str, ...],
    form: str,
    everything: bool,
    domain: str | None,
    tag: str | None,
    output: str,
    home: str | None,
    as_json: bool,
) -> None:
    """Write the entries ID…, or those that are here, to a FILE.

    car: signed records, which roseforest verify judges anywhere and import takes into the same network.
    jsonld: entries, operations and agents as JSON-LD with PROV-O. jsonl: one entry a line, with every field.
    """
    if bool(ids) == (everything or domain is not None or tag is not None):
        raise click.UsageError("give either IDs, or --all, or --domain or --tag")
    from node.api_client import ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    parameters = [("format", form), *(("id", one) for one in ids)]
    parameters += [(name, value) for name, value in (("domain", domain), ("tag", tag)) if value is not None]
    with _writing(output) as write, progress_bar("exporting", "bytes", None) as tick:
        done = 0

        def take(portion: bytes) -> None:
            nonlocal done
            write(portion)
            done += len(portion)
            tick(done)

        size = client.download("/v1/export", take, parameters)
    if as_json:
        print_json({"file": output, "format": form, "bytes": size})
    elif output != "-":
        print_line(f"{size} bytes in {output}")


@click.command()
@click.argument("file", shell_complete=complete_file)
@json_option
@click.pass_context
def verify(ctx: click.Context, file: str, as_json: bool) -> None:
    """Judge an archive of records offline: hashes, signatures and every rule of its network.

    Needs neither a daemon nor a home. Exit 7: something is damaged or invalid; 10: some records name what the
    archive does not hold, so nothing can be said of them.
    """
    from chain.errors import ChainError

    report = _Report(quiet=as_json)
    broken: str | None = None
    with reading(file) as (stream, size), progress_bar("verifying", "bytes", size) as tick:
        try:
            _judge(stream, report, tick)
        except ChainError as error:
            broken = str(error)
    if broken is not None and not as_json:
        print_line(broken, err=True)
    if as_json:
        print_json(report.summary(broken))
    elif report.tally is not None:
        print_line(report.sentence(whole=broken is None))
    tally = report.tally
    if broken is not None or tally is None or tally.invalid:
        ctx.exit(ExitCode.DAMAGED)
    if tally.undecided:
        ctx.exit(ExitCode.PARTLY_DONE)


class _Report:
    """What verifying has found so far."""

    def __init__(self, quiet: bool) -> None:
        self.begun: Begun | None = None
        self.tally: Tally | None = None
        self.held_to_texts = False
        self.faults: list[Fault] = []
        self._told = 0
        self._quiet = quiet

    def add(self, faults: list[Fault]) -> None:
        for fault in faults:
            if len(self.faults) < KEPT:
                self.faults.append(fault)
            self._told += 1
            if not self._quiet and self._told <= REPORTED:
                print_line(str(fault), err=True)
                if self._told == REPORTED:
                    print_line("further faults are only counted; --json lists them", err=True)

    def sentence(self, whole: bool) -> str:
        tally, begun = self.tally, self.begun
        assert tally is not None
        assert begun is not None
        parts = [
            f"network {begun.manifest.name}: {tally.entries} entries, {tally.records} records "
            f"({tally.erased} erased) by {tally.authors} authors, {tally.companions} headers beside them, "
            f"{tally.epochs} epochs, {tally.warrants} warrants",
            f"{tally.invalid} invalid, {tally.undecided} undecided, {tally.uncounted} valid but not counting",
        ]
        if not self.held_to_texts:
            parts.append("vectors were not held against their texts")
        return "; ".join(parts if whole else [*parts, "the rest was not read"])

    def summary(self, broken: str | None) -> dict[str, Any]:
        from dataclasses import asdict

        from chain.cid import to_text
        from chain.identity import peer_id

        return {
            "whole": broken is None,
            "error": broken,
            "network": None if self.begun is None else to_text(self.begun.network),
            "name": None if self.begun is None else self.begun.manifest.name,
            "vectors_held_to_texts": self.held_to_texts,
            **({} if self.tally is None else asdict(self.tally)),
            "faults": [
                {
                    "record": to_text(one.record),
                    "kind": one.kind,
                    "author": peer_id(one.author),
                    "at": one.at,
                    "rule": one.rule or None,
                    "reason": one.reason,
                    "undecided": one.undecided,
                }
                for one in self.faults
            ],
        }


def _judge(stream: BinaryIO, report: _Report, tick: Callable[[float], None]) -> None:
    from chain.archive_parts import ArchiveReader, Begun
    from validation.archive import ArchiveJudge

    reader = ArchiveReader()
    judge: ArchiveJudge | None = None
    done = 0
    while portion := stream.read(PORTION):
        for part in reader.feed(portion):
            if isinstance(part, Begun):
                embed = _codes_of(part)
                judge = ArchiveJudge(part, embed)
                report.begun, report.tally, report.held_to_texts = part, judge.tally, embed is not None
            assert judge is not None
            report.add(judge.take(part))
        done += len(portion)
        tick(done)
    reader.close()


def _codes_of(begun: Begun) -> Callable[[str], bytes | None] | None:
    """What vectors are held against: the packaged embedder, where the network is of its space."""
    from node.authoring import binding_codes
    from node.embedding.static import DIM, SPACE, StaticEmbedder

    space = begun.manifest.space
    return binding_codes(StaticEmbedder()) if (space.model, space.dim) == (SPACE, DIM) else None


@contextmanager
def reading(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """A file, or standard input for -, and its size in bytes where it has one; raises `InvalidInput`."""
    import os
    import sys

    from node.errors import InvalidInput

    try:
        if file == "-":
            yield sys.stdin.buffer, None
            return
        with open(file, "rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error


@contextmanager
def _writing(file: str) -> Iterator[Callable[[bytes], object]]:
    """A file that is there whole in the end, or not at all; standard output as it is."""
    import os
    import sys

    from node.errors import InvalidInput

    if file == "-":
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    draft = f"{file}.part"
    try:
        with open(draft, "wb") as stream:

            def write(portion: bytes) -> None:
                try:
                    stream.write(portion)
                except OSError as error:
                    raise InvalidInput(f"{draft} cannot be written: {error.strerror}") from error

            yield write
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, file)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}") from error
    finally:
        if os.path.exists(draft):
            os.unlink(draft)
