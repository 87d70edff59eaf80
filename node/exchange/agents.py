"""The agents of other makers: which name publishes under which Ed25519 key, and through which API key.

A name belongs to the API key that registered it first, for as long as that key is valid; others cannot speak
under it. It has one public key, which is kept in every record made on its behalf. Another public key takes
its place only when the former one signs that it may (`succession_statement`); whoever lost the former one has
the API key revoked, which ends its registrations. The list is a small file, written whole at every change.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.bindings import crypto_core_ed25519_is_valid_point

from chain.behalf import KEY_SIZE
from chain.identity import verify
from node.durable_files import read_bounded, write_atomically
from node.errors import Forbidden, HomeDamaged, HomeMissing, InvalidInput

FILE = "exchange-agents.json"
MAX_AGENTS = 10_000
MAX_OF_ONE_KEY = 1_000
MAX_FILE = 8 << 20


@dataclass(frozen=True, slots=True)
class ExternalAgent:
    """A registered name, its Ed25519 key, the API key it came through, and since when, in µs."""

    node_id: str
    public_key: bytes
    api_key: str
    since_us: int


class NameTaken(Forbidden):
    """A name is another API key's."""


class KeyTaken(InvalidInput):
    """A name has another public key, which has not signed that this one may follow."""


class Agents:
    """The registered agents of one node."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises `HomeDamaged`."""
        self._path = path
        self._agents = {agent.node_id: agent for agent in _read(path)}

    def get(self, node_id: str, valid: Collection[str]) -> ExternalAgent | None:
        """Who is registered under a name by one of the API keys that are `valid`."""
        found = self._agents.get(node_id)
        return found if found is not None and found.api_key in valid else None

    def register(self, wanted: ExternalAgent, valid: Collection[str], signature: bytes | None) -> bool:
        """Keep a registration; whether it changed anything. Durable on return; blocking, O(agents).

        Raises what `admit` raises, and `InvalidInput` when there are too many.
        """
        known = self.get(wanted.node_id, valid)
        if admit(known, wanted, signature):
            kept = {name: one for name, one in self._agents.items() if one.api_key in valid}
            kept[wanted.node_id] = wanted
            own = sum(one.api_key == wanted.api_key for one in kept.values())
            if len(kept) > MAX_AGENTS or own > MAX_OF_ONE_KEY:
                raise InvalidInput(
                    f"at most {MAX_OF_ONE_KEY} agents of one API key, and {MAX_AGENTS} in all, are kept"
                )
            _write(self._path, list(kept.values()))
            self._agents = kept
            return True
        return False


def admit(known: ExternalAgent | None, wanted: ExternalAgent, signature: bytes | None) -> bool:
    """Whether `wanted` takes the place of what is `known`, if anything; False: it is there already.

    Raises `NameTaken` when the name is another API key's, `KeyTaken` when it has another public key that has
    not signed the succession.
    """
    if known is None:
        return True
    if known.api_key != wanted.api_key:
        raise NameTaken(f"{wanted.node_id!r:.220} is registered through another API key")
    if known.public_key == wanted.public_key:
        return False
    statement = succession_statement(wanted.node_id, wanted.public_key)
    if signature is None or not verify(known.public_key, statement, signature):
        raise KeyTaken(
            f"{wanted.node_id!r:.220} is registered with another key: give that one's signature that this "
            "one may follow, or register under another name"
        )
    return True


def succession_statement(node_id: str, public_key: bytes) -> bytes:
    """What the former key signs: a title line, the name, and the new key in hexadecimal."""
    return f"roseforest register 1\n{node_id}\n{public_key.hex()}".encode()


def is_public_key(data: bytes) -> bool:
    """Whether these bytes are an Ed25519 key, and a point under which signatures mean something."""
    return len(data) == KEY_SIZE and crypto_core_ed25519_is_valid_point(data)


def _write(path: Path, agents: list[ExternalAgent]) -> None:
    rows = [
        {
            "node_id": one.node_id,
            "public_key": one.public_key.hex(),
            "api_key": one.api_key,
            "since_us": one.since_us,
        }
        for one in agents
    ]
    write_atomically(path, json.dumps(rows).encode(), 0o600)


def _read(path: Path) -> list[ExternalAgent]:
    advice = "restore it, or move it away to have all agents register again"
    try:
        rows = json.loads(read_bounded(path, MAX_FILE, advice))
        if type(rows) is not list or len(rows) > MAX_AGENTS:
            raise ValueError("it is not a list of agents")
        return [_agent(row) for row in rows]
    except HomeMissing:
        return []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HomeDamaged(f"{path} is no list of agents ({error}): {advice}") from error


def _agent(row: Any) -> ExternalAgent:
    key = bytes.fromhex(row["public_key"])
    if not all(type(row[name]) is str for name in ("node_id", "api_key")) or type(row["since_us"]) is not int:
        raise ValueError("an agent has node_id, public_key, api_key and since_us")
    if len(key) != KEY_SIZE:
        raise ValueError(f"a public key has {KEY_SIZE} bytes")
    return ExternalAgent(row["node_id"], key, row["api_key"], row["since_us"])
