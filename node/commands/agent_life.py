"""`chain close`, `key rotate`, `key revoke`, `key recovery`: steps of an agent's life that are for good."""

from __future__ import annotations

import click

from node.commands.options import complete_file, complete_folder, home_option, json_option
from node.commands.output import print_json, print_line


@click.command()
@click.option("--confirm", metavar="AGENT", help="This node's agent id, instead of being asked for it.")
@home_option
@json_option
def close(confirm: str | None, home: str | None, as_json: bool) -> None:
    """Close the chain for ever: this agent never writes again, and says so to everybody.

    The node goes on reading, answering and holding. There is no way back.
    """
    from node.api_client import ApiClient
    from node.home import open_home

    client = ApiClient(open_home(home))
    agent = client.get("/v1/status")["agent_id"]
    if confirm is None:
        print_line(f"This closes the chain of {agent} for ever.", err=True)
        confirm = click.prompt("Type the agent id to confirm", err=True, default="", show_default=False)
    answer = client.post("/v1/chain/close", {"agent": confirm})
    if as_json:
        print_json(answer)
    else:
        print_line(f"closed at seq {answer['seq']}: nothing follows in this chain")


@click.command()
@click.option(
    "--new-home",
    required=True,
    metavar="DIR",
    shell_complete=complete_folder,
    help="Home of the new key; made here.",
)
@click.option("--invite", metavar="INVITE", help="Invite for the new key, in a network by invitation.")
@click.option("--agent-name", metavar="NAME", help="What to call the agent from now on.")
@click.option("--passphrase", "protect", is_flag=True, help="Seal the new keys with a passphrase.")
@click.option(
    "--new-passphrase-file",
    metavar="FILE",
    shell_complete=complete_file,
    help="The new keys' passphrase is the first line of this file.",
)
@home_option
@json_option
def rotate(
    new_home: str,
    invite: str | None,
    agent_name: str | None,
    protect: bool,
    new_passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Go on under a new key: this chain ends by naming it, and the new chain says whom it continues.

    The daemon of this home has to run, and go on until nothing is pending. Both sides sign; entries and votes
    stay under the key that wrote them. The same command finishes what was interrupted.
    """
    import base64

    from chain.cid import from_text
    from chain.identity import agent_from_text, peer_id
    from node.api_client import ApiClient
    from node.commands.passphrase import protection_for
    from node.home import open_home
    from node.rotating import begin_successor, continue_chain

    folder, new = open_home(home), open_home(new_home)
    client = ApiClient(folder)
    status = client.get("/v1/status")
    protection = protection_for(new, protect, new_passphrase_file)
    passphrase = None if protection is None else protection.passphrase
    successor, consent = begin_successor(
        new,
        join=invite or status["addresses"][0],
        name=agent_name,
        protection=protection,
        passphrase=passphrase,
        network=from_text(status["network"]),
        agent=agent_from_text(status["agent_id"]),
        peers=[address for peer in client.get("/v1/peers")["peers"] for address in peer["addresses"]],
    )
    body = {"successor": peer_id(successor), "consent": base64.b64encode(consent).decode()}
    rotation = client.post("/v1/chain/rotate", body)
    continue_chain(new, base64.b64decode(rotation["data"]), passphrase)
    if as_json:
        print_json(
            {
                "agent": status["agent_id"],
                "successor": peer_id(successor),
                "home": str(new.root),
                "rotation": rotation["id"],
            }
        )
        return
    print_line(f"agent      {status['agent_id']} has ended at seq {rotation['seq']}")
    print_line(f"successor  {peer_id(successor)}")
    print_line(f"home       {new.root}")
    print_line(
        f"Next: roseforest run{new.flag()}. Stop the old daemon when status shows nothing pending; its "
        "recovery key still revokes the old key.",
        err=True,
    )


@click.command()
@click.argument("agent")
@click.option(
    "--after",
    type=click.IntRange(2),
    required=True,
    metavar="SEQ",
    help="The last record that is still yours: nothing after it counts.",
)
@click.option(
    "--recovery-key",
    required=True,
    metavar="FILE",
    shell_complete=complete_file,
    help="The recovery key of AGENT.",
)
@click.option(
    "--passphrase-file",
    metavar="FILE",
    shell_complete=complete_file,
    help="The recovery key's passphrase is the first line of this file.",
)
@home_option
@json_option
def revoke(
    agent: str,
    after: int,
    recovery_key: str,
    passphrase_file: str | None,
    home: str | None,
    as_json: bool,
) -> None:
    """Revoke the signing key of AGENT, which was stolen: nothing that it signed after SEQ counts any more.

    It beats whatever a thief signs, also a rotation. Any home of the network publishes it but AGENT's own;
    the daemon never sees the recovery key. It cannot be undone, only made earlier.
    """
    import base64
    from pathlib import Path

    from chain.agent_life import sign_revocation
    from chain.cid import from_text
    from chain.identity import Identity, agent_from_text, peer_id
    from node.api_client import ApiClient, path_segment
    from node.commands.passphrase import passphrase_for
    from node.home import open_home
    from node.key_file import SealedKey
    from node.restoring import read_key_backup, seed_of

    subject = agent_from_text(agent)
    path = Path(recovery_key).absolute()
    key = read_key_backup(path).key
    passphrase = passphrase_for(path, isinstance(key, SealedKey), passphrase_file)
    identity = Identity.from_seed(seed_of(path, key, passphrase))
    client = ApiClient(open_home(home))
    network = from_text(client.get("/v1/status")["network"])
    head = client.get(f"/v1/agents/{path_segment(peer_id(subject))}/records/{after}")["id"]
    statement = sign_revocation(identity, network, subject, after, from_text(head))
    answer = client.post("/v1/revocations", {"statement": base64.b64encode(statement).decode()})
    if as_json:
        print_json(answer)
    else:
        print_line(f"revoked: nothing of {peer_id(subject)} after seq {after} ({head}) counts")


@click.command()
@click.argument("agent")
@home_option
@json_option
def whose(agent: str, home: str | None, as_json: bool) -> None:
    """Show under which keys AGENT goes on, and whether what it writes is shown."""
    from node.api_client import ApiClient, path_segment
    from node.home import open_home

    answer = ApiClient(open_home(home)).get(f"/v1/agents/{path_segment(agent)}")
    if as_json:
        print_json(answer)
        return
    print_line(f"agent      {answer['agent_id']}")
    for one in answer["same"]:
        when = "went on as" if one in answer["successors"] else "is also"
        print_line(f"{when:<10} {one}")
    if answer["excluded_from"] is not None:
        why = "revoked by its recovery key" if answer["revoked"] else "under a warrant"
        print_line(f"{why}: nothing from seq {answer['excluded_from']} on is shown", err=True)


@click.command()
@click.argument("file", shell_complete=complete_file)
@home_option
@json_option
def recovery(file: str, home: str | None, as_json: bool) -> None:
    """Move the recovery key out of the home folder to the new file FILE; - prints it, once.

    It is as it was, sealed or not. Keep it where a thief of this machine does not find it.
    """
    from node.home import open_home
    from node.restoring import move_recovery_key

    folder = open_home(home)
    folder.require_initialised()
    text = move_recovery_key(folder, None if file == "-" else file)
    if file == "-":
        print_line(text.rstrip("\n"))
    elif as_json:
        print_json({"file": file})
    else:
        print_line(f"{file} holds the recovery key; {folder.recovery_key} is gone")
