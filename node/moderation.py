"""Moderation: what this node's owner does not want here, of an agent or of an entry.

A block is local: it says nothing to the network and proves nothing (a warrant does, `chain.warrant`). What is
blocked is not shown, not folded into entries, not served and not held: what was held of it is let go, its
payloads are erased, and holders nearby take over. A shard of which something was let go or refused for a
block is never called complete, so that those who ask this node ask another one too. The list is a small file
in the home folder, written whole at every change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.cid import Cid, from_text, is_record_cid, to_text
from chain.errors import ChainError
from chain.identity import AGENT_ID_SIZE, AgentId, agent_from_text, peer_id
from chain.record import Record
from node.durable_files import write_atomically
from node.errors import HomeDamaged, InvalidInput, NotFound

MAX_BLOCKS = 10_000
MAX_REASON = 200
"""Characters of a reason, which only the owner sees."""
MAX_FILE = 8 << 20
MAX_SHORT = 4096
"""Bases remembered for which something was refused; beyond it no shard is called complete."""


@dataclass(frozen=True, slots=True)
class Block:
    """One agent (32 bytes) or entry (a record CID) that is not wanted, since when (µs) and why."""

    target: AgentId | Cid
    since_us: int
    reason: str = ""


class Blocklist:
    """The blocks of one node; `path` None keeps them in memory only."""

    def __init__(self, path: Path | None) -> None:
        """Read the list; raises `HomeDamaged` for a file that is none."""
        self._path = path
        self._blocks: dict[bytes, Block] = {block.target: block for block in _read(path)}
        self._short: set[bytes] = set()
        self._all_short = False
        self.refused = 0
        """Records that others wanted to store here and that are blocked, each time."""

    def __len__(self) -> int:
        return len(self._blocks)

    def all(self) -> list[Block]:
        """The blocks, oldest first."""
        return sorted(self._blocks.values(), key=lambda block: (block.since_us, block.target))

    def hides(self, record: Record) -> bool:
        """Whether this record is by a blocked agent, or of a blocked entry."""
        blocks = self._blocks
        return bool(blocks) and (
            record.header.author in blocks or record.subject in blocks or record.cid in blocks
        )

    def has(self, target: AgentId | Cid) -> bool:
        """Whether this very agent or entry is blocked."""
        return target in self._blocks

    def add(self, target: AgentId | Cid, reason: str, now_us: int) -> bool:
        """Block; whether it was not blocked before. Durable on return.

        Raises `InvalidInput` beyond `MAX_BLOCKS` or for a reason that is too long.
        """
        if len(reason) > MAX_REASON:
            raise InvalidInput(f"the reason has {len(reason)} characters, at most {MAX_REASON} are kept")
        if target in self._blocks:
            return False
        if len(self._blocks) >= MAX_BLOCKS:
            raise InvalidInput(f"{MAX_BLOCKS} blocks are the most that a node keeps: unblock some")
        self._write(self._blocks | {target: Block(target, now_us, reason)})
        return True

    def remove(self, target: AgentId | Cid) -> None:
        """Block no more; raises `NotFound` when it was not blocked. Durable on return."""
        if target not in self._blocks:
            raise NotFound(f"{target_text(target)} is not blocked")
        self._write({key: block for key, block in self._blocks.items() if key != target})
        self._short, self._all_short = set(), False  # what still is refused will be noted again

    def note_refused(self, bases: Iterable[bytes]) -> None:
        """A blocked record that belongs to these bases is not here: others have more."""
        self.refused += 1
        self._short.update(bases)
        if len(self._short) > MAX_SHORT:
            self._short, self._all_short = set(), True

    def is_short(self, basis: bytes) -> bool:
        """Whether something is missing here at this basis because it is blocked."""
        return self._all_short or basis in self._short

    def _write(self, blocks: dict[bytes, Block]) -> None:
        if self._path is not None:
            rows = [
                {"target": target_text(block.target), "since_us": block.since_us, "reason": block.reason}
                for block in blocks.values()
            ]
            write_atomically(self._path, json.dumps(rows, indent=1).encode(), 0o600)
        self._blocks = blocks


def target_of(text: str) -> AgentId | Cid:
    """Read an agent id or the id of an entry; raises `InvalidInput`."""
    try:
        if text.startswith("b") and len(text) != 2 * AGENT_ID_SIZE:
            cid = from_text(text)
            if not is_record_cid(cid):
                raise InvalidInput(f"{text} is the id of a payload or blob, not of an entry")
            return cid
        return agent_from_text(text)
    except ChainError as error:
        raise InvalidInput(f"{text[:80]!r} is neither an agent's id nor an entry's ({error})") from error


def target_text(target: AgentId | Cid) -> str:
    """How people write an agent or an entry."""
    return peer_id(target) if len(target) == AGENT_ID_SIZE else to_text(target)


def _read(path: Path | None) -> list[Block]:
    if path is None or not path.exists():
        return []
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
        rows = json.loads(data) if len(data) <= MAX_FILE else None
        if type(rows) is not list or len(rows) > MAX_BLOCKS:
            raise ValueError("not a list of blocks")
        return [_block(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, InvalidInput) as error:
        raise HomeDamaged(
            f"{path} is no list of blocks ({error}): correct it, or move it away to block nothing"
        ) from error


def _block(row: Any) -> Block:
    target, since_us, reason = row["target"], row["since_us"], row["reason"]
    if type(target) is not str or type(since_us) is not int or type(reason) is not str:
        raise ValueError("a block has target, since_us and reason")
    return Block(target_of(target), since_us, reason)
