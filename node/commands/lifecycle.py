"""`init`, `run` and `stop`: a node's life."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.commands.options import complete_file, home_option, json_option, passphrase_file_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from node.daemon import InitResult, Ready
    from node.home import Home

DEFAULT_JOIN_BITS = 12
MAX_JOIN_BITS = 40
STOP_SECONDS = 30.0
"""How long `stop` waits for the daemon to be gone, beside the time that it may take to hand over."""
EXIT_SECONDS = 1.0
"""How long it then waits for the process to end."""
STOP_PAUSE = 0.05
NO_ATLAS = "There is no atlas for this space: entries lie in random shards, and a query asks them all."


@click.command()
@click.option("--name", metavar="NAME", help="Name of the network to found.")
@click.option("--join", metavar="INVITE|MULTIADDR", help="Join by an invite, or through a peer's address.")
@click.option(
    "--join-bits",
    type=click.IntRange(0, MAX_JOIN_BITS),
    default=DEFAULT_JOIN_BITS,
    show_default=True,
    help="Work that joining the founded network costs: 2^N hashes.",
)
@click.option("--agent-name", metavar="NAME", help="What to call yourself in the network.")
@click.option(
    "--vectors",
    type=click.IntRange(1, 4096),
    metavar="DIM",
    help="Found a network whose entries bring their own vectors of this dimension.",
)
@click.option(
    "--embedder",
    metavar="SPACE",
    help="Found a network in the space of sentence-transformers:NAME or openai:NAME, with --dims.",
)
@click.option("--dims", type=click.IntRange(1, 4096), metavar="D", help="Dimensions of --embedder's vectors.")
@click.option("--embedder-url", metavar="URL", help="Endpoint that embeds texts for openai:NAME.")
@click.option("--embedder-model", metavar="MODEL", help="What it calls the model, or the model's folder.")
@click.option(
    "--passphrase", "protect", is_flag=True, help="Seal the keys with a passphrase, asked for here."
)
@click.option(
    "--recovery-key",
    metavar="FILE",
    shell_complete=complete_file,
    help="Write the recovery key to this new file, off the home; - prints it, once.",
)
@passphrase_file_option
@home_option
@json_option
def init(
    name: str | None,
    join: str | None,
    join_bits: int,
    agent_name: str | None,
    vectors: int | None,
    embedder: str | None,
    dims: int | None,
    embedder_url: str | None,
    embedder_model: str | None,
    protect: bool,
    recovery_key: str | None,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Make a home folder: found a network, or join one with --join."""
    if join is not None and (name, vectors, embedder, dims) != (None, None, None, None):
        raise click.UsageError(
            "--join takes these from the network: leave --name, --vectors, --embedder and --dims out"
        )
    if (embedder is None) != (dims is None) or (embedder is not None and vectors is not None):
        raise click.UsageError("--embedder SPACE needs --dims D, and no --vectors")
    if recovery_key == "-" and as_json:
        raise click.UsageError("--recovery-key - prints the key: give a file with --json")
    from pathlib import Path

    from node.commands.passphrase import protection_for
    from node.config import load_settings
    from node.daemon import init_home
    from node.errors import HomeError
    from node.founding import external_space
    from node.home import open_home

    folder = open_home(home)
    if recovery_key not in (None, "-") and Path(str(recovery_key)).exists():
        raise HomeError(f"{recovery_key} exists already and is not overwritten")
    settings = load_settings(folder, {"embedder_url": embedder_url, "embedder_model": embedder_model})
    result = init_home(
        folder,
        name=name,
        join=join,
        join_bits=join_bits,
        profile_name=agent_name,
        vectors_dim=vectors,
        protection=protection_for(folder, protect, passphrase_file),
        space=None if embedder is None or dims is None else external_space(embedder, dims),
        embedding=settings.embedder(),
    )
    text = None
    if recovery_key is not None and result.created:
        from node.restoring import move_recovery_key

        text = move_recovery_key(folder, None if recovery_key == "-" else recovery_key)
    show_home(folder, result, as_json, protect)
    if text is not None and recovery_key == "-":
        print_line(text.rstrip("\n"))
        print_line("That is the recovery key. It is nowhere else: write it down.", err=True)
    if embedder is not None and result.created and not as_json:
        print_line(
            NO_ATLAS,
            err=True,
        )


def show_home(folder: Home, result: InitResult, as_json: bool, protect: bool) -> None:
    """Say what a home is now, after `init` or a command like it."""
    from chain.cid import to_text
    from chain.identity import peer_id

    sealed = folder.is_sealed()
    if as_json:
        print_json(
            {
                "home": str(folder.root),
                "agent_id": peer_id(result.agent),
                "network": to_text(result.network),
                "network_name": result.network_name,
                "created": result.created,
                "protected": sealed,
                "lacking": result.lacking,
                "may_invite": result.may_invite,
            }
        )
        return
    print_line(
        f"home     {folder.root}" + ("" if result.created else " (was complete before; nothing changed)")
    )
    print_line(f"agent    {peer_id(result.agent)}")
    print_line(f"network  {to_text(result.network)} ({result.network_name})")
    if result.lacking is not None:
        print_line(f"It can hold and answer, not add or ask: {result.lacking}.", err=True)
    if result.may_invite:
        print_line("It may invite others: roseforest network invite.", err=True)
    if result.created:
        how = (
            "is sealed by your passphrase: there is no way in without it" if sealed else "stands unencrypted"
        )
        move = f" Move {folder.recovery_key} elsewhere." if folder.recovery_key.exists() else ""
        print_line(f"The signing key in {folder.key} {how}.{move}", err=True)
        print_line(f"Next: roseforest run{folder.flag()}", err=True)
    elif protect and not sealed:
        print_line("The keys are as they were: seal them with roseforest key passphrase.", err=True)


@click.command()
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="Listen here; may be given several times.")
@click.option(
    "--bootstrap",
    multiple=True,
    metavar="MULTIADDR",
    help="Join through this peer; may be given several times.",
)
@click.option("--api", metavar="HOST:PORT", help="Address of the HTTP interface; port 0 picks a free one.")
@click.option(
    "--exchange-listen", metavar="HOST:PORT", help="Address of the exchange API; port 0 picks a free one."
)
@click.option(
    "--capacity", type=int, metavar="N", help="Share of the data to hold, relative to 100; 0: none."
)
@click.option(
    "--leave-seconds",
    type=int,
    metavar="N",
    help="How long a stop may take to hand copies over; 0: not at all.",
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option(
    "--log-parts", multiple=True, metavar="PART=LEVEL", help="A part that says more or less, as dht=debug."
)
@click.option("--log-format", metavar="FORMAT", help="text (key=value) or json.")
@click.option("--log-file", metavar="FILE", help="Log to this rotating file instead of stderr.")
@click.option(
    "--force",
    is_flag=True,
    help="Let a copied or restored home go on writing. If another copy of it writes too, or wrote what this "
    "one lacks, the chain forks: peers can prove it, and the agent is not believed from there on.",
)
@passphrase_file_option
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object once the node answers.")
def run(
    listen: tuple[str, ...],
    bootstrap: tuple[str, ...],
    api: str | None,
    exchange_listen: str | None,
    capacity: int | None,
    leave_seconds: int | None,
    log_level: str | None,
    log_parts: tuple[str, ...],
    log_format: str | None,
    log_file: str | None,
    force: bool,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Run the node of a home folder until Ctrl-C or roseforest stop."""
    import gc
    import os

    # FAISS brings OpenMP, which would start a thread per core in each of our worker threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from node.commands.passphrase import passphrase_of
    from node.config import load_settings
    from node.home import open_home
    from node.logs import set_up_logging

    folder = open_home(home)
    folder.require_initialised()
    settings = load_settings(
        folder,
        {
            "listen": listen,
            "bootstrap": bootstrap,
            "api": api,
            "exchange_listen": exchange_listen,
            "capacity": capacity,
            "leave_seconds": leave_seconds,
            "log_level": log_level,
            "log_parts": log_parts,
            "log_format": log_format,
            "log_file": log_file,
        },
    )
    passphrase = passphrase_of(folder, passphrase_file)
    file = None if settings.log_file is None else folder.root / settings.log_file
    parts = [(part, level) for part, _, level in (item.partition("=") for item in settings.log_parts)]
    set_up_logging(settings.log_level, settings.log_format, file, parts)
    from chain.cid import to_text
    from chain.identity import peer_id
    from node.daemon import run_daemon

    def announce(ready: Ready) -> None:
        gc.freeze()  # what was imported stays: a full collection over it would stop the node for 100 ms
        if as_json:
            print_json(
                {
                    "home": str(folder.root),
                    "agent_id": peer_id(ready.agent),
                    "network": to_text(ready.manifest.network_id),
                    "network_name": ready.manifest.name,
                    "pid": ready.where.pid,
                    "api": ready.where.api,
                    **({} if ready.where.exchange is None else {"exchange": ready.where.exchange}),
                    "addresses": list(ready.where.addresses),
                }
            )

    run_daemon(folder, settings, announce, passphrase, force)


@click.command()
@home_option
@json_option
def stop(home: str | None, as_json: bool) -> None:
    """Stop the running daemon and wait until it is gone."""
    import time

    from node.api_client import ApiClient
    from node.errors import NotReady
    from node.home import open_home

    folder = open_home(home)
    client = ApiClient(folder)
    within = STOP_SECONDS + client.get("/v1/config")["leave_seconds"]["value"]
    client.post("/v1/stop")
    patience = time.monotonic() + within
    while folder.locked_by() is not None:
        if time.monotonic() > patience:
            raise NotReady(
                f"the daemon (process {client.daemon.pid}) is still stopping after {within:g} s: "
                "look at its log"
            )
        time.sleep(STOP_PAUSE)
    # The home is free; the interpreter ends a moment later, and scripts look for the process.
    patience = time.monotonic() + EXIT_SECONDS
    while _runs(client.daemon.pid) and time.monotonic() < patience:
        time.sleep(STOP_PAUSE)
    if as_json:
        print_json({"stopped": True, "pid": client.daemon.pid})
    else:
        print_line(f"stopped (process {client.daemon.pid})")


def _runs(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
