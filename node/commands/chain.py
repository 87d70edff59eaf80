"""`chain log` and `chain verify`: the node's own source chain."""

from __future__ import annotations

import click

from node.commands.agent_life import close
from node.commands.exit_codes import ExitCode
from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line


@click.group()
def chain() -> None:
    """The node's own source chain."""


chain.add_command(close)


@chain.command("log")
@click.option("--from", "from_seq", type=click.IntRange(0), default=0, show_default=True, help="First seq.")
@click.option("-n", "limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many.")
@home_option
@json_option
def log(from_seq: int, limit: int, home: str | None, as_json: bool) -> None:
    """List the chain's records, oldest first."""
    from node.api_client import ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).get("/v1/chain/log", from_seq=from_seq, limit=limit)
    if as_json:
        print_json(answer)
        return
    from datetime import UTC, datetime

    for record in answer["records"]:
        when = datetime.fromtimestamp(record["hlc"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        print_line(
            f"{record['seq']:>7} {when} {record['kind']:<15} {record['payload_size']:>8} {record['id']}"
        )
    if not answer["records"]:
        print_line(f"no records from seq {from_seq} on", err=True)
    if answer["next"] is not None:
        print_line(f"more: --from {answer['next']}", err=True)


@chain.command("verify")
@home_option
@json_option
@click.pass_context
def verify(ctx: click.Context, home: str | None, as_json: bool) -> None:
    """Verify every link and signature of the chain."""
    from node.api_client import LONG_SECONDS, ApiClient
    from node.home import open_home

    answer = ApiClient(open_home(home)).post("/v1/chain/verify", seconds=LONG_SECONDS)
    if as_json:
        print_json(answer)
    elif answer["ok"]:
        print_line(f"ok: {answer['length']} records, head {answer['head']}")
    else:
        print_line(f"NOT OK: {answer['reason']}; restore the home folder from a backup", err=True)
    if not answer["ok"]:
        ctx.exit(ExitCode.DAMAGED)
