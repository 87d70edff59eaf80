"""Changing an entry: read what its holders know, draft on top of all of it, append, publish.

An edit overwrites what it has seen and nothing else, so before anything is signed the entry is read from its
holders; what was read is kept, for others will need it to judge the new record. Two agents who edit while
apart both succeed, and the entry shows both values until somebody overwrites them (`crdt.entry_view`). Who
wants to be refused instead names the version seen (`if_version`; Kung and Robinson, 1981): the check is made
against all that can be reached at that moment. Changes of one entry by this node happen one after the other,
and all the records of one change are appended together or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import trio

from chain.cid import Cid, to_text
from chain.content import Content, Resolution
from chain.identity import AgentId, peer_id
from chain.kinds import PURGEABLE
from chain.manifest import Limits
from chain.record import Record
from chain.source_chain import Draft
from crdt import drafts
from crdt import operations as operation
from crdt.ballots import newest_signed, same_voter, supersedes
from crdt.causal import in_causal_order
from crdt.entry import EntryState
from crdt.entry_view import Entry, version_of
from crdt.errors import CrdtError
from crdt.purging import operations
from crdt.standing import CLEAR, Standing
from dht.ports import RunBlocking
from node.authoring import refusal, text_codes, vector_codes
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.entry_reader import Found
from node.errors import Forbidden, Gone, InvalidInput, NotFound, VersionConflict
from node.models import (
    Assess,
    Change,
    Changed,
    Delete,
    Edit,
    Purge,
    Relate,
    Resolve,
    Retag,
    Retract,
    Single,
    Together,
    Vote,
    Write,
)
from node.storage.own_chain import Script
from node.text_engine import engine
from node.writing import Desk

MAX_TOLD = 64
"""Changes since a version that are looked for; an older version is said to be unknown."""
TOLD = 3
"""Changes that the message of a conflict names."""

T = TypeVar("T")


class Writes(Protocol):
    """What signs the drafts of a script, makes them durable together and shows them here.

    Cancelled, it does all of that or nothing; `node.storage.own_chain.OwnChain.write` tells the rest.
    """

    async def __call__(self, script: Script[T]) -> T:
        """Carry out a script; what it returns."""
        ...


class Reader(Protocol):
    """Where entries are read from: `node.entry_reader.EntryReader`."""

    async def find(self, entry: Cid) -> Found:
        """All that can be found of an entry."""
        ...

    async def keep(self, found: Found) -> None:
        """Make it durable here."""
        ...


@dataclass(slots=True)
class _Turn:
    lock: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """A change under way: what was found of the entry, and how it stands with what was written so far."""

    found: Found
    state: EntryState
    view: Entry
    standing: Standing
    written: tuple[Cid, ...] = ()

    def grown(self, record: Record) -> _Work:
        """With one record more on top; O(records of the entry)."""
        state, view = _grown(self.state, [record], self.standing)
        return replace(self, state=state, view=view or self.view, written=(*self.written, record.cid))

    @property
    def changed(self) -> Changed:
        return Changed(self.view.id, self.written, self.view.version.fingerprint)


class Editor:
    """The verb `change` of a node. `rules` gives the rule version that its records are judged by now."""

    def __init__(
        self,
        agent: AgentId,
        embedder: Embedder | CallerVectors,
        limits: Limits,
        rules: Callable[[], int],
        reader: Reader,
        write: Writes,
        run_blocking: RunBlocking,
        standing: Callable[[], Standing] = lambda: CLEAR,
    ) -> None:
        self._standing = standing
        self._agent = agent
        self._embedder = embedder
        self._limits = limits
        self._rules = rules
        self._reader = reader
        self._writes = write
        self._run_blocking = run_blocking
        self._turns: dict[Cid, _Turn] = {}

    async def change(self, entry: Cid, change: Change, if_version: str | None) -> Changed:
        """Carry out `change`; what it wrote is durable when this returns. Nothing to do is no error.

        All its records are appended together: after an error or a crash there is none of them. Only what a
        `Write` makes of it together with others' words is a record by itself.

        Raises `NotFound` for an entry or tag that is not known, `VersionConflict`, `Forbidden` for a retract
        by another than the creator, `Gone` for a deleted or retracted entry, `InvalidInput` or
        `EmbeddingError` for what is over a limit or outside the network's rules, and storage errors.
        """
        async with self._turn(entry):
            found = await self._reader.find(entry)
            standing = self._standing()
            # Off the loop, here and below: how many records there are is up to strangers.
            state, view = await self._run_blocking(_grown, EntryState(entry), found.about(entry), standing)
            if view is None:
                raise NotFound(f"no entry {to_text(entry)} is known here or to its holders")
            if if_version is not None and if_version != view.version.fingerprint:
                raise VersionConflict(
                    await self._run_blocking(conflict, found.about(entry), view, if_version)
                )
            work = _Work(found, state, view, standing)
            if isinstance(change, Write):
                _check_state(view, change, self._agent, self._limits)
                return await self._write(work, change)
            changes = change.changes if isinstance(change, Together) else (change,)
            if not changes:
                return work.changed
            _check_state(view, changes[0], self._agent, self._limits)
            codes = await self._run_blocking(self._codes, view, changes[0])
            return (await self._sign(work, lambda: self._drafts(work, changes, codes))).changed

    async def _sign(self, work: _Work, script: Script[_Work]) -> _Work:
        """Append what a script drafts, all or nothing; `work` with it. The first draft is tried before."""
        if await self._run_blocking(next, script(), None) is None:
            return work
        await self._reader.keep(work.found)
        return await self._writes(script)

    def _drafts(
        self, work: _Work, changes: Sequence[Single], codes: bytes
    ) -> Generator[Draft, Record, _Work]:
        """What changes need, each draft on top of the records before it; raises what `change` raises.

        O(records of the entry) for each draft, in the thread and the transaction in which they are appended.
        """
        for change in changes:
            _check_state(work.view, change, self._agent, self._limits)
            if isinstance(change, Purge):
                change = self._own_words(work.found.about(work.view.id), change)
            if isinstance(change, Vote) and change.behalf is not None and _counts_already(work, change):
                continue
            while (draft := self._next(work.view, change, codes)) is not None:
                work = work.grown((yield self._admitted(draft)))
                if isinstance(change, Resolve | Vote):
                    break  # of three values one is rejected, and two still differ; a vote is one record
        return work

    def _admitted(self, draft: Draft) -> Draft:
        """A draft within the network's limits and rules; raises `InvalidInput`."""
        fault = refusal(draft, self._limits, self._rules())
        if fault is not None:
            raise InvalidInput(fault)
        return draft

    async def _write(self, work: _Work, write: Write) -> Changed:
        """What was asked for, and then what comes of it together with what others wrote meanwhile.

        Each is whole without the other, and the second, which may take an embedding, may never come.
        """
        desk = Desk(
            self._agent,
            self._limits,
            engine(),
            lambda text: text_codes(self._embedder, text).tobytes(),
        )
        codes = None if write.vector is None else vector_codes(self._embedder, write.vector).tobytes()
        draft = await self._run_blocking(desk.asked, work.view, work.state.applied, write, codes)
        if draft is None:
            return work.changed
        work = await self._sign(work, self._one(work, draft))
        applied = work.state.applied
        draft = await self._run_blocking(desk.after, work.view, applied, work.written[0])
        if draft is not None:
            work = await self._sign(work, self._one(work, draft))
        return work.changed

    def _one(self, work: _Work, draft: Draft) -> Script[_Work]:
        def script() -> Generator[Draft, Record, _Work]:
            return work.grown((yield self._admitted(draft)))

        return script

    def _codes(self, view: Entry, change: Single) -> bytes:
        """The codes of the text that the entry will have; blocking."""
        if isinstance(change, Resolve):
            return self._merged_codes(change)
        if not isinstance(change, Edit) or change.only_fields:
            return b""
        old = view.contents[0][1] if view.contents else None
        if change.vector is not None:
            return vector_codes(self._embedder, change.vector).tobytes()
        if change.text is None or (old is not None and old.text == change.text):
            if old is None:
                raise InvalidInput("the entry's text is erased: give a new one")
            return old.codes
        return text_codes(self._embedder, change.text).tobytes()

    def _merged_codes(self, change: Resolve) -> bytes:
        if change.text is None:
            return b""
        if change.vector is not None:
            return vector_codes(self._embedder, change.vector).tobytes()
        return text_codes(self._embedder, change.text).tobytes()

    def _next(self, view: Entry, change: Single, codes: bytes) -> Draft | None:
        """The next record that `change` needs on top of `view`, or None when it is done; pure."""
        try:
            match change:
                case Edit():
                    draft = None if change.only_fields else self._edit(view, change, codes)
                    return draft or self._describe(view, change)
                case Resolve():
                    return self._resolve(view, change, codes)
                case Relate(add=add, remove=remove):
                    there = dict(view.reference_adds)
                    for one in remove:
                        if one in there:
                            return drafts.draft_unlink(view, self._agent, one)
                    new = [one for one in add if one not in there]
                    return drafts.draft_link(view, self._agent, new) if new else None
                case Assess(confidence=confidence):
                    if (self._agent, confidence) in [(one.agent, one.confidence) for one in view.assessments]:
                        return None
                    return drafts.draft_assess(view, self._agent, confidence)
                case Retag(add=add, remove=remove):
                    for tag in remove:
                        if tag in view.tags:
                            return drafts.draft_untag(view, self._agent, tag)
                    for tag in add:
                        if tag not in view.tags:
                            return drafts.draft_tag(view, self._agent, tag)
                    return None
                case Vote(value=value, reason=reason, confidence=confidence, behalf=behalf):
                    said = [
                        one.vote
                        for one in view.votes
                        if one.agent == self._agent and same_voter(one.vote.behalf, behalf)
                    ]
                    now = [(one.value, one.reason, one.confidence) for one in said]
                    timed = behalf is not None and behalf.signed_ms is not None
                    if not timed and now == [(value, reason, confidence)] * bool(value):
                        return None
                    return drafts.draft_vote(view, self._agent, value, reason, confidence, behalf)
                case Delete():
                    return None if view.deleted else drafts.draft_delete(view, self._agent)
                case Purge(records=records):
                    left = set(records or ()) - dict(view.purged).keys()
                    return drafts.draft_purge(view, self._agent, left) if left else None
                case Retract():
                    return None if view.retracted else drafts.draft_retract(view, self._agent)
        except CrdtError as error:
            raise InvalidInput(str(error)) from error

    def _own_words(self, records: Sequence[Record], change: Purge) -> Purge:
        """The purge of exactly those of the entry's records that are this agent's to purge."""
        own = {
            one.cid for one in records if one.header.author == self._agent and one.header.kind in PURGEABLE
        }
        if not own:
            raise Forbidden("this agent has said nothing here, and what others said only they can purge")
        return Purge(tuple(sorted(own if change.records is None else own & set(change.records))))

    def _edit(self, view: Entry, change: Edit, codes: bytes) -> Draft | None:
        old = view.contents[0][1] if view.contents else Content("", b"\1")
        content = replace(edited(old, change), codes=codes, tags=tuple(sorted(set(change.tags))), over=())
        same = _says_the_same(content, old) and set(content.tags) <= set(view.tags)
        if same and len(view.maximal) == 1 and not view.deleted:
            return None
        fault = self._limits.fault(replace(content, tags=tuple(sorted({*view.tags, *content.tags}))))
        if fault is not None:
            raise InvalidInput(fault)
        return drafts.draft_edit(view, self._agent, content)

    def _describe(self, view: Entry, change: Edit) -> Draft | None:
        now = dict(view.fields)
        wanted = {
            name: value
            for name, value in change.fields
            if len(now.get(name, ())) != 1 or now[name][0][1] != value
        }
        gone = sorted(name for name in change.cleared_fields if name in now)
        return drafts.draft_describe(view, self._agent, wanted, gone) if wanted or gone else None

    def _resolve(self, view: Entry, change: Resolve, codes: bytes) -> Draft | None:
        merged = None
        if change.text is not None:
            if not view.contents:
                raise InvalidInput("the entry's texts are erased: edit it to give a new one")
            old = view.contents[0][1]
            behalf = change.behalf
            merged = replace(
                old,
                text=change.text,
                codes=codes,
                tags=(),
                format=change.format or old.format,
                generated_by=change.generated_by or (old.generated_by if behalf is None else behalf.name),
                behalf=behalf,
            )
        decided = None if change.behalf is None else replace(change.behalf, signature=None)
        resolution = Resolution(change.decision, change.reason, change.chosen, decided)
        return drafts.draft_resolution(view, self._agent, resolution, merged)

    @asynccontextmanager
    async def _turn(self, entry: Cid) -> AsyncIterator[None]:
        turn = self._turns.setdefault(entry, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[entry]


def _counts_already(work: _Work, change: Vote) -> bool:
    """Whether a vote for another is the one that its key has signed last, and counts.

    Raises `InvalidInput` for one that would not count beside what the key has signed.
    """
    behalf, applied = change.behalf, work.state.applied
    if behalf is None or behalf.key is None:
        return False
    newest = newest_signed(applied, operations(applied), behalf.key, work.standing)
    if newest is None:
        return False
    assert newest.behalf is not None
    asked = operation.Vote(change.value, change.reason, change.confidence, behalf)
    if behalf.signed_ms is not None and not supersedes(newest, asked):
        return not supersedes(asked, newest)
    raise InvalidInput(
        f"the key of {behalf.name!r:.220} has signed a vote on this entry (signed_ms "
        f"{newest.behalf.signed_ms}): only one that it signs with a later time counts"
    )


def _grown(
    state: EntryState, records: Sequence[Record], standing: Standing
) -> tuple[EntryState, Entry | None]:
    """An entry with these records more, and its view, None without its create; O(n), blocking."""
    more = state.add_all(records)
    return more, more.view(standing)


def edited(old: Content, change: Edit) -> Content:
    """What an edit makes of a value; codes and tags stay those of the value."""
    cleared = change.clear
    confidence = old.confidence if change.confidence is None else change.confidence
    citations = old.citations if change.citations is None else change.citations
    return replace(
        old,
        text=old.text if change.text is None else change.text,
        domain=None if "domain" in cleared else change.domain or old.domain,
        confidence=None if "confidence" in cleared else confidence,
        citations=() if "citations" in cleared else citations,
        format=None if "format" in cleared else change.format or old.format,
        generated_by=None if "generated_by" in cleared else change.generated_by or old.generated_by,
        references=(),
        fields=(),
        behalf=change.behalf,
        resolution=None,
        splices=None,
    )


def _says_the_same(new: Content, old: Content) -> bool:
    """Whether an edit would change nothing of a value, whoever writes it and why."""
    return _bare(new) == _bare(old)


def _bare(value: Content) -> Content:
    return replace(
        value, over=(), tags=(), references=(), fields=(), behalf=None, resolution=None, splices=None
    )


def conflict(records: Iterable[Record], view: Entry, seen: str) -> str:
    """The line that says what has changed since the version `seen`, as far as it can be told."""
    since = changes_since(records, seen)
    now = view.version.fingerprint
    if since is None:
        return (
            f"the entry is at version {now}, and {seen[:48]!r} is none of its last {MAX_TOLD} versions: "
            "get it again"
        )
    told = ", ".join(f"{one.header.kind} by {peer_id(one.header.author)}" for one in since[-TOLD:])
    more = f" and {len(since) - TOLD} before" if len(since) > TOLD else ""
    return f"the entry is at version {now}; changed since {seen}: {told}{more}"


def changes_since(records: Iterable[Record], seen: str) -> list[Record] | None:
    """The records after the version `seen`, in the order in which they fold; None when it is not found.

    Found are versions along one order of the records: a version that saw only one of two concurrent
    operations may be none of them. At most `MAX_TOLD` versions are tried, O(records) each; blocking.
    """
    known = list(records)
    if not known:
        return None
    ordered = in_causal_order(EntryState(known[0].subject).add_all(known).applied)
    for end in range(len(ordered) - 1, max(0, len(ordered) - 1 - MAX_TOLD), -1):
        before = {one.cid: one for one in ordered[:end]}  # closed under causes, as the order is causal
        if version_of(before).fingerprint == seen:
            return ordered[end:]
    return None


def _check_state(view: Entry, change: Single | Write, agent: AgentId, limits: Limits) -> None:
    if isinstance(change, Retract) and view.author != agent:
        raise Forbidden("only its creator can retract an entry; delete it instead")
    if isinstance(change, Purge):
        return
    if view.retracted and not isinstance(change, Retract):
        raise Gone("the entry is retracted by its creator, for good")
    if not view.maximal and not isinstance(change, Retract):
        raise Gone("nothing is left of the entry: all its values are by agents under warrants")
    if isinstance(change, Resolve) and len(view.contents) < 2 and not view.delete_overruled:
        raise InvalidInput("the entry has one value only: there is no conflict to resolve")
    if isinstance(change, Relate):
        there = {one for one, _ in view.reference_adds}
        if any(one not in there for one in change.remove):
            raise NotFound("the entry has no such reference")
    if view.deleted and isinstance(change, Retag | Vote | Relate | Assess):
        raise Gone("the entry is deleted; an edit brings it back")
    if isinstance(change, Retag):
        unknown = [tag for tag in change.remove if tag not in view.tags]
        if unknown:
            raise NotFound(f"the entry has no tag {unknown[0]!r:.110}")
        tags = {*view.tags, *change.add} - set(change.remove)
        if len(tags) > limits.tags and set(change.add) - set(view.tags):
            raise InvalidInput(f"the entry would have {len(tags)} tags, the limit is {limits.tags}")
