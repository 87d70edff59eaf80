"""Bugs of what replicas send each other and keep: pages, versions, snapshots, compaction; see `view_bugs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from chain.cid import Cid
from chain.content import Content
from chain.record import Record
from crdt import compaction, delta, delta_codec, snapshot
from crdt.compaction import Compact
from crdt.entry import EntryState
from crdt.entry_view import Entry, view_of
from crdt.standing import CLEAR, Standing
from tests.crdt import delta_laws, hostile_laws, snapshot_laws
from tests.crdt.planting import Bug, Patch, planted

SYNC_BUGS: list[Bug] = []
caught_by = planted(SYNC_BUGS)


@caught_by(delta_laws.pages_are_enough)
def a_cut_page_claims_the_whole(patch: Patch) -> None:
    honest = delta.page_of

    def page_of(state: EntryState, *arguments: Any) -> delta.Page:
        return replace(honest(state, *arguments), version=state.version.spaced())

    patch.setattr(delta_laws, "page_of", page_of)


@caught_by(delta_laws.causal_order_is_causal)
def a_clock_is_taken_for_a_cause(patch: Patch) -> None:
    """Sent by lamport, which a liar sets as they like."""

    def by_clock(records: Mapping[Cid, Record], *_: Any) -> list[Record]:
        return sorted(records.values(), key=lambda one: (one.header.lamport, one.cid))

    patch.setattr(delta_laws, "in_causal_order", by_clock)


@caught_by(delta_laws.networks_meet)
def a_version_counts_beyond_gaps(patch: Patch) -> None:
    """The highest record of a chain stands for all below it, whether they came or not."""
    patch.setattr(delta, "contiguous", dict)


@caught_by(delta_laws.networks_meet)
def a_bare_record_is_taken_for_whole(patch: Patch) -> None:
    honest = delta.network_delta
    patch.setattr(delta_laws, "network_delta", lambda records, since, payloads=(): honest(records, since))


@caught_by(delta_laws.compact_is_lossless)
def the_codec_sends_headers_alone(patch: Patch) -> None:
    honest = delta_codec.encode_delta
    patch.setattr(
        delta_codec,
        "encode_delta",
        lambda records, network: honest([one.without_payload() for one in records], network),
    )


@caught_by(snapshot_laws.false_snapshots_are_refused)
def a_snapshot_is_believed_as_it_came(patch: Patch) -> None:
    def believed(found: snapshot.Snapshot, records: Iterable[Record]) -> EntryState:
        return EntryState(found.entry).add_all(records)

    patch.setattr(snapshot_laws, "believed", believed)


@caught_by(snapshot_laws.compaction_never_changes_a_view)
def what_was_compacted_is_gone(patch: Patch) -> None:
    """Also when the record that ended it does not count any more."""

    def view(small: Compact, standing: Standing = CLEAR) -> Entry | None:
        return view_of(small.state.subject, small.state.applied, standing, small.opened)

    patch.setattr(Compact, "view", view)


@caught_by(hostile_laws.a_claim_that_is_taken_back_ends_nothing)
def whatever_was_ever_overwritten_is_compacted(patch: Patch) -> None:
    """Also by a record that had not seen it, and may be purged."""

    def targets(_cid: Cid, value: Any, applied: Mapping[Cid, Record]) -> Iterable[Cid]:
        return [cid for cid in getattr(value, "over", ()) if cid in applied]

    patch.setattr(compaction, "_targets", targets)


@caught_by(snapshot_laws.compaction_never_changes_a_view)
def compaction_drops_the_tags_of_what_ended(patch: Patch) -> None:
    honest = compaction._less

    def less(value: Any, ends: Mapping[str, Cid]) -> Any:
        found = honest(value, ends)
        return replace(found, tags=()) if isinstance(found, Content) else found

    patch.setattr(compaction, "_less", less)
