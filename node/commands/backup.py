"""`backup` and `restore`: a home folder in one file, and back."""

from __future__ import annotations

import click

from node.commands.options import complete_file, home_option, json_option
from node.commands.output import print_json, print_line

MEGABYTE = 1e6


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
@click.argument("file", shell_complete=complete_file)
@home_option
@json_option
def restore(file: str, home: str | None, as_json: bool) -> None:
    """Make a new home folder from a backup.

    A node in it reads and holds as always, and adds nothing of its own until it is started once with run
    --force: if the original still runs, or wrote after the backup was taken, its chain would fork.
    """
    from dataclasses import asdict
    from pathlib import Path

    from node.backup import restore_backup
    from node.home import open_home

    folder = open_home(home)
    found = restore_backup(Path(file).absolute(), folder)
    if as_json:
        print_json({"home": str(folder.root), **asdict(found)})
        return
    print_line(f"home     {folder.root}")
    print_line(f"agent    {found.agent}")
    print_line(f"network  {found.network}")
    print_line(f"of       {found.made}")
    print_line(
        "It reads and holds, and adds nothing of its own until roseforest run --force says that no other "
        "copy runs and nothing was written after the backup. What was is not fetched from peers yet.",
        err=True,
    )
