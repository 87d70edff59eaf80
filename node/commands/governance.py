"""`warrants` and `epoch`: who was proven to do wrong, and what the network's stewards decide."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line

MAX_PROPOSAL = 256 * 1024
"""Bytes of a proposal's file."""
MAX_ATLAS = 32 << 20
"""Bytes of an atlas, as in `sharding.atlas`."""
ATLAS_SECONDS = 120.0
"""For requests for which the daemon may have to fetch an atlas."""


@click.command()
@home_option
@json_option
def warrants(home: str | None, as_json: bool) -> None:
    """List the offences that are proven, with their evidence."""
    from node.api_client import ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).get("/v1/warrants")
    if as_json:
        print_json(answer)
        return
    for one in answer["warrants"]:
        what = f"a record that breaks {one['rule']!r} at seq {one['seq']}"
        if one["rule"] == "fork":
            what = f"two records at seq {one['seq']}"
        elif one["rule"] == "revoked":
            what = "its recovery key has revoked it"
        state = "lifted" if one["lifted"] else f"nothing from seq {one['since']} on is shown"
        print_line(f"{one['offender']}: {what} ({state})")
        for record in one["records"]:
            print_line(f"  record   {record}")
        for warrant, accuser in zip(one["warrants"], one["accusers"], strict=True):
            print_line(f"  warrant  {warrant} by {accuser}")
    if not answer["warrants"]:
        print_line("nobody was proven to do wrong", err=True)


@click.group()
def epoch() -> None:
    """Change what a network lets change: its rules, lifted warrants, who is out."""


@epoch.command("list")
@home_option
@json_option
def list_epochs(home: str | None, as_json: bool) -> None:
    """List the network's epochs."""
    from node.api_client import ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).get("/v1/epochs")
    if as_json:
        print_json(answer)
        return
    for one in answer["epochs"]:
        mark = "*" if one["current"] else " "
        print_line(f"{mark} {one['number']:>4} rules {one['rules']}{_said_of(one)} {one['id']}")
        for out in one["expelled"]:
            guests = ", and whom it has let in" if out["guests"] else ""
            print_line(f"       expels {out['agent']} from seq {out['since']} on{guests}")
        for agent in one["readmitted"]:
            print_line(f"       readmits {agent}")
        if one["atlas"] is not None:
            print_line(f"       atlas {one['atlas']}")


@epoch.command("atlas")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--cells", type=click.IntRange(2), help="A power of two; default: as many as the vectors allow."
)
@click.option(
    "--network",
    is_flag=True,
    help="Of what all nodes hold, by sketches that the daemon fetches; not of this node's own vectors.",
)
@home_option
@json_option
def atlas(file: Path, cells: int | None, network: bool, home: str | None, as_json: bool) -> None:
    """Make an atlas and write it to FILE; takes minutes for thousands of vectors."""
    from node.api_client import LONG_SECONDS, ApiClient
    from node.atlas_making import make_atlas, network_atlas
    from node.commands.network import say_how
    from node.commands.progress import progress_of_steps
    from node.home import open_home

    if file.exists():
        raise click.UsageError(f"{file} exists already")
    folder, shards = open_home(home), {}
    if network:
        sample = ApiClient(folder).get("/v1/atlases/sample", LONG_SECONDS)
        shards = {name: sample[name] for name in ("shards", "shards_total")}
    with progress_of_steps() as progress:
        if network:
            made = network_atlas(folder, b64decode(sample["codes"]), cells, progress)
        else:
            made = make_atlas(folder, cells, progress)
    say_how(made)
    file.write_bytes(made.data)
    answer = {"file": str(file), "cid": made.cid, "cells": made.cells, "vectors": made.vectors, **shards}
    if as_json:
        print_json(answer)
    else:
        of = f" in {shards['shards']} of {shards['shards_total']} shards" if network else ""
        print_line(f"{file}: {made.cells} cells of {made.vectors} vectors{of}, atlas {made.cid}")


atlas_option = click.option(
    "--atlas",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="ATLAS",
    help="The file of the atlas (roseforest epoch atlas).",
)


@epoch.command("propose")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--lift", "lift", multiple=True, metavar="WARRANT", help="Forgive what this warrant proves.")
@click.option("--rules", type=click.IntRange(1), help="The rule version from then on.")
@click.option(
    "--expel",
    "expel",
    multiple=True,
    metavar="AGENT[:SEQ]",
    help="Put this agent out; nothing that it wrote counts from SEQ on, or from now on.",
)
@click.option("--with-guests", is_flag=True, help="And all whom the expelled have let in, or will.")
@click.option("--readmit", "readmit", multiple=True, metavar="AGENT", help="Let this agent in again.")
@atlas_option
@home_option
@json_option
def propose(
    file: Path,
    lift: tuple[str, ...],
    rules: int | None,
    expel: tuple[str, ...],
    with_guests: bool,
    readmit: tuple[str, ...],
    atlas: Path | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Write the next epoch to FILE, unsigned, for stewards to sign."""
    if not (lift or expel or readmit or atlas) and rules is None:
        raise click.UsageError(
            "say what changes: --lift WARRANT, --rules N, --atlas ATLAS, --expel or --readmit AGENT"
        )
    if with_guests and not expel:
        raise click.UsageError("--with-guests goes with --expel")
    if file.exists():
        raise click.UsageError(f"{file} exists already")
    asked = {
        "lift": list(lift),
        "rules": rules,
        "expel": [_expelled(one) for one in expel],
        "readmit": list(readmit),
        "guests": with_guests,
        "atlas": _send_atlas(home, atlas),
    }
    _write(file, _client(home).post("/v1/epochs/propose", asked, ATLAS_SECONDS), as_json)


@epoch.command("sign")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@atlas_option
@home_option
@json_option
def sign(file: Path, atlas: Path | None, home: str | None, as_json: bool) -> None:
    """Sign the epoch in FILE as a steward of the network; its atlas is fetched, or taken from ATLAS."""
    proposal = _read(file)
    _send_atlas(home, atlas)
    _write(file, _client(home).post("/v1/epochs/sign", proposal, ATLAS_SECONDS), as_json)


@epoch.command("publish")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@home_option
@json_option
def publish(file: Path, home: str | None, as_json: bool) -> None:
    """Publish the epoch in FILE, once enough stewards have signed it."""
    answer = _client(home).post("/v1/epochs", _read(file))
    if as_json:
        print_json(answer)
    else:
        print_line(f"epoch {answer['number']} is published: {answer['id']}")


def _expelled(text: str) -> dict[str, Any]:
    agent, colon, seq = text.partition(":")
    if colon and not seq.isdecimal():
        raise click.UsageError(f"--expel {text!r}: after the colon stands a seq, a whole number")
    return {"agent": agent, "since": int(seq) if colon else None}


def _said_of(epoch: dict[str, Any]) -> str:
    """What an epoch or a proposal changes besides rules, in words."""
    found = [
        f"{verb} {len(epoch[field])} {noun}{'' if len(epoch[field]) == 1 else 's'}"
        for field, verb, noun in (
            ("lifted", "lifts", "warrant"),
            ("expelled", "expels", "agent"),
            ("readmitted", "readmits", "agent"),
        )
        if epoch[field]
    ]
    return "".join(f", {one}" for one in found)


def _client(home: str | None) -> Any:
    from node.api_client import ApiClient
    from node.home import open_home

    return ApiClient(open_home(home))


def _send_atlas(home: str | None, file: Path | None) -> str | None:
    """Have the daemon keep the atlas in a file; its CID."""
    if file is None:
        return None
    if file.stat().st_size > MAX_ATLAS:
        raise click.UsageError(f"{file} is no atlas: it has over {MAX_ATLAS} bytes")
    return str(_client(home).post_atlas(file.read_bytes(), ATLAS_SECONDS)["cid"])


def _read(file: Path) -> Any:
    if file.stat().st_size > MAX_PROPOSAL:
        raise click.UsageError(f"{file} is no proposal of an epoch: it has over {MAX_PROPOSAL} bytes")
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise click.UsageError(f"{file} is no proposal of an epoch: {error}") from error


def _write(file: Path, proposal: dict[str, Any], as_json: bool) -> None:
    file.write_text(json.dumps(proposal, indent=1) + "\n")
    if as_json:
        print_json(proposal)
        return
    count = len(proposal["signatures"])
    signed = f"{count} signature{'' if count == 1 else 's'}"
    print_line(
        f"{file}: epoch {proposal['number']} with rules {proposal['rules']}{_said_of(proposal)}, {signed}"
    )
