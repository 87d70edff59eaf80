"""Drafts: the next operation of an author on what they see of an entry.

A draft turns a view into the causal fields of a record: the heads seen as deps, and the author's place on
their own line. The author of an entry has used height 0 with the create.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chain.cid import Cid
from chain.content import MAX_OVER, Content
from chain.identity import AgentId
from chain.kinds import CREATE, DELETE, EDIT, PURGE, RETRACT, TAG, UNTAG, VOTE
from chain.source_chain import Draft
from crdt.entry_view import Entry
from crdt.errors import OperationError
from crdt.operations import (
    MAX_ADDS,
    MAX_PURGED,
    delete_body,
    purge_body,
    read_operation,
    retract_body,
    tag_body,
    untag_body,
    vote_body,
)


def draft_create(content: Content) -> Draft:
    """A new entry with this content; raises `OperationError` or `RecordError` beyond the limits."""
    body = content.to_body()
    read_operation(CREATE, body)
    return Draft(CREATE, body)


def draft_edit(entry: Entry, author: AgentId, content: Content) -> Draft:
    """Replace all values of `entry` that the view shows or hides (`content.over` is set here).

    Of more than `MAX_OVER` values the first by CID are overwritten; another edit takes the rest.
    """
    body = replace(content, over=entry.maximal[:MAX_OVER]).to_body()
    return _draft(entry, author, EDIT, body)


def draft_tag(entry: Entry, author: AgentId, tag: str) -> Draft:
    """Add a tag; raises `OperationError` beyond the limits."""
    return _draft(entry, author, TAG, tag_body(tag))


def draft_untag(entry: Entry, author: AgentId, tag: str) -> Draft:
    """Remove a tag, at most `MAX_ADDS` adds of it; raises `OperationError` if the entry does not have it."""
    adds: tuple[Cid, ...] = dict(entry.tag_adds).get(tag, ())
    if not adds:
        raise OperationError(f"the entry has no tag {tag!r:.100} to remove")
    return _draft(entry, author, UNTAG, untag_body(tag, adds[:MAX_ADDS]))


def draft_delete(entry: Entry, author: AgentId) -> Draft:
    """Delete the entry as seen."""
    return _draft(entry, author, DELETE, delete_body(entry.deps))


def draft_retract(entry: Entry, author: AgentId) -> Draft:
    """Take the entry back; raises `OperationError` unless `author` created it."""
    if author != entry.author:
        raise OperationError("only the agent who created an entry can retract it; delete it instead")
    return _draft(entry, author, RETRACT, retract_body())


def draft_vote(
    entry: Entry, author: AgentId, value: int, reason: str | None = None, confidence: int | None = None
) -> Draft:
    """Vote on the entry, in place of the author's votes before; 0 takes them back.

    Raises `OperationError` beyond the limits.
    """
    return _draft(entry, author, VOTE, vote_body(value, reason, confidence))


def draft_purge(entry: Entry, author: AgentId, records: Iterable[Cid]) -> Draft:
    """Erase the payloads of these own records, at most `MAX_PURGED` of them, the first by CID.

    Raises `OperationError` when there is none.
    """
    return _draft(entry, author, PURGE, purge_body(sorted(set(records))[:MAX_PURGED]))


def _draft(entry: Entry, author: AgentId, kind: str, body: dict[str, object]) -> Draft:
    slots = entry.version.slots(author)
    last = slots[-1] if slots else None
    return Draft(
        kind,
        body,
        subject=entry.id,
        subject_seq=0 if last is None else last.seq + 1,
        subject_prev=None if last is None else last.cid,
        deps=entry.deps,
        deps_lamport=entry.lamport,
        deps_hlc=entry.hlc,
    )
