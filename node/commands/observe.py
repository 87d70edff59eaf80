"""`status` and `peers`: how the node is doing."""

from __future__ import annotations

import click

from node.commands.options import home_option, json_option
from node.commands.output import print_json, print_line

NO_PEERS = "none yet; if there should be some, roseforest doctor tries their addresses"


@click.command()
@home_option
@json_option
def status(home: str | None, as_json: bool) -> None:
    """Show the node at a glance."""
    from node.api_client import ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    answer = client.get("/v1/status")
    if as_json:
        print_json(answer)
        return
    unconnected = "" if answer["reachable"] else ", none of them connected"
    short = answer["under_replicated"]
    copies = f"{short} groups of records short of a copy" if short else "none missing"
    if answer["repairing"]:
        copies += f", {answer['repairing']} being repaired"
    most = "" if answer["store_max_mb"] is None else f" of {answer['store_max_mb']}"
    full = ", FULL: nothing new is held for others" if answer["full"] else ""
    banned = sum(one["banned_s"] > 0 for one in client.get("/v1/standings")["standings"])
    unwelcome = f", {banned} banned" if banned else ""
    unconfirmed = answer["unconfirmed"]
    receipts = f"{unconfirmed} own records short of them" if unconfirmed else "enough for every own record"
    rows = [
        ("agent", answer["agent_id"]),
        ("network", f"{answer['network']} ({answer['network_name']})"),
        ("space", answer["space"]),
        ("addresses", ", ".join(answer["addresses"]) or "none"),
        ("api", client.daemon.api),
        ("peers", f"{answer['peers']}{unconnected}{unwelcome}" if answer["peers"] else NO_PEERS),
        ("records", f"{answer['records']} own, {answer['pending']} still without enough copies"),
        ("chain", answer["chain"]),
        ("receipts", receipts),
        ("held", f"{answer['held']} records in {answer['shards_held']} shards"),
        ("copies", copies),
        ("store", f"{answer['store_mb']}{most} MB{full}"),
        ("memory", f"{answer['rss_mb']} MB"),
        ("up", f"{answer['uptime_s']} s"),
    ]
    health = answer["health"]
    if health:
        served = f"{health['searches'] / 1_000:.1f} searches a second served"
        busy = f"processors {health['cpu'] / 10:.0f} %, {served}"
        rows.append(("load", f"{busy}, {health['latency_ms']} ms each"))
    chains = ", ".join(f"{count} {how}" for how, count in answer["chains"].items() if count)
    if chains:
        rows.append(("activity", f"{chains} (chains of authors, by their headers here)"))
    waiting = answer["waiting"]
    if any(waiting.values()):
        rows.append(("waiting", ", ".join(f"{count} {why}" for why, count in waiting.items() if count)))
    if answer["refused"]:
        rows.append(("refused", ", ".join(f"{count} {why}" for why, count in answer["refused"].items())))
    counts = answer["counters"]
    if counts.get("summaries_held"):
        held = f"{counts['summary_rows_held']} sketches of {counts['summaries_held']} shards of others"
        rows.append(("routing", f"{held}, {counts['summary_bytes_held'] / 1_000_000:.1f} MB"))
    if counts.get("epoch"):
        rows.append(("epoch", str(counts["epoch"])))
    if counts.get("shard_decisions"):
        asked = counts.get("former_shards_asked", 0)
        settling = f", {asked} former ones still asked, {counts['former_shards']} to be moved from here"
        rows.append(("shards", f"{counts['shards']}{settling if asked else ''}"))
    if counts.get("agents_excluded"):
        rows.append(("warrants", f"agents not shown: {counts['agents_excluded']}; see roseforest warrants"))
    if answer["read_only"]:
        rows.append(("READ-ONLY", answer["read_only"]))
    for name, value in rows:
        print_line(f"{name:<10} {value}")


@click.command()
@click.option("--pardon", metavar="AGENT", help="End the ban of a peer and forget what it did.")
@home_option
@json_option
def peers(pardon: str | None, home: str | None, as_json: bool) -> None:
    """List the peers that the node knows, and those that are slowed or banned for what they sent."""
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    client = ApiClient(open_home(home))
    if pardon is not None:
        pardoned = client.send("DELETE", f"/v1/standings/{path_segment(pardon)}")
        if as_json:
            print_json(pardoned)
        else:
            print_line(f"nothing is held against {pardoned['agent_id']} any more")
        return
    answer = client.get("/v1/peers")
    answer["standings"] = client.get("/v1/standings")["standings"]
    if as_json:
        print_json(answer)
        return
    for peer in answer["peers"]:
        latency = "" if peer["latency_ms"] is None else f" {peer['latency_ms']} ms"
        state = "connected" if peer["connected"] else "known" if peer["responsive"] else "silent"
        full = " full" if peer["full"] else ""
        print_line(f"{peer['agent_id']} {state}{latency} capacity {peer['capacity']}{full}")
        for address in peer["addresses"]:
            print_line(f"    {address}")
    if not answer["peers"]:
        print_line(f"peers: {NO_PEERS}")
    for one in answer["standings"]:
        ban = f" for {one['banned_s']:.0f} s more (ban {one['bans']})" if one["banned_s"] else ""
        print_line(f"{one['agent_id']} {one['standing']}{ban}")
