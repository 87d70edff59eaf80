"""Checking hits against their entries: does what a shard's holder showed still stand?

The holders of each entry's own basis are asked for its digest, many entries in one request. Where all that
answer know nothing but the create, the hit stands; of an entry with operations everything is read and folded,
and the hit becomes the value that is living now and nearest to the question, or goes. So a posting that lags
behind, or a holder that serves an overwritten one, is found out at the price of a request to each of the
entries' holders, and of reading those that changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import trio

from chain.cid import Cid, digest
from chain.identity import AgentId
from chain.record import Record
from crdt.postings import shown
from crdt.standing import CLEAR, Standing
from dht.errors import FrameError, NetworkError
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.records.basis import subject_basis
from dht.records.methods import MAX_DIGESTS, RecordService
from node.entry_reader import EntryReader
from node.entry_records import EntryRecords
from node.models import Hit
from node.query.filters import facts_of
from node.query.question import Question
from node.query.scoring import Words, scores_of

ROUNDS = 3
"""Hits that take the places of those that went are checked too, so often."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class Freshened:
    """What checking has found so far: by entry the hit as it stands now, None when the entry shows none."""

    hits: dict[Cid, Hit | None] = field(default_factory=dict)
    nodes: set[AgentId] = field(default_factory=set)
    changed: int = 0
    """Entries that had operations."""
    ended: int = 0
    """Hits whose value has ended."""


class Freshness:
    """Asks the holders of entries; `replication` of them each."""

    def __init__(
        self,
        kademlia: Kademlia,
        records: RecordService,
        reader: EntryReader,
        entries: EntryRecords,
        replication: int,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        self._standing = standing
        self._kademlia = kademlia
        self._records = records
        self._reader = reader
        self._entries = entries
        self._replication = replication
        self._run_blocking = run_blocking

    async def check(
        self, hits: Sequence[Hit], question: Question, words: Words | None, freshened: Freshened
    ) -> list[Hit]:
        """`hits`, best first, with the first k of them as they stand now; `freshened` is kept up to date.

        An entry of which no holder answers is left as it is. May be cancelled at any time.
        """
        current = list(hits)
        for _ in range(ROUNDS):
            unchecked = [hit for hit in current[: question.k] if hit.id not in freshened.hits]
            if not unchecked:
                break
            await self._check(unchecked, question, words, freshened)
            now = (freshened.hits.get(hit.id, hit) for hit in current)
            current = sorted((hit for hit in now if hit is not None), key=lambda hit: (-hit.score, hit.id))
        return current

    async def _check(
        self, hits: Sequence[Hit], question: Question, words: Words | None, freshened: Freshened
    ) -> None:
        changed = await self._run_blocking(self._entries.operated_on, [hit.id for hit in hits])
        asked: dict[AgentId, list[Cid]] = {}
        for hit in hits:
            for contact in await self._kademlia.holders(subject_basis(hit.id), self._replication):
                if contact.agent != self._kademlia.agent:
                    asked.setdefault(contact.agent, []).append(hit.id)
        async with trio.open_nursery() as nursery:
            for agent in sorted(asked):
                nursery.start_soon(self._ask, agent, asked[agent], changed, freshened)
        for hit in hits:
            # What is not the create itself is an edit, whatever the holders say.
            if hit.id not in changed and hit.record.cid == hit.id:
                freshened.hits[hit.id] = hit
                continue
            found = await self._reader.find(hit.id)
            now = await self._run_blocking(self._now, hit, found.about(hit.id), question, words)
            freshened.hits[hit.id] = now
            freshened.changed += 1
            freshened.ended += now is None or now.record.cid != hit.record.cid

    async def _ask(
        self, agent: AgentId, entries: Sequence[Cid], changed: set[Cid], freshened: Freshened
    ) -> None:
        """Add to `changed` the entries of which this holder has more, or less, than the create."""
        freshened.nodes.add(agent)
        try:
            for start in range(0, len(entries), MAX_DIGESTS):
                part = entries[start : start + MAX_DIGESTS]
                answers = await self._records.digests(agent, [subject_basis(entry) for entry in part])
                for entry, answer in zip(part, answers, strict=True):
                    if answer[0] and answer != (1, digest(entry)):
                        changed.add(entry)
        except NetworkError as error:
            log.info("asking %s for heads failed: %s", agent.hex()[:8], error)
            if isinstance(error, FrameError):
                self._kademlia.report(agent)

    def _now(self, hit: Hit, about: Sequence[Record], question: Question, words: Words | None) -> Hit | None:
        records = {record.cid: record for record in about}
        show = shown(hit.id, records, self._standing())
        scored = [
            (scores_of(question.codes, words, content), cid, content)
            for cid, content in show.values
            if question.filters.admit(facts_of(records[cid], content))
        ]
        if not scored or not set(question.tags) <= set(show.tags):
            return None
        scores, cid, content = min(scored, key=lambda one: (-one[0].score, one[1]))
        if scores.only_words and not scores.lexical:
            return None
        return replace(
            hit,
            score=scores.score,
            cosine=scores.cosine,
            lexical=scores.lexical,
            author=records[cid].header.author,
            text=content.text,
            tags=show.tags,
            record=records[cid],
        )
