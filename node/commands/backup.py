"""`backup` and `restore`: a home folder in one file, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.commands.exit_codes import ExitCode
from node.commands.options import complete_file, home_option, json_option, passphrase_file_option
from node.commands.output import print_json, print_line

if TYPE_CHECKING:
    from pathlib import Path

    from node.home import Home

MEGABYTE = 1e6
WAIT_SECONDS = 60.0


@click.command()
@click.argument("file", shell_complete=complete_file)
@click.option("--no-blobs", is_flag=True, help="Leave out blobs, such as model parameters.")
@home_option
@json_option
def backup(file: str, no_blobs: bool, home: str | None, as_json: bool) -> None:
    """Write the home folder's keys, chain and held records to FILE, also while the daemon runs."""
    from dataclasses import asdict
    from datetime import UTC, datetime
    from pathlib import Path

    from dht.ports import SystemClock
    from node.backup import make_backup
    from node.home import open_home

    folder = open_home(home)
    made = datetime.fromtimestamp(SystemClock().wall_us() // 1_000_000, UTC).isoformat()
    target = Path(file).absolute()
    written = make_backup(folder, target, made, blobs=not no_blobs)
    sealed = folder.is_sealed()
    if as_json:
        print_json({"file": str(target), **asdict(written), "protected": sealed})
        return
    print_line(f"{target}: {written.files} files, {written.size / MEGABYTE:.1f} MB")
    if not sealed:
        print_line("It holds the signing key unencrypted: whoever reads it can write in your name.", err=True)


@click.command()
@click.argument("file", required=False, shell_complete=complete_file)
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    shell_complete=complete_file,
    help="Instead of a backup: a key backup or key file; the chain is fetched back from the network.",
)
@click.option("--join", multiple=True, metavar="MULTIADDR", help="A node of the network, for --key.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(1, 86_400),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="With --key, give up when for so long nothing came.",
)
@passphrase_file_option
@home_option
@json_option
@click.pass_context
def restore(
    ctx: click.Context,
    file: str | None,
    key_file: str | None,
    join: tuple[str, ...],
    wait_s: float,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Make a new home folder from a backup, or with --key from a key and the network.

    A node in it reads and holds as always, and adds nothing of its own until the holders of its activity
    confirm that its chain is whole, or it is started once with run --force: if the original still runs, or
    wrote what is not here, its chain would fork.
    """
    if (file is None) == (key_file is None):
        raise click.UsageError("give either FILE or --key FILE")
    if key_file is None and join:
        raise click.UsageError("--join goes with --key; a backup knows its peers")
    from pathlib import Path

    from node.home import open_home

    folder = open_home(home)
    if key_file is not None:
        ctx.exit(_from_network(folder, Path(key_file).absolute(), join, wait_s, passphrase_file, as_json))
    assert file is not None
    from dataclasses import asdict

    from node.backup import restore_backup

    found = restore_backup(Path(file).absolute(), folder)
    if as_json:
        print_json({"home": str(folder.root), **asdict(found)})
        return
    print_line(f"home     {folder.root}")
    print_line(f"agent    {found.agent}")
    print_line(f"network  {found.network}")
    print_line(f"of       {found.made}")
    print_line(
        "It reads and holds, and adds nothing of its own until its network confirms that the chain is whole, "
        "or roseforest run --force says that no other copy runs and nothing was written after the backup.",
        err=True,
    )


def _from_network(
    folder: Home,
    key_file: Path,
    join: tuple[str, ...],
    wait_s: float,
    passphrase_file: str | None,
    as_json: bool,
) -> ExitCode:
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from chain.cid import to_text
    from chain.identity import peer_id
    from node.commands.passphrase import passphrase_for
    from node.key_file import SealedKey
    from node.logs import set_up_logging
    from node.restoring import read_key_backup, restore_from_network

    backup = read_key_backup(key_file)
    passphrase = passphrase_for(key_file, isinstance(backup.key, SealedKey), passphrase_file)
    set_up_logging("error", "text", None, [])
    found = restore_from_network(folder, backup, passphrase, join, wait_s)
    done = ExitCode.READ_ONLY if found.waits else ExitCode.PARTLY_DONE if found.missing else ExitCode.OK
    missing = [
        {"seq": one.header.seq, "kind": one.header.kind, "id": to_text(one.cid)} for one in found.missing
    ]
    if as_json:
        print_json(
            {
                "home": str(folder.root),
                "agent": peer_id(found.agent),
                "network": to_text(found.network),
                "network_name": found.network_name,
                "records": found.records,
                "missing": missing,
                "chain": found.head,
                "read_only": found.waits,
            }
        )
        return done
    print_line(f"home     {folder.root}")
    print_line(f"agent    {peer_id(found.agent)}")
    print_line(f"network  {to_text(found.network)} ({found.network_name})")
    print_line(f"chain    {found.records} records, of {len(missing)} of them only the header")
    print_line(f"head     {found.head}")
    for one in missing:
        print_line(
            f"seq {one['seq']} {one['kind']} {one['id']}: nobody who was asked has its payload", err=True
        )
    if found.waits:
        print_line(f"It adds nothing yet: {found.waits}. roseforest run{folder.flag()} goes on.", err=True)
    return done
