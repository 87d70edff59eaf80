"""Drafts: the next operation of an author on what they see of an entry.

A draft turns a view into the causal fields of a record: the heads seen as deps, and the author's place on
their own line. The author of an entry has used height 0 with the create.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from chain.behalf import Behalf
from chain.cid import Cid
from chain.content import MAX_OVER, Content, Resolution
from chain.identity import AgentId
from chain.kinds import ASSESS, CREATE, DELETE, DESCRIBE, EDIT, LINK, PURGE, RETRACT, TAG, UNLINK, UNTAG, VOTE
from chain.metadata import FieldValue
from chain.reference import Reference
from chain.source_chain import Draft
from crdt.entry_view import Entry
from crdt.errors import OperationError
from crdt.operations import (
    MAX_ADDS,
    MAX_PURGED,
    assess_body,
    delete_body,
    describe_body,
    link_body,
    purge_body,
    read_operation,
    retract_body,
    tag_body,
    unlink_body,
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
    body = replace(content, over=entry.maximal[:MAX_OVER], splices=None).to_body()
    return _draft(entry, author, EDIT, body)


def draft_writing(entry: Entry, author: AgentId, content: Content, over: Iterable[Cid]) -> Draft:
    """Replace just these values, which may be overwritten already, by a content that says its splices."""
    return _draft(entry, author, EDIT, replace(content, over=tuple(sorted(set(over)))).to_body())


def draft_resolution(
    entry: Entry, author: AgentId, resolution: Resolution, merged: Content | None = None
) -> Draft:
    """End the conflict of an entry's texts: what is accepted, or the first that is not rejected, or `merged`.

    All that was accepted or merged over is overwritten; of a rejection only the value rejected and the one
    put in its place, so that others stay. Tags, references and fields of the value that is said again are not
    said again: they stand or were removed by themselves. Raises `OperationError` when there is nothing to
    choose from.
    """
    values = dict(entry.contents)
    if resolution.chosen is not None and resolution.chosen not in values:
        raise OperationError("the value to accept or reject is none of those that the entry shows")
    if resolution.decision == "merge":
        if merged is None:
            raise OperationError("a merge needs the text that comes of it")
        content, over = merged, entry.maximal
    elif resolution.decision == "accept":
        assert resolution.chosen is not None
        content, over = values[resolution.chosen], entry.maximal
    else:
        others = [cid for cid, _ in entry.contents if cid != resolution.chosen]
        if not others or resolution.chosen is None:
            raise OperationError("to reject the only value of an entry is to delete it")
        content, over = values[others[0]], (resolution.chosen, others[0])
    first = () if resolution.chosen is None else (resolution.chosen,)
    kept = sorted({*first, *[cid for cid in over if cid not in first][: MAX_OVER - len(first)]})
    said = replace(content, over=tuple(kept), resolution=resolution, splices=None)
    return _draft(entry, author, EDIT, replace(said, tags=(), references=(), fields=()).to_body())


def draft_describe(
    entry: Entry, author: AgentId, fields: Mapping[str, FieldValue], clear: Iterable[str] = ()
) -> Draft:
    """Set and clear fields, in place of all their values; raises `OperationError` beyond the limits.

    Of more than `MAX_OVER` values the first by CID are overwritten; another description takes the rest.
    """
    names = {*fields, *clear}
    over = sorted({cid for name, values in entry.fields if name in names for cid, _ in values})
    there = {name for name, _ in entry.fields}
    for name in sorted(set(clear) - there):
        raise OperationError(f"the entry has no {name} to clear")
    return _draft(entry, author, DESCRIBE, describe_body(fields, clear, over[:MAX_OVER]))


def draft_link(entry: Entry, author: AgentId, references: Iterable[Reference]) -> Draft:
    """Add sources and relations; raises `OperationError` beyond the limits."""
    return _draft(entry, author, LINK, link_body(references))


def draft_unlink(entry: Entry, author: AgentId, reference: Reference) -> Draft:
    """Remove a reference, at most `MAX_ADDS` adds of it; raises `OperationError` if the entry has none."""
    adds: tuple[Cid, ...] = dict(entry.reference_adds).get(reference, ())
    if not adds:
        raise OperationError("the entry has no such reference to remove")
    return _draft(entry, author, UNLINK, unlink_body(reference, adds[:MAX_ADDS]))


def draft_assess(entry: Entry, author: AgentId, confidence: int) -> Draft:
    """Say how sure one is of the entry, in ppm, in place of what one said before."""
    return _draft(entry, author, ASSESS, assess_body(confidence))


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
    entry: Entry,
    author: AgentId,
    value: int,
    reason: str | None = None,
    confidence: int | None = None,
    behalf: Behalf | None = None,
) -> Draft:
    """Vote on the entry, in place of the author's votes before for itself or for another; 0 takes them back.

    Raises `OperationError` beyond the limits.
    """
    return _draft(entry, author, VOTE, vote_body(value, reason, confidence, behalf))


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
