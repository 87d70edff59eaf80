"""The text of a key backup: all that an agent needs to come back when its home is lost.

    # comment
    network CID
    peer MULTIADDR                      of peers known, any number up to `MAX_PEERS`
    opening BASE64 BASE64               the chain's first two records
    ed25519-seed-sealed/1 agent …       the line of a key file (`node.key_file`)

The chain, and what is in it, comes back from those who hold it; so do the opening records, but a network by
invitation answers only who shows the proof in the second of them. A bare key file is a key backup too, of an
agent of an open network. Nothing here is believed: the opening is signed, the key line has its own check.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from chain.cid import Cid, from_text, to_text
from chain.errors import ChainError
from chain.record import Record, decode_record, verify_signature
from node.key_file import KeyFileError, PlainKey, SealedKey, agent_of, parse, plain_line, sealed_line

MAX_PEERS: Final = 16
MAX_BACKUP: Final = 64 * 1024
"""Bytes of a key backup."""


@dataclass(frozen=True, slots=True)
class KeyBackup:
    """What stands in a key backup; `opening` is empty, and `network` None, in a bare key file."""

    key: PlainKey | SealedKey
    network: Cid | None = None
    opening: tuple[Record, ...] = ()
    peers: tuple[str, ...] = ()


def key_backup_text(backup: KeyBackup) -> str:
    """The text of a key backup."""
    sealed = isinstance(backup.key, SealedKey)
    lines = [
        "# Rose Forest key backup, "
        + (
            "sealed by a passphrase." if sealed else "NOT encrypted: whoever reads it can write in your name."
        ),
        "# roseforest restore --key FILE --home NEW makes a home of it; the chain comes from the network.",
    ]
    if backup.network is not None:
        lines.append(f"network {to_text(backup.network)}")
    lines += [f"peer {address}" for address in backup.peers[:MAX_PEERS]]
    if backup.opening:
        texts = (base64.b64encode(record.encode()).decode() for record in backup.opening)
        lines.append(" ".join(["opening", *texts]))
    lines.append(
        sealed_line(backup.key) if isinstance(backup.key, SealedKey) else plain_line(backup.key.seed)
    )
    return "\n".join(lines) + "\n"


def parse_key_backup(text: str) -> KeyBackup:
    """Read a key backup or a key file; raises `KeyFileError`."""
    network: Cid | None = None
    peers: list[str] = []
    opening: tuple[Record, ...] = ()
    rest: list[str] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "network":
            network = _network(value)
        elif name == "peer":
            peers.append(value)
        elif name == "opening":
            opening = _opening(value)
        else:
            rest.append(line)
    if len(peers) > MAX_PEERS:
        raise KeyFileError(f"it names {len(peers)} peers, at most {MAX_PEERS} are read")
    key = parse("\n".join(rest))
    if any(record.header.author != agent_of(key) for record in opening):
        raise KeyFileError("the opening in it is another agent's")
    return KeyBackup(key, network, opening, tuple(peers))


def _network(text: str) -> Cid:
    try:
        return from_text(text)
    except ChainError as error:
        raise KeyFileError(f"its network id cannot be read ({error})") from error


def _opening(text: str) -> tuple[Record, ...]:
    try:
        records = tuple(decode_record(base64.b64decode(part, validate=True)) for part in text.split())
    except (ChainError, binascii.Error) as error:
        raise KeyFileError(f"its opening cannot be read ({error})") from error
    places = [record.header.seq for record in records if record.payload is not None]
    if places != [0, 1] or len(records) != 2 or not all(map(verify_signature, records)):
        raise KeyFileError("its opening is not the two records that a chain begins with")
    return records
