"""Walking an author's chain: which of its headers hang together from genesis on, and where that ends.

A record is judged with the header before it, and so says nothing about what came before that. Who holds an
author's activity has the headers and walks them, a stretch at a time: each is judged as a link, by its own
bytes and the header that it names as prev. What a walk has verified it never asks again; it ends at a gap (a
later header is here, and nothing verified that it follows from) or at a link that breaks a rule, as the one
after `chain.close` does. Of a fork every branch is walked that is as long as the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from chain.cid import Cid
from chain.record import Record
from validation.context import Context
from validation.rules import judge_link
from validation.verdict import Invalid, Pending

MAX_BRANCHES = 8
"""Branches of one chain that are walked side by side; an author with two is an offender already."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A link that breaks a rule, and the header before it, None at seq 0."""

    record: Record
    prev: Record | None
    verdict: Invalid


@dataclass(frozen=True, slots=True)
class Walked:
    """How far a walk came. `tips`: the verified headers of the greatest seq, by CID; none before genesis.

    `verified`: how many links were, in this stretch. `gap`: the seq at which something is missing.
    `waits`: the next link names an epoch that is not known here.
    """

    tips: tuple[Record, ...]
    verified: int
    broken: tuple[Broken, ...] = ()
    gap: int | None = None
    waits: bool = False

    @property
    def next_seq(self) -> int:
        """Where to go on."""
        return self.tips[0].header.seq + 1 if self.tips else 0


def walk(tips: Sequence[Record], headers: Sequence[Record], context: Context) -> Walked:
    """Go on from verified `tips` through `headers`, of the same author and ascending by (seq, CID).

    `headers` begin after the tips and were checked to be signed. O(headers).
    """
    here = Walked(tuple(tips), 0)
    for seq, found in groupby(headers, key=lambda record: record.header.seq):
        if seq < here.next_seq:
            continue
        if seq > here.next_seq:
            return replace(here, gap=here.next_seq)
        before = {tip.cid: tip for tip in here.tips}
        links: list[Record] = []
        broken: list[Broken] = []
        for record in found:
            prev = None if record.header.prev is None else before.get(record.header.prev)
            if seq and prev is None:
                continue  # it follows what is not here
            named = {} if prev is None else {prev.cid: prev}
            verdict = judge_link(record, replace(context, named=named))
            if isinstance(verdict, Invalid):
                broken.append(Broken(record, prev, verdict))
            elif isinstance(verdict, Pending):
                return replace(here, waits=True)
            elif len(links) < MAX_BRANCHES:
                links.append(record)
        here = replace(here, broken=(*here.broken, *broken))
        if not links:
            return here if broken else replace(here, gap=seq)
        here = replace(here, tips=tuple(links), verified=here.verified + len(links))
    return here


def linked(tips: Iterable[Cid], headers: Sequence[Record], walked: Walked) -> list[Record]:
    """Those of `headers` that a walk from `tips` has verified, in order. O(headers)."""
    reached, broken = set(tips), {one.record.cid for one in walked.broken}
    found: list[Record] = []
    for record in headers:
        header = record.header
        follows = header.prev is None if not header.seq else header.prev in reached
        if follows and header.seq < walked.next_seq and record.cid not in broken:
            reached.add(record.cid)
            found.append(record)
    return found
