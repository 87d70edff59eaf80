"""Private entries: the owner's own, encrypted at rest, and never anybody else's to read or to find.

They stand in the own chain as `entry.private` (`chain.private`): holders of the author's activity get the
headers, the payloads leave this node by no method. With a backup they are `entry.sealed`: others keep the
boxes, and give them back with the chain. At the start each box is opened once and its vector and tags are
kept in memory, nothing of it on disk in clear, so that the owner's queries find them beside the network's
answers. They are searched exhaustively, which is why their number is bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import trio

from chain.cid import Cid, to_text
from chain.content import Content, content_from_body
from chain.errors import RecordError
from chain.identity import Identity
from chain.kinds import KINDS_BY_RULE_VERSION, PRIVATE, PURGE, SEALED
from chain.manifest import Limits
from chain.private import NONCE_SIZE, Private, check_box, open_private, seal
from chain.record import Record, decode_payload
from chain.reference import MAX_REFERENCES, order_of
from chain.source_chain import Draft
from chain.vector import PPM, codes_from_bytes, score_ppm
from crdt.operations import purge_body
from dht.ports import Random, RunBlocking
from node.authoring import draft_entries
from node.editor import edited
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.entry_reader import value_of
from node.errors import Gone, InvalidInput, NotFound
from node.models import (
    Answer,
    Change,
    Changed,
    Delete,
    Edit,
    EntryView,
    FieldState,
    Hit,
    NewEntry,
    Purge,
    Relate,
    Retag,
)
from node.query.filters import Facts, facts_of
from node.query.question import Question
from node.query.scoring import Scores, Words
from node.storage.own_chain import MAX_DRAFTS, OwnChain
from sharding.bm25 import scores
from sharding.terms import Counted, counted

MAX_PRIVATE = 20_000
"""Private entries of a node."""
SLACK = 16
"""Candidates beyond k whose score is computed exactly, so that float rounding drops none of the best."""
PAGE = 500


@dataclass(frozen=True, slots=True)
class _Known:
    """What memory holds of one entry: all its records, and the last one's vector and what searches
    filter by; None: deleted."""

    records: tuple[Cid, ...]
    codes: bytes | None
    tags: tuple[str, ...]
    kind: str
    facts: Facts
    words: Counted | None


class PrivateEntries:
    """The private entries of this node's agent; `load` before use."""

    def __init__(
        self,
        identity: Identity,
        network: Cid,
        own: OwnChain,
        embedder: Embedder | CallerVectors,
        limits: Limits,
        dim: int,
        rules: Callable[[], int],
        random: Random,
        run_blocking: RunBlocking,
        published: Callable[[], None],
        append: Callable[[Sequence[Draft]], Awaitable[object]],
    ) -> None:
        self._identity = identity
        self._network = network
        self._own = own
        self._embedder = embedder
        self._limits = limits
        self._dim = dim
        self._rules = rules
        self._random = random
        self._run_blocking = run_blocking
        self._published = published
        self._append = append
        self._known: dict[Cid, _Known] = {}
        self._turn = trio.Lock()

    def __contains__(self, entry: object) -> bool:
        return entry in self._known

    async def load(self) -> None:
        """Open every private record once; O(private records)."""
        after = -1
        while page := await self._run_blocking(self._own.privates, after, PAGE):
            after = page[-1].header.seq
            for record in page:
                self._note(record)

    async def add(self, entry: NewEntry) -> Cid:
        """Add a private entry; durable on return. Raises `InvalidInput` and what the embedder raises."""
        drafted = await self._run_blocking(draft_entries, self._embedder, self._limits, [entry])
        if drafted.rejected:
            raise InvalidInput(drafted.rejected[0].reason)
        if len(self._known) >= MAX_PRIVATE:
            raise InvalidInput(f"a node keeps at most {MAX_PRIVATE} private entries")
        content = content_from_body(drafted.drafts[0].body)
        return (await self._write(Private(None, content), SEALED if entry.backup else PRIVATE)).cid

    async def change(self, entry: Cid, change: Change) -> Changed:
        """Edit, tag, delete or purge a private entry; a purge erases its payloads, and is no record.

        Raises `NotFound`, `Gone` for one that is deleted, and `InvalidInput` for what makes no sense alone.
        """
        async with self._turn:
            known = self._known.get(entry)
            if known is None:
                raise NotFound(f"no private entry {to_text(entry)} is here")
            if isinstance(change, Purge):
                if known.kind == SEALED:
                    await self._purge(known.records)
                else:
                    await self._own.erase_private(known.records)
                del self._known[entry]
                return Changed(entry, known.records, to_text(known.records[-1]))
            content = await self._run_blocking(self._content, known)
            if isinstance(change, Delete):
                new = None
            elif content is None:
                raise Gone("the private entry is deleted")
            else:
                new = await self._run_blocking(self._changed, content, change)
                if new == content:
                    return Changed(entry, (), to_text(known.records[-1]))
            if new is None and content is None:
                return Changed(entry, (), to_text(known.records[-1]))
            record = await self._write(Private(entry, new), known.kind)
            return Changed(entry, (record.cid,), to_text(record.cid))

    async def get(self, entry: Cid) -> EntryView | None:
        """A private entry as its owner sees it; None when there is none."""
        known = self._known.get(entry)
        return None if known is None else await self._run_blocking(self._view, entry, known)

    async def page(self, after: Cid | None, limit: int) -> list[EntryView]:
        """Up to `limit` private entries that are not deleted, by id, above `after`."""
        ids = sorted(e for e, known in self._known.items() if known.codes is not None and e > (after or b""))
        found = [await self.get(entry) for entry in ids[:limit]]
        return [one for one in found if one is not None]

    async def merged(self, answer: Answer, question: Question) -> Answer:
        """The owner's answer with the private entries among its hits; exact. O(private entries)."""
        if not self._known:
            return answer
        mine = await self._run_blocking(self._search, question, answer.words)
        hits = sorted((*answer.hits, *mine), key=lambda hit: (-hit.score, hit.id))[: question.k]
        return replace(answer, hits=tuple(hits))

    def _search(self, question: Question, words: Words | None) -> list[Hit]:
        codes, most = question.codes, question.k + SLACK
        near = [
            (entry, known.codes, known.words)
            for entry, known in self._known.items()
            if known.codes is not None
            and known.words is not None
            and set(question.tags) <= set(known.tags)
            and question.filters.admit(known.facts)
        ]
        lexical: list[int] | None = None
        if words is not None:
            lexical = scores(words.wanted, [told for _, _, told in near]).tolist()
        if len(near) > most:
            rows = np.frombuffer(b"".join(one for _, one, _ in near), dtype=np.int8).reshape(len(near), -1)
            rows = rows.astype(np.float32)
            about = PPM * (rows @ codes.astype(np.float32)) / np.linalg.norm(rows, axis=1)
            about /= np.linalg.norm(codes.astype(np.float32))
            if words is not None:
                about = np.array(lexical) + (0 if words.only else about)
            best = np.argsort(-about, kind="stable")[:most].tolist()
            near = [near[place] for place in best]
            lexical = None if lexical is None else [lexical[place] for place in best]
        only = words is not None and words.only
        found = [
            (
                entry,
                Scores(
                    score_ppm(codes, codes_from_bytes(one, self._dim)),
                    None if lexical is None else lexical[place],
                    only,
                ),
            )
            for place, (entry, one, _) in enumerate(near)
        ]
        found = [one for one in found if not only or one[1].lexical]
        hits: list[Hit] = []
        me = self._identity.agent
        for entry, told in sorted(found, key=lambda one: (-one[1].score, one[0]))[: question.k]:
            record = self._own.get(self._known[entry].records[-1])
            content = None if record is None else self._opened(record).content
            if record is not None and content is not None:
                hits.append(
                    Hit(
                        entry,
                        told.score,
                        me,
                        content.text,
                        content.tags,
                        record,
                        me,
                        private=True,
                        cosine=told.cosine,
                        lexical=told.lexical,
                    )
                )
        return hits

    async def _purge(self, records: Sequence[Cid]) -> None:
        """Have those who keep the boxes of these records erase them; each is a subject of its own."""
        drafts = [
            Draft(
                PURGE,
                purge_body([record.cid]),
                subject=record.cid,
                subject_seq=1,
                subject_prev=record.cid,
                deps_lamport=record.header.lamport,
                deps_hlc=record.header.hlc,
            )
            for record in self._own.get_many(records)
            if record is not None and record.payload is not None
        ]
        for start in range(0, len(drafts), MAX_DRAFTS):
            await self._append(drafts[start : start + MAX_DRAFTS])

    async def _write(self, said: Private, kind: str) -> Record:
        if kind not in KINDS_BY_RULE_VERSION[self._rules()]:
            raise InvalidInput(f"this network's rules (version {self._rules()}) do not know {kind}")
        body = seal(self._identity, self._network, said, self._random.random_bytes(NONCE_SIZE))
        try:
            check_box(body)
        except RecordError as error:
            raise InvalidInput(f"the entry is too large to be private: {error}") from error
        with trio.CancelScope(shield=True):
            done = await self._own.append([Draft(kind, body)], [None])
            found = self._own.get_many([cid for cid, _ in done])
            for one in found:
                if one is not None:
                    self._note(one)
        (record,) = [one for one in found if one is not None]
        self._published()
        return record

    def _note(self, record: Record) -> None:
        if record.payload is None:
            return  # erased, or of a home that was lost
        said = self._opened(record)
        entry = said.entry or record.cid
        before = self._known.get(entry)
        if before is not None and record.cid in before.records:
            return
        records = (record.cid,) if before is None else (*before.records, record.cid)
        content = said.content
        self._known[entry] = _Known(
            records,
            None if content is None else content.codes,
            () if content is None else content.tags,
            record.header.kind,
            Facts(self._identity.agent, record.header.hlc) if content is None else facts_of(record, content),
            None if content is None else counted(content.text),
        )

    def _opened(self, record: Record) -> Private:
        if record.payload is None:
            raise RecordError("the private record is erased")
        return open_private(self._identity, self._network, decode_payload(record.payload))

    def _content(self, known: _Known) -> Content | None:
        record = self._own.get(known.records[-1])
        if record is None or record.payload is None or known.codes is None:
            return None
        return self._opened(record).content

    def _changed(self, old: Content, change: Change) -> Content:
        if isinstance(change, Retag):
            new = replace(old, tags=tuple(sorted({*old.tags, *change.add} - set(change.remove))))
        elif isinstance(change, Edit):
            said = edited(old, change)
            fields = {**dict(old.fields), **dict(change.fields)}
            entry = NewEntry(
                text=said.text,
                tags=tuple({*old.tags, *change.tags}),
                domain=said.domain,
                confidence=said.confidence,
                citations=said.citations,
                vector=change.vector,
                format=said.format,
                generated_by=said.generated_by,
                references=old.references,
                fields=tuple((name, fields[name]) for name in sorted(fields.keys() - change.cleared_fields)),
                behalf=said.behalf,
            )
            drafted = draft_entries(self._embedder, self._limits, [entry])
            if drafted.rejected:
                raise InvalidInput(drafted.rejected[0].reason)
            new = content_from_body(drafted.drafts[0].body)
        elif isinstance(change, Relate):
            unknown = set(change.remove) - set(old.references)
            if unknown:
                raise NotFound("the entry has no such reference")
            wanted = {*old.references, *change.add} - set(change.remove)
            if len(wanted) > MAX_REFERENCES:
                raise InvalidInput(f"a private entry has at most {MAX_REFERENCES} references")
            new = replace(old, references=tuple(sorted(wanted, key=order_of)))
        else:
            raise InvalidInput("nobody else sees a private entry: edit, tag, relate, delete or purge it")
        fault = self._limits.fault(new)
        if fault is not None:
            raise InvalidInput(fault)
        return new

    def _view(self, entry: Cid, known: _Known) -> EntryView:
        content = self._content(known)
        me = self._identity.agent
        records = [one for one in self._own.get_many(known.records) if one is not None]
        return EntryView(
            id=entry,
            author=me,
            text=None if content is None else content.text,
            tags=() if content is None else content.tags,
            domain=None if content is None else content.domain,
            confidence=None if content is None else content.confidence,
            citations=() if content is None else content.citations,
            deleted=content is None,
            retracted=False,
            conflict=False,
            version=(),
            fingerprint=to_text(known.records[-1]),
            values=() if content is None else (value_of(known.records[-1], me, content),),
            fields=()
            if content is None
            else tuple(FieldState(name, ((known.records[-1], me, value),)) for name, value in content.fields),
            references=() if content is None else content.references,
            private=True,
            records=tuple(records),
        )
