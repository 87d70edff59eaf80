"""What a holder sends is checked here, hit by hit, before anything of it counts.

Every hit is verified: the record's signature and payload hash, the network and epoch, its author's opening
records, the content's shape, the scores, recomputed from the signed vector and text, what the question's
filters look at, and its tags, from the records that give and take them; a hit that fails is dropped and
counts against the holder that sent it. Nothing is believed because of who said it. This node's own postings
become hits here too, without a check: they passed intake.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from chain.cid import Cid
from chain.content import Content
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT
from chain.record import Record
from crdt.postings import is_tag_record, proven_tags
from crdt.standing import CLEAR, Standing
from dht.errors import FrameError
from dht.ports import RunBlocking
from dht.records.bundle import Bundle, Item
from dht.records.intake import Intake, PurgesOf
from dht.records.layouts import Layouts
from dht.records.methods import MAX_FETCH, RecordService
from node.entry_records import EntryRecords
from node.holder import Holder, RecordsOf
from node.models import Hit
from node.query.filters import facts_of
from node.query.gathering import Gathered
from node.query.scoring import Scores, scores_of
from node.query.search_protocol import SearchReply, SearchRequest
from sharding.tree import Prefix

log = logging.getLogger(f"roseforest.{__name__}")


class Verifier:
    """Turns what holders send, and what lies here, into hits."""

    def __init__(
        self,
        agent: AgentId,
        records: RecordService,
        holder: Holder,
        records_of: RecordsOf,
        purges_of: PurgesOf,
        entries: EntryRecords,
        intake: Intake,
        layouts: Layouts,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        self._agent = agent
        self._records = records
        self._holder = holder
        self._records_of = records_of
        self._purges_of = purges_of
        self._entries = entries
        self._intake = intake
        self._layouts = layouts
        self._run_blocking = run_blocking
        self._standing = standing

    async def take(
        self, node: AgentId, request: SearchRequest, reply: SearchReply, gathered: Gathered
    ) -> None:
        """Verify a holder's hits and merge them; fetch records that did not fit into its reply.

        What verifies is merged whatever else the holder sent. Raises `FrameError` when a hit does not, or is
        named and not served: then the holder's word that it told everything is worth nothing either.
        """
        needed = {cid for one in reply.ranking for cid in (one.record, *one.proofs)}
        have: dict[Cid, Record] = {}
        bundle = reply.bundle
        problem: str | None = None
        while True:
            with gathered.steps.step("verify"):
                verified, refused = await self._run_blocking(self._verify, bundle, needed - have.keys())
            have.update((record.cid, record) for record in verified)
            missing = sorted(needed - have.keys())
            gathered.refused += refused
            if refused:
                problem = f"{refused} of its records do not verify"
            elif missing and not verified and bundle is not reply.bundle:
                problem = f"it names {len(missing)} records that it does not serve"
            if problem is not None or not missing:
                break
            with gathered.steps.step("fetch"):
                bundle = await self._records.fetch(node, missing[:MAX_FETCH])
        whole = set(reply.complete) >= set(request.shards)
        with gathered.steps.step("verify"):
            hits, refused = await self._run_blocking(self._read, reply, have, request, node)
            # Where both places are asked, a holder may show what lies in neither of the shards asked for.
            plain = (whole and not self._layouts.moving) or self._layouts.unknown(reply.complete)
            nowhere: list[frozenset[Prefix]] = [frozenset()] * len(hits)
            shards = nowhere if plain else await self._run_blocking(self._shards_of, hits)
        for hit, places in zip(hits, shards, strict=True):
            gathered.add(hit, frozenset() if places & set(reply.complete) else places)
        gathered.refused += refused
        if problem is not None or refused:
            raise FrameError(problem or f"{refused} of its hits do not verify")

    def search_own(self, request: SearchRequest) -> tuple[list[tuple[Hit, frozenset[Prefix]]], list[Cid]]:
        """The best of this node's own postings with their shards, and the records looked at."""
        me, leaves = self._agent, self._layouts.current.tree.leaves
        ranked = self._holder.best(replace(request, shards=leaves))
        cids = [posting.record for posting, _ in ranked]
        records = self._records_of(cids)
        standing = self._standing()
        self._intake.remember(one for one in records if one is not None and one.payload is not None)
        hits = [
            (self._hit(record, self._intake.content(record), scores, posting.tags, me), posting.shard_key)
            for (posting, scores), record in zip(ranked, records, strict=True)
            if record is not None and record.payload is not None and standing.counts(record)
        ]
        if self._layouts.moving:
            shards = self._shards_of([hit for hit, _ in hits])
        else:
            shards = [frozenset((self._layouts.current.tree.leaf_of(key),)) for _, key in hits]
        return [(hit, at) for (hit, _), at in zip(hits, shards, strict=True)], cids

    def _verify(self, bundle: Bundle, wanted: set[Cid]) -> tuple[list[Record], int]:
        """The records of a bundle that hold by themselves, and how many do not or were not asked for."""
        verified: list[Record] = []
        refused = 0
        for item in bundle.items:
            try:
                if not isinstance(item, Item):
                    raise FrameError(item.reason)
                if item.record.cid not in wanted:
                    raise FrameError("sends a record that it has not named, or twice")
                self._intake.verify(item.record, bundle.openings)
                wanted.discard(item.record.cid)
                verified.append(item.record)
            except (ChainError, FrameError) as error:
                refused += 1
                log.warning("hit refused: %s", error)
        return verified, refused

    def _read(
        self, reply: SearchReply, have: Mapping[Cid, Record], request: SearchRequest, node: AgentId
    ) -> tuple[list[Hit], int]:
        """The hits of a reply whose records are all here, and how many of them are not what they claim."""
        hits: list[Hit] = []
        refused = 0
        wanted = set(request.tags)
        standing = self._standing()
        seen: set[Cid] = set()
        purged = self._purges_of([one.record for one in reply.ranking])
        for one in reply.ranking:
            if one.record in purged:
                continue  # the holder has not heard of it yet
            if one.record not in have or any(cid not in have for cid in one.proofs):
                continue
            try:
                record, proofs = have[one.record], [have[cid] for cid in one.proofs]
                if record.cid in seen:
                    raise FrameError("ranks a record twice")
                seen.add(record.cid)
                if self._entries.blocks.hides(record):
                    continue
                if record.header.kind not in CARRIES_CONTENT:
                    raise FrameError(f"ranks a record of kind {record.header.kind!r:.80}")
                content = self._intake.content(record)
                scores = scores_of(request.codes, request.words, content)
                if (one.score, one.lexical) != (scores.cosine, scores.lexical):
                    raise FrameError(f"claims {one.score} and {one.lexical} for a hit that has {scores}")
                if not request.filters.admit(facts_of(record, content)):
                    raise FrameError("sends a hit that does not pass the filters asked for")
                if not all(proof.subject == record.subject and is_tag_record(proof) for proof in proofs):
                    raise FrameError("sends a proof that proves no tag of its hit")
                # The holder may not have heard of a warrant yet: that is no lie.
                heard = [one for one in proofs if standing.counts(one)]
                tags = proven_tags(record, heard)
                if not standing.counts(record) or (len(heard) < len(proofs) and not wanted <= set(tags)):
                    continue
                if not wanted.issubset(tags):
                    raise FrameError("sends a hit without the tags asked for")
                hits.append(self._hit(record, content, scores, tags, node))
            except (ChainError, FrameError) as error:
                refused += 1
                log.warning("hit refused: %s", error)
        return hits, refused

    def _shards_of(self, hits: Sequence[Hit]) -> list[frozenset[Prefix]]:
        return self._layouts.shards_of([(hit.record, self._intake.content(hit.record)) for hit in hits])

    @staticmethod
    def _hit(record: Record, content: Content, scores: Scores, tags: tuple[str, ...], holder: AgentId) -> Hit:
        return Hit(
            id=record.subject,
            score=scores.score,
            author=record.header.author,
            text=content.text,
            tags=tags,
            record=record,
            holder=holder,
            cosine=scores.cosine,
            lexical=scores.lexical,
        )
