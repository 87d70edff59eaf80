"""Equivocation seen while folding: two records of one author at one place of its chain.

Holders of an author's key get every header and see each fork where they store it. A reader gathers records of
an entry from several holders and may be the first to whom both branches come. The fold does not need to know:
both branches stay in the set, side by side. But the pair is evidence (`validation.accusation.accuse_fork`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chain.cid import Cid
from chain.identity import AgentId
from chain.record import Record

MAX_PAIRS: Final = 16
"""Authors of whom a pair is told at a time."""


def twins_among(records: Iterable[Record]) -> tuple[tuple[Record, Record], ...]:
    """Of each author, ascending, the earliest two records at one seq, by CID. O(records)."""
    places: dict[tuple[AgentId, int], dict[Cid, Record]] = {}
    for record in records:
        places.setdefault((record.header.author, record.header.seq), {})[record.cid] = record
    found: dict[AgentId, tuple[Record, Record]] = {}
    for author, seq in sorted(place for place, ones in places.items() if len(ones) > 1):
        if author not in found:
            first, second = sorted(places[author, seq])[:2]
            found[author] = places[author, seq][first], places[author, seq][second]
    return tuple(found[author] for author in sorted(found)[:MAX_PAIRS])
