"""`key`: whose keys lie in a home folder, and the passphrase that seals them."""

from __future__ import annotations

import click

from node.commands.agent_life import recovery, revoke, rotate, whose
from node.commands.options import complete_file, home_option, json_option, passphrase_file_option
from node.commands.output import print_json, print_line


@click.group()
def key() -> None:
    """The keys of a home folder."""


for command in (rotate, revoke, recovery, whose):
    key.add_command(command)


@key.command()
@home_option
@json_option
def show(home: str | None, as_json: bool) -> None:
    """Show whose keys these are and whether a passphrase seals them.

    Needs neither a daemon nor the passphrase.
    """
    from chain.identity import did_key, peer_id
    from node.home import open_home
    from node.key_file import SealedKey, agent_of

    folder = open_home(home)
    folder.require_initialised()
    signing = folder.key_file(folder.key)
    recovery = folder.key_file(folder.recovery_key) if folder.recovery_key.exists() else None
    if as_json:
        print_json(
            {
                "agent_id": peer_id(agent_of(signing)),
                "did": did_key(agent_of(signing)),
                "protected": isinstance(signing, SealedKey),
                "recovery": None
                if recovery is None
                else {"agent_id": peer_id(agent_of(recovery)), "protected": isinstance(recovery, SealedKey)},
            }
        )
        return
    print_line(f"agent     {peer_id(agent_of(signing))}")
    print_line(f"did       {did_key(agent_of(signing))}")
    print_line(f"key       {folder.key} ({_how(isinstance(signing, SealedKey))})")
    if recovery is None:
        print_line("recovery  not here, as it should be")
    else:
        print_line(f"recovery  {folder.recovery_key} ({_how(isinstance(recovery, SealedKey))})")
        print_line(
            "Move the recovery key off this machine: it is what is left when this one is lost.", err=True
        )


@key.command()
@click.option("--remove", is_flag=True, help="Keep the keys unencrypted from now on.")
@passphrase_file_option
@click.option(
    "--new-passphrase-file",
    metavar="FILE",
    shell_complete=complete_file,
    help="The new passphrase is the first line of this file [ROSEFOREST_NEW_PASSPHRASE].",
)
@home_option
@json_option
def passphrase(
    remove: bool,
    passphrase_file: str | None,
    new_passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Seal the keys with a passphrase, or change or --remove it.

    Stop the daemon first. The recovery key gets the same passphrase, if it still is here.
    """
    if remove and new_passphrase_file is not None:
        raise click.UsageError("--remove takes no new passphrase")
    from node.commands.passphrase import new_protection, passphrase_of
    from node.home import open_home

    folder = open_home(home)
    folder.require_initialised()
    with folder.locked():
        sealed = folder.is_sealed()
        current = passphrase_of(folder, passphrase_file)
        if sealed:
            folder.read_key(current)  # a wrong one is told before a new one is asked for
        protection = None if remove else new_protection(new_passphrase_file)
        written = folder.protect_keys(current, protection)
    if as_json:
        print_json({"protected": protection is not None, "files": [str(path) for path in written]})
        return
    how = "unencrypted" if protection is None else "sealed with the new passphrase"
    print_line(f"{how}: {', '.join(map(str, written))}")
    if not sealed and protection is not None:
        print_line(
            "What stood there unencrypted may still be in backups and in free blocks of the disk.", err=True
        )


@key.command()
@click.argument("file", shell_complete=complete_file)
@click.option("--unprotected", is_flag=True, help="Write the key of an unsealed home unencrypted.")
@click.option(
    "--new-passphrase-file",
    metavar="FILE",
    shell_complete=complete_file,
    help="Seal the key of an unsealed home by this file's first line [ROSEFOREST_NEW_PASSPHRASE].",
)
@home_option
@json_option
def export(
    file: str, unprotected: bool, new_passphrase_file: str | None, home: str | None, as_json: bool
) -> None:
    """Write a key backup to the new file FILE: with it and the network, a lost home comes back.

    A sealed key keeps its passphrase; one that is not sealed gets one here. See restore --key.
    """
    from pathlib import Path

    from chain.identity import peer_id
    from node.commands.passphrase import new_protection
    from node.durable_files import write_new
    from node.home import open_home
    from node.key_file import PlainKey, agent_of, seal
    from node.restoring import export_key

    folder = open_home(home)
    folder.require_initialised()
    signing = folder.key_file(folder.key)
    if isinstance(signing, PlainKey) and not unprotected:
        protection = new_protection(new_passphrase_file)
        signing = seal(signing.seed, protection.passphrase, protection.random_bytes, protection.cost)
    target = Path(file).absolute()
    write_new(target, export_key(folder, signing).encode(), 0o600)
    protected = not isinstance(signing, PlainKey)
    if as_json:
        print_json({"file": str(target), "agent_id": peer_id(agent_of(signing)), "protected": protected})
        return
    print_line(f"{target}: the key of {peer_id(agent_of(signing))}, {_how(protected)}")


def _how(sealed: bool) -> str:
    return "sealed by a passphrase" if sealed else "NOT encrypted"
