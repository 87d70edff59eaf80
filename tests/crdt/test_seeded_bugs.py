"""Merge bugs that others have shipped, planted one at a time: the laws must notice each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import pytest

from chain.cid import Cid
from chain.content import Content
from chain.kinds import VOTE
from chain.record import Record
from crdt import (
    ballots,
    causal,
    entry,
    entry_view,
    observed_sets,
    postings,
    purging,
    registers,
    version_vector,
)
from crdt.ballots import Ballot
from crdt.entry import EntryState
from crdt.operations import Describe, Purge, Tag, Unlink, Untag, Vote
from crdt.version_vector import VersionVector
from tests.crdt import field_laws, laws
from tests.crdt.histories import Choose, History, history

SEEDS = 150

Law = Callable[[History, Choose], None]


def first_copy_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(entry, "merge_copies", lambda a, _b: a)


def sequence_number_is_identity(patch: pytest.MonkeyPatch) -> None:
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        taken = {(r.header.author, r.header.subject_seq): r.cid for r in state.applied.values()}
        place = [(record, (record.header.author, record.header.subject_seq)) for record in records]
        return honest(state, [r for r, key in place if taken.setdefault(key, r.cid) == r.cid])

    patch.setattr(EntryState, "add_all", add_all)


def waiting_records_are_lost(patch: pytest.MonkeyPatch) -> None:
    honest = causal.release

    def release(applied: dict[Cid, Record], waiting: dict[Cid, Record]) -> None:
        honest(applied, waiting)
        waiting.clear()

    patch.setattr(entry, "release", release)


def arrival_order_shows(patch: pytest.MonkeyPatch) -> None:
    honest = entry_view._heads

    def heads(applied: Mapping[Cid, Record]) -> tuple[Cid, ...]:
        ends = set(honest(applied))
        return tuple(cid for cid in applied if cid in ends)

    patch.setattr(entry_view, "_heads", heads)


def remove_wins(patch: pytest.MonkeyPatch) -> None:
    def tag_adds(said: Mapping[Cid, Any]) -> tuple[tuple[str, tuple[Cid, ...]], ...]:
        removed = {value.tag for value in said.values() if isinstance(value, Untag)}
        adds: dict[str, list[Cid]] = {}
        for cid in sorted(said):
            value = said[cid]
            for tag in (
                value.tags if isinstance(value, Content) else [value.tag] if isinstance(value, Tag) else []
            ):
                if tag not in removed:
                    adds.setdefault(tag, []).append(cid)
        return tuple((tag, tuple(adds[tag])) for tag in sorted(adds))

    patch.setattr(entry_view, "tag_adds", tag_adds)


def delete_wins(patch: pytest.MonkeyPatch) -> None:
    def killed(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any) -> set[Cid]:
        return set(applied) if any(applied[cid].header.kind == "entry.delete" for cid in said) else set()

    patch.setattr(entry_view, "killed_by", killed)


def delete_forgets_the_past(patch: pytest.MonkeyPatch) -> None:
    def killed(_applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any) -> set[Cid]:
        return {cid for value in said.values() if hasattr(value, "seen") for cid in value.seen}

    patch.setattr(entry_view, "killed_by", killed)


def delta_counts(patch: pytest.MonkeyPatch) -> None:
    def delta(state: EntryState, since: VersionVector, payloads: Iterable[Cid] = ()) -> tuple[Record, ...]:
        high = {author: slots[-1].seq for author, slots in since.authors}
        wanted, records = set(payloads), [*state.applied.values(), *state.waiting.values()]
        return tuple(
            r for r in records if r.cid in wanted or r.header.subject_seq > high.get(r.header.author, -1)
        )

    patch.setattr(EntryState, "delta", delta)


def compare_counts(patch: pytest.MonkeyPatch) -> None:
    def within(a: VersionVector, b: VersionVector, _lineage: object) -> bool:
        high = {author: slots[-1].seq for author, slots in b.authors}
        return all(slots[-1].seq <= high.get(author, -1) for author, slots in a.authors)

    patch.setattr(version_vector, "_within", within)


def fork_keeps_one_head(patch: pytest.MonkeyPatch) -> None:
    honest = version_vector._antichain
    patch.setattr(version_vector, "_antichain", lambda slots: honest(slots)[-1:])


def every_vote_counts(patch: pytest.MonkeyPatch) -> None:
    def votes(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any) -> tuple[Ballot, ...]:
        found = [(applied[cid].header.author, cid) for cid in sorted(said) if isinstance(said[cid], Vote)]
        return tuple(Ballot(agent, cid, said[cid]) for agent, cid in sorted(found) if said[cid].value)

    patch.setattr(entry_view, "ballots", votes)


def smallest_branch_votes(patch: pytest.MonkeyPatch) -> None:
    honest = ballots.ballots

    def votes(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any) -> tuple[Ballot, ...]:
        last: dict[bytes, tuple[int, Cid]] = {}
        for cid in sorted(applied):
            header = applied[cid].header
            if header.kind == VOTE and header.subject_seq > last.get(header.author, (-1, b""))[0]:
                last[header.author] = (header.subject_seq, cid)
        kept = {cid for _, cid in last.values()}
        chosen = {c: r for c, r in applied.items() if r.header.kind != VOTE or c in kept}
        return honest(chosen, said, standing)

    patch.setattr(entry_view, "ballots", votes)


def late_value_revives(patch: pytest.MonkeyPatch) -> None:
    def newest_only(
        records: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any
    ) -> tuple[Cid, ...]:
        high = max((records[cid].header.lamport for cid in said if hasattr(said[cid], "over")), default=0)
        return tuple(
            cid for cid in sorted(said) if hasattr(said[cid], "over") and records[cid].header.lamport == high
        )

    patch.setattr(postings, "maximal_values", newest_only)


def untag_is_not_proven(patch: pytest.MonkeyPatch) -> None:
    honest = postings.proofs

    def adds_only(
        value: Cid, tags: Any, wanted: Any, records: Mapping[Cid, Record], standing: Any
    ) -> list[Cid]:
        chosen = honest(value, tags, wanted, records, standing)
        return [cid for cid in chosen if records[cid].header.kind != "entry.untag"]

    patch.setattr(laws, "proofs", adds_only)


def excluded_values_still_overwrite(patch: pytest.MonkeyPatch) -> None:
    honest = entry_view.maximal_values

    def maximal(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any) -> tuple[Cid, ...]:
        return tuple(cid for cid in honest(applied, said) if standing.counts(applied[cid]))

    patch.setattr(entry_view, "maximal_values", maximal)


def what_excluded_edits_replaced_comes_back(patch: pytest.MonkeyPatch) -> None:
    def one_step(cid: Cid, _records: Any, said: Mapping[Cid, Any], *_: Any) -> frozenset[Cid]:
        value = said.get(cid)
        return frozenset(value.over if isinstance(value, Content) else ())

    patch.setattr(entry_view, "overwrites", one_step)


def anybody_purges(patch: pytest.MonkeyPatch) -> None:
    def purged(records: Mapping[Cid, Record], said: Mapping[Cid, Any]) -> dict[Cid, Cid]:
        found = [(cid, one.records) for cid, one in said.items() if isinstance(one, Purge)]
        return {cid: purge for purge, cids in found for cid in cids if cid in records}

    for module in (entry, entry_view, purging):
        patch.setattr(module, "purged_by", purged)


def a_late_copy_revives(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(entry, "purged_by", lambda _records, _said: {})


def the_erased_overwrite_nothing(patch: pytest.MonkeyPatch) -> None:
    honest = entry_view.overwrites
    patch.setattr(entry_view, "overwrites", lambda *args: honest(*args[:4]))


def the_last_description_wins(patch: pytest.MonkeyPatch) -> None:
    def newest(applied: Mapping[Cid, Record], *rest: Any) -> Any:
        return tuple((name, values[:1]) for name, values in registers.field_values(applied, *rest))

    patch.setattr(entry_view, "field_values", newest)


def clearing_wins(patch: pytest.MonkeyPatch) -> None:
    def cleared(applied: Mapping[Cid, Record], every: Mapping[Cid, Any], *rest: Any) -> Any:
        gone = {name for one in every.values() if isinstance(one, Describe) for name in one.clear}
        found = registers.field_values(applied, every, *rest)
        return tuple((name, values) for name, values in found if name not in gone)

    patch.setattr(entry_view, "field_values", cleared)


def an_erased_description_overwrites_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(registers, "purged_by", lambda _records, _said: {})


def one_field_overwrites_all(patch: pytest.MonkeyPatch) -> None:
    def every(value: Any) -> tuple[str, ...]:
        return ("title", "type") if isinstance(value, Describe) else ()

    patch.setattr(registers, "_touched", every)


def unlink_wins(patch: pytest.MonkeyPatch) -> None:
    def gone(said: Mapping[Cid, Any]) -> Any:
        removed = {one.reference for one in said.values() if isinstance(one, Unlink)}
        return tuple(pair for pair in observed_sets.reference_adds(said) if pair[0] not in removed)

    patch.setattr(entry_view, "reference_adds", gone)


def votes_for_others_are_its_own(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ballots, "_for_whom", lambda _: b"")


def an_erased_vote_is_skipped(patch: pytest.MonkeyPatch) -> None:
    honest = ballots._last

    def last(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any) -> Any:
        return honest({cid: one for cid, one in applied.items() if cid in said}, said, *rest)

    patch.setattr(ballots, "_last", last)


BUGS = (
    the_last_description_wins,
    clearing_wins,
    an_erased_description_overwrites_nothing,
    one_field_overwrites_all,
    unlink_wins,
    votes_for_others_are_its_own,
    an_erased_vote_is_skipped,
    first_copy_wins,
    sequence_number_is_identity,
    waiting_records_are_lost,
    arrival_order_shows,
    remove_wins,
    delete_wins,
    delete_forgets_the_past,
    delta_counts,
    compare_counts,
    fork_keeps_one_head,
    every_vote_counts,
    smallest_branch_votes,
    late_value_revives,
    untag_is_not_proven,
    excluded_values_still_overwrite,
    what_excluded_edits_replaced_comes_back,
    anybody_purges,
    a_late_copy_revives,
    the_erased_overwrite_nothing,
)


RARE: dict[str, tuple[Law, ...]] = {
    "an_erased_description_overwrites_nothing": (field_laws.an_erased_description_brings_nothing_back,),
    "anybody_purges": (laws.nobody_purges_another,),
    "an_erased_vote_is_skipped": (field_laws.an_erased_vote_revives_none,),
    "smallest_branch_votes": (laws.one_vote_an_agent,),
    "untag_is_not_proven": (laws.postings_are_the_views,),
    "excluded_values_still_overwrite": (laws.the_excluded_say_nothing,),
    "what_excluded_edits_replaced_comes_back": (
        laws.an_excluded_edit_brings_nothing_back_that_others_replaced,
    ),
}
"""Bugs that few histories show: only the law that is about them is tried, to save time."""


def broken_laws(tried: Sequence[Law] = laws.LAWS) -> set[str]:
    """Names of laws that some of the seeded histories break; stops at the first seed that breaks one."""
    for seed in range(SEEDS):
        broken = set()
        for law in tried:
            chance = Random(f"{seed} {law.__name__}")
            story = history(chance.randrange, 12)
            try:
                law(story, chance.randrange)
            except (AssertionError, LookupError, ValueError):
                broken.add(law.__name__)
        if broken:
            return broken
    return set()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_noticed(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    assert broken_laws(RARE.get(bug.__name__, laws.LAWS))


def test_without_a_bug_no_seed_breaks_a_law() -> None:
    """The control: what the planted bugs break is otherwise whole. `test_entry_laws` goes further."""
    for seed in range(SEEDS // 15):
        for law in laws.LAWS:
            chance = Random(f"{seed} {law.__name__}")
            law(history(chance.randrange, 12), chance.randrange)
