"""Where a record belongs: its roles, and for each role a basis in the 256-bit key space.

A record is stored whole at its subject (so that an entry can be fetched by its id; a warrant at the key of
the agent that it is about), as a header at its author's key (so that activity, and forks in it, can be seen),
and, when it carries content, whole at the shard of its vector (so that a query finds it in one hop). A
chain's opening lies whole at its author's key, and a learning task also where the network lists its tasks.
The receiver of a record computes the same bases itself, so a sender only names roles. But a shard's holder
needs more than the contents of its own shard to show an entry as it is: what was written since about a value
there, and the tags that stand in other values. Those records lie in the SHARD role at that shard too
(`beside`), and who sends them there names the shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag

from chain.agent_life import revocation_of
from chain.cid import Cid, digest
from chain.content import Content
from chain.errors import ChainError
from chain.kinds import (
    ASSESS,
    CARRIES_CONTENT,
    CREATE,
    ENTRY_OPERATIONS,
    EPOCH,
    LINK,
    OPENING,
    PRIVATE,
    PURGE,
    REVOKE,
    ROTATE,
    TASK,
    UNLINK,
    VOTE,
    WARRANTS,
)
from chain.record import Record
from chain.vector import codes_from_bytes
from chain.warrant import offence_of, proof_of
from crdt.entry_view import maximal_values, overwrites
from crdt.operations import Operation
from crdt.purging import operations, purged_by
from crdt.standing import CLEAR, Standing
from dht.records.basis import author_basis, listing_basis, notice_basis, subject_basis
from dht.records.shard_memory import ShardMemory
from sharding.atlas import Atlas
from sharding.key import shard_keys
from sharding.tree import ShardTree


class Role(IntFlag):
    """Why a holder holds a record; several at once are one copy."""

    SUBJECT = 1
    AUTHOR = 2
    SHARD = 4
    LISTING = 8
    KEPT = 16
    """Not one of the network's: a node keeps the record for itself, at a basis that only it looks at."""
    NOTICE = 32
    """Every node holds it, whatever else it stores; spread by `dht.evidence.notices`, not by repair."""


# As plain integers, for what is asked of every record: a flag's own operators take a microsecond.
_SUBJECT, _AUTHOR, _SHARD = int(Role.SUBJECT), int(Role.AUTHOR), int(Role.SHARD)
_LISTING, _NOTICE = int(Role.LISTING), int(Role.NOTICE)

NOTICES: frozenset[str] = WARRANTS | {EPOCH, REVOKE, ROTATE}
"""Kinds that every node holds."""


ALL_ROLES = Role.SUBJECT | Role.AUTHOR | Role.SHARD


@dataclass(frozen=True, slots=True)
class Layout:
    """How content maps to shards in one epoch.

    Without an atlas (a network whose vectors nobody could sample) the key is the record's digest: shards are
    then random, and a query has to ask them all. `known`: False for an earlier epoch's atlas that this node
    has not got; all that it can do there is to ask everywhere.
    """

    atlas: Atlas | None
    tree: ShardTree
    known: bool = True
    memory: ShardMemory = field(default_factory=ShardMemory, repr=False, compare=False)

    @property
    def generation(self) -> int:
        """The number of the epoch that brought the atlas, see `sharding.tree.Prefix`."""
        return self.tree.leaves[0].generation

    def keys(self, items: Sequence[tuple[Record, Content]]) -> list[bytes]:
        """The 32-byte shard keys of content records; one matrix product for all of them."""
        return self.keys_of([(record.cid, content.codes) for record, content in items])

    def keys_of(self, vectors: Sequence[tuple[Cid, bytes]]) -> list[bytes]:
        """The shard keys of content records, each given as its CID and int8 codes."""
        if not vectors:
            return []
        if self.atlas is None:
            return [digest(cid) for cid, _ in vectors]
        atlas, cids = self.atlas, [cid for cid, _ in vectors]

        def work_out(places: Sequence[int]) -> list[bytes]:
            import numpy as np

            codes = np.stack([codes_from_bytes(vectors[place][1], atlas.dim) for place in places])
            return shard_keys(atlas, codes, [cids[place] for place in places])

        return self.memory.keys(cids, work_out)

    def shard_of(self, record: Record) -> bytes | None:
        """The basis of the shard of a content record that has its payload; None for anything else."""
        said = operations({record.cid: record}).get(record.cid)
        return self.shard_basis(self.keys([(record, said)])[0]) if isinstance(said, Content) else None

    def shard_basis(self, key: bytes) -> bytes:
        """The basis of the shard that a key lies in."""
        return self.tree.leaf_of(key).basis()


SHOWS: frozenset[str] = (ENTRY_OPERATIONS | {CREATE}) - {VOTE, LINK, UNLINK, ASSESS}
"""Kinds that change what a search shows of an entry, or are on the way from one of these to another."""


def beside(
    records: Mapping[Cid, Record],
    said: Mapping[Cid, Operation],
    own: Mapping[Cid, bytes],
    standing: Standing = CLEAR,
) -> dict[Cid, frozenset[bytes]]:
    """For each of an entry's records the bases of the shards where it has to lie, its own included.

    `own` are the shard bases of the content records. All records lie at the shards of all maximal values, and
    a value besides at those that it overwrites, whose holders have to end them. What a purged value overwrote
    nobody can tell but by what lies in its causal past, and the way there leads through records of any kind:
    so where a value was purged, all lie at the shards of all. Of `SHOWS` only; O(records).
    `standing` decides which values are maximal, and those that do not count lie beside them all the same.
    """
    maximal = frozenset(own[cid] for cid in maximal_values(records, said, standing) if cid in own)
    purged = purged_by(records, said)
    everywhere = any(records[cid].header.kind in CARRIES_CONTENT for cid in purged)
    every = frozenset(own.values())
    placed: dict[Cid, frozenset[bytes]] = {}
    for cid in sorted(records):
        kind = records[cid].header.kind
        if kind == PURGE or (kind in SHOWS and (everywhere or cid in purged)):
            placed[cid] = every
        elif kind in SHOWS:
            over = overwrites((cid,), records, said, standing)
            placed[cid] = maximal | {own[target] for target in (cid, *over) if target in own}
    return placed


def roles_of(kind: str) -> Role:
    """The roles in which a record of this kind is stored."""
    if kind in OPENING:
        return Role.AUTHOR
    if kind == PRIVATE:
        return Role.AUTHOR
    if kind in CARRIES_CONTENT:
        return ALL_ROLES
    if kind == TASK:
        return Role.SUBJECT | Role.AUTHOR | Role.LISTING
    return Role.SUBJECT | Role.AUTHOR


def roles_kept(kind: str, roles: int) -> Role:
    """Those of the roles asked for in which a record of this kind can be held, by whomever it is brought."""
    return Role(roles) & (roles_of(kind) | (Role.SHARD if kind in SHOWS else Role(0)))


def needs_payload(kind: str, roles: int) -> bool:
    """Whether a holder in these roles gets the payload: author activity is headers, but for openings."""
    return kind in OPENING or int(roles) not in (0, _AUTHOR)


def bases_of(
    record: Record, roles: int, shard_basis: bytes | None, shards: Iterable[bytes] = ()
) -> tuple[tuple[int, bytes], ...]:
    """The (role, basis) pairs of a record in these roles, ascending by role.

    `shards` are the bases of the SHARD role where they are given, else `shard_basis` is, that of the record's
    own vector; None for kinds without content.
    """
    given = int(roles)
    pairs: list[tuple[int, bytes]] = []
    if given & _SUBJECT:
        pairs.append((_SUBJECT, _subject_basis(record)))
    if given & _AUTHOR:
        pairs.append((_AUTHOR, author_basis(record.header.author)))
    if given & _SHARD:
        own = () if shard_basis is None else (shard_basis,)
        pairs.extend((_SHARD, basis) for basis in sorted(shards) or own)
    if given & _LISTING:
        pairs.append((_LISTING, listing_basis(record.header.network)))
    if given & _NOTICE:
        pairs.append((_NOTICE, notice_basis(record.header.network)))
    return tuple(pairs)


def _subject_basis(record: Record) -> bytes:
    """A warrant or revocation lies where its agent's activity does, so that who looks for that finds it."""
    try:
        if record.header.kind in WARRANTS:
            return author_basis(offence_of(proof_of(record)).offender)
        if record.header.kind == REVOKE:
            return author_basis(revocation_of(record).agent)
    except ChainError:
        pass  # a header alone, which is stored in no role that needs this
    return subject_basis(record.subject)
