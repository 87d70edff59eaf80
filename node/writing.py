"""Writing in a text that others write in too: splices against a version, and what comes of all of them.

A version of a text is the values that it was put together of. Who writes names the version that they saw;
others may have gone on meanwhile, here or elsewhere, and both stay: the edit overwrites what its author saw
and nothing else, and the values that then stand side by side are put together on reading
(`crdt.shared_text`). A node that can do so also writes down what comes of them, as one more edit with a
vector of its own, so that search and nodes without the extra see one text again. Nothing here is needed to
judge a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from chain.cid import Cid, to_text
from chain.content import MAX_OVER, MAX_TEXT, Content
from chain.errors import ChainError
from chain.identity import AgentId
from chain.manifest import Limits
from chain.record import Record
from chain.source_chain import Draft
from chain.splices import Splice, read_splices, spliced, splices_to_wire
from crdt.drafts import draft_writing
from crdt.entry import EntryState
from crdt.entry_view import Entry
from crdt.operations import content_of
from crdt.purging import operations
from crdt.shared_text import Engine, Script, merged, texts_of, version_text
from crdt.standing import Standing
from node.embedding.errors import EmbeddingError
from node.errors import InvalidInput, NotFound
from node.models import MAX_VALUES, EntryView, SharedText, Write, WrittenText
from node.text_engine import NEEDS_EXTRA

log = logging.getLogger(f"roseforest.{__name__}")

MAX_REPLAYED = 4
"""Texts of different origins in one entry that are put together at a time."""
CANNOT = "these values were written apart and cannot be put together: their texts have no common origin"
TOO_LONG = "these values were written apart, with too many changes to put them together: edit the entry"
FAILED = "these values were written apart and cannot be put together: their changes are not what they say"


def shared_text(view: EntryView, standing: Standing, engine: Engine | None) -> SharedText:
    """The text of an entry, with all put together that can be; blocking. O(its records and texts)."""
    if view.private:
        one = WrittenText(view.text, tuple(value.record for value in view.values), (view.author,))
        return SharedText(one, (), 0, None)
    state = EntryState(view.id).add_all(view.records)
    folded = state.view(standing)
    if folded is None or folded.winner is None:
        return SharedText(WrittenText(view.text, (), ()), (), 0, None)
    contents = dict(folded.contents)  # the winner first
    authors = authors_of(state.applied)
    texts = texts_of(contents, operations(state.applied), authors)
    place = {cid: at for at, cid in enumerate(contents)}
    reason = TOO_LONG if texts.too_long else FAILED if texts.left_out else CANNOT
    found: list[WrittenText] = []
    for script in sorted(texts.scripts, key=lambda script: min(place[cid] for cid in script.values)):
        done = merged(script, engine) if engine is not None and len(found) < MAX_REPLAYED else None
        if done is not None:
            who = tuple(sorted({authors[cid] for cid in done.values}))
            found.append(WrittenText(done.text, done.values, who))
        if done is None or done.left_out:
            reason = NEEDS_EXTRA if engine is None else FAILED
    there = {cid for one in found for cid in one.version}
    found += [
        WrittenText(content.text, (cid,), (authors[cid],))
        for cid, content in contents.items()
        if cid not in there
    ]
    found.sort(key=lambda one: min(place[cid] for cid in one.version))
    return SharedText(
        found[0], tuple(found[1:MAX_VALUES]), max(0, len(found) - MAX_VALUES), reason if found[1:] else None
    )


def authors_of(records: Mapping[Cid, Record]) -> dict[Cid, AgentId]:
    """Who wrote which record."""
    return {cid: record.header.author for cid, record in records.items()}


def _script_of(value: Cid, scripts: Sequence[Script]) -> Script | None:
    return next((script for script in scripts if value in script.values), None)


@dataclass(frozen=True, slots=True)
class Desk:
    """What it takes to write: an agent, the network's limits, an engine, and the codes of texts."""

    agent: AgentId
    limits: Limits
    engine: Engine | None
    codes: Callable[[str], bytes]
    """Raises `EmbeddingError`."""

    def asked(
        self, view: Entry, records: Mapping[Cid, Record], write: Write, codes: bytes | None
    ) -> Draft | None:
        """The edit asked for, None when it changes nothing; blocking. `codes` are the caller's, if any.

        Raises `NotFound` for an unknown version, `InvalidInput`, `EmbeddingError`.
        """
        said = operations(records)
        for one in write.version:
            if not isinstance(said.get(one), Content):
                raise NotFound(f"the version has no value {to_text(one)} any more: get the text again")
        before = version_text(write.version, said, self.engine)
        if before is None:
            raise InvalidInput(NEEDS_EXTRA if self.engine is None else CANNOT)
        try:
            splices = read_splices(splices_to_wire(write.splices))
            text = spliced(before, splices)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
        if text == before and len(write.version) == 1:
            return None
        return self._edit(view, records, write.version, text, splices, codes)

    def after(self, view: Entry, records: Mapping[Cid, Record], written: Cid) -> Draft | None:
        """The edit that puts together what now stands beside `written`, None where that cannot be; blocking.

        None as well when there is no text left, or too much, or no vector for it.
        """
        said = operations(records)
        texts = texts_of([cid for cid, _ in view.contents], said, authors_of(records))
        script = _script_of(written, texts.scripts)
        if script is None or self.engine is None or len(script.values) > MAX_OVER:
            return None
        done = merged(script, self.engine)
        if done is None or written not in done.values:
            return None
        if not done.text or len(done.text.encode()) > min(self.limits.text, MAX_TEXT):
            return None
        try:
            return self._edit(view, records, done.values, done.text, (), None)
        except EmbeddingError as error:  # the caller's vectors, or an endpoint that is away
            log.info("what was written apart is not put together: %s", error)
            return None

    def _edit(
        self,
        view: Entry,
        records: Mapping[Cid, Record],
        over: Sequence[Cid],
        text: str,
        splices: tuple[Splice, ...],
        codes: bytes | None,
    ) -> Draft:
        latest = max(over, key=lambda cid: (records[cid].header.hlc, cid))
        content = replace(
            content_of(records[latest]),
            text=text,
            tags=(),
            references=(),
            fields=(),
            behalf=None,
            resolution=None,
            splices=splices,
        )
        if not text:
            raise InvalidInput("nothing would be left of the text: delete the entry instead")
        fault = self.limits.fault(replace(content, tags=view.tags))
        if fault is not None:
            raise InvalidInput(fault)
        content = replace(content, codes=self.codes(text) if codes is None else codes)
        try:
            return draft_writing(view, self.agent, content, over)
        except ChainError as error:
            raise InvalidInput(str(error)) from error
