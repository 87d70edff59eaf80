"""What the answers to a question have brought so far, and which of it stands.

What an entry's value once was is proven for ever, so old postings have to be told from new ones: a hit that
another hit overwrites is dropped, and what the asker has itself, or a holder that is not complete, counts for
a shard only as long as no complete holder answered for it (`Gathered.settled`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.cid import Cid
from chain.identity import AgentId
from crdt.postings import overwritten
from node.models import Hit
from node.query.steps import Steps
from node.query.trail import Trail
from sharding.tree import Prefix


@dataclass(slots=True)
class Candidate:
    """A hit that verified. `doubtful`: its shards, one in each layout; a complete holder of one of them would
    have to show it, too. Empty when one did, or when the record has not reached its holders yet."""

    hit: Hit
    doubtful: frozenset[Prefix]


@dataclass(slots=True)
class Gathered:
    """What a wave has brought so far, by content record; `answered` are the shards told completely."""

    steps: Steps
    trail: Trail
    hits: dict[Cid, Candidate] = field(default_factory=dict)
    nodes: set[AgentId] = field(default_factory=set)
    answered: set[Prefix] = field(default_factory=set)
    refused: int = 0
    suspects_asked: int = 0
    """Requests to nodes of whom an answer was lost, as nobody else was left."""

    def add(self, hit: Hit, doubtful: frozenset[Prefix]) -> None:
        """Take a verified hit; of several copies the one beyond doubt counts, else the first."""
        known = self.hits.get(hit.record.cid)
        if known is None or (known.doubtful and not doubtful):
            self.hits[hit.record.cid] = Candidate(hit, doubtful)

    def settled(self) -> tuple[list[Hit], int]:
        """The best hit of each entry, best first, and how many were dropped as outdated."""
        ended = overwritten(one.hit.record for one in self.hits.values())
        current = [
            one.hit
            for one in self.hits.values()
            if (one.hit.id, one.hit.record.cid) not in ended
            and not (one.doubtful and one.doubtful <= self.answered)
        ]
        best: dict[Cid, Hit] = {}
        for hit in sorted(current, key=lambda hit: (-hit.score, hit.record.cid)):
            best.setdefault(hit.id, hit)
        ordered = sorted(best.values(), key=lambda hit: (-hit.score, hit.id))
        return ordered, len(self.hits) - len(current)

    def to_confirm(self, k: int) -> set[Prefix]:
        """Shards nobody was heard about that would have to show one of the best `k` hits."""
        best = sorted(self.hits.values(), key=lambda one: -one.hit.score)[:k]
        return {shard for one in best for shard in one.doubtful} - self.answered
