"""Bugs of states: joins, causes, forks, version vectors, purges and offenders, planted as in `view_bugs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.kinds import DELETE
from chain.record import Record
from crdt import ballots, causal, entry, entry_view, postings, purging, registers, version_vector
from crdt.entry import EntryState
from crdt.entry_view import Entry
from crdt.operations import Purge, Unlink, Untag
from crdt.purging import operations
from crdt.standing import CLEAR
from crdt.version_vector import VersionVector
from tests.crdt import hostile_laws, laws
from tests.crdt.planting import Bug, Patch, planted

STATE_BUGS: list[Bug] = []
caught_by = planted(STATE_BUGS)


@caught_by(laws.commutative)
def first_copy_wins(patch: Patch) -> None:
    patch.setattr(entry, "merge_copies", lambda a, _b: a)


@caught_by(laws.commutative)
def sequence_number_is_identity(patch: Patch) -> None:
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        taken = {(r.header.author, r.header.subject_seq): r.cid for r in state.applied.values()}
        place = [(record, (record.header.author, record.header.subject_seq)) for record in records]
        return honest(state, [r for r, key in place if taken.setdefault(key, r.cid) == r.cid])

    patch.setattr(EntryState, "add_all", add_all)


@caught_by(laws.order_never_shows)
def waiting_records_are_lost(patch: Patch) -> None:
    honest = causal.release

    def release(applied: dict[Cid, Record], waiting: dict[Cid, Record]) -> None:
        honest(applied, waiting)
        waiting.clear()

    patch.setattr(entry, "release", release)


@caught_by(laws.deltas_are_enough)
def delta_counts(patch: Patch) -> None:
    def delta(state: EntryState, since: VersionVector, payloads: Iterable[Cid] = ()) -> tuple[Record, ...]:
        high = {author: slots[-1].seq for author, slots in since.authors}
        wanted, records = set(payloads), [*state.applied.values(), *state.waiting.values()]
        return tuple(
            r for r in records if r.cid in wanted or r.header.subject_seq > high.get(r.header.author, -1)
        )

    patch.setattr(EntryState, "delta", delta)


@caught_by(laws.order_is_inclusion)
def compare_counts(patch: Patch) -> None:
    def within(a: VersionVector, b: VersionVector, _lineage: object) -> bool:
        high = {author: slots[-1].seq for author, slots in b.authors}
        return all(slots[-1].seq <= high.get(author, -1) for author, slots in a.authors)

    patch.setattr(version_vector, "_within", within)


@caught_by(laws.order_is_inclusion)
def fork_keeps_one_head(patch: Patch) -> None:
    honest = version_vector._antichain
    patch.setattr(version_vector, "_antichain", lambda slots: honest(slots)[-1:])


@caught_by(laws.what_ended_stays_ended)
def late_value_revives(patch: Patch) -> None:
    def newest_only(
        records: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any
    ) -> tuple[Cid, ...]:
        high = max((records[cid].header.lamport for cid in said if hasattr(said[cid], "over")), default=0)
        return tuple(
            cid for cid in sorted(said) if hasattr(said[cid], "over") and records[cid].header.lamport == high
        )

    patch.setattr(postings, "maximal_values", newest_only)


@caught_by(laws.postings_are_the_views)
def untag_is_not_proven(patch: Patch) -> None:
    honest = postings.proofs

    def adds_only(
        value: Cid, tags: Any, wanted: Any, records: Mapping[Cid, Record], standing: Any
    ) -> list[Cid]:
        chosen = honest(value, tags, wanted, records, standing)
        return [cid for cid in chosen if records[cid].header.kind != "entry.untag"]

    patch.setattr(laws, "proofs", adds_only)


@caught_by(laws.the_excluded_say_nothing)
def excluded_values_still_overwrite(patch: Patch) -> None:
    honest = entry_view.maximal_values

    def maximal(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any) -> tuple[Cid, ...]:
        return tuple(cid for cid in honest(applied, said) if standing.counts(applied[cid]))

    patch.setattr(entry_view, "maximal_values", maximal)


@caught_by(laws.an_excluded_edit_brings_nothing_back_that_others_replaced)
def what_excluded_edits_replaced_comes_back(patch: Patch) -> None:
    def one_step(cids: Iterable[Cid], _records: Any, said: Mapping[Cid, Any], *_: Any) -> set[Cid]:
        return {over for cid in cids if isinstance(one := said.get(cid), Content) for over in one.over}

    patch.setattr(entry_view, "overwrites", one_step)


@caught_by(laws.nobody_purges_another)
def anybody_purges(patch: Patch) -> None:
    def purged(records: Mapping[Cid, Record], said: Mapping[Cid, Any]) -> dict[Cid, Cid]:
        found = [(cid, one.records) for cid, one in said.items() if isinstance(one, Purge)]
        return {cid: purge for purge, cids in found for cid in cids if cid in records}

    for module in (entry, entry_view, purging):
        patch.setattr(module, "purged_by", purged)


@caught_by(laws.purge_is_final)
def a_late_copy_revives(patch: Patch) -> None:
    patch.setattr(entry, "purged_by", lambda _records, _said: {})


@caught_by(laws.purge_is_final)
def the_erased_overwrite_nothing(patch: Patch) -> None:
    honest = entry_view.overwrites
    patch.setattr(entry_view, "overwrites", lambda *args: honest(*args[:4]))


@caught_by(laws.order_never_shows)
def arrival_order_shows(patch: Patch) -> None:
    honest = entry_view._heads

    def heads(applied: Mapping[Cid, Record]) -> tuple[Cid, ...]:
        ends = set(honest(applied))
        return tuple(cid for cid in applied if cid in ends)

    patch.setattr(entry_view, "_heads", heads)


@caught_by(laws.order_is_inclusion)
def newer_if_any_component_is_larger(patch: Patch) -> None:
    def within(a: VersionVector, b: VersionVector, _lineage: object) -> bool:
        """`a` is not newer, or `b` is larger somewhere, which is enough."""
        mine, theirs = ({author: slots[-1].seq for author, slots in one.authors} for one in (a, b))
        return a == b or any(seq > mine.get(author, -1) for author, seq in theirs.items())

    patch.setattr(version_vector, "_within", within)


@caught_by(laws.vectors_are_a_lattice)
def joined_vectors_keep_mine(patch: Patch) -> None:
    def join(a: VersionVector, b: VersionVector) -> VersionVector:
        return VersionVector(tuple(sorted({**dict(b.authors), **dict(a.authors)}.items())))

    patch.setattr(laws, "join", join)


@caught_by(laws.vectors_are_a_lattice)
def a_delta_of_vectors_is_of_heads(patch: Patch) -> None:
    def delta(have: VersionVector, since: VersionVector) -> tuple[Cid, ...]:
        known = since.cids()
        return tuple(slot.cid for _, slots in have.authors for slot in slots if slot.cid not in known)

    patch.setattr(laws, "delta", delta)


@caught_by(laws.deltas_are_enough)
def a_delta_forgets_who_waits(patch: Patch) -> None:
    honest = EntryState.delta

    def delta(state: EntryState, *arguments: Any) -> tuple[Record, ...]:
        return tuple(record for record in honest(state, *arguments) if record.cid in state.applied)

    patch.setattr(EntryState, "delta", delta)


@caught_by(laws.commutative, laws.inflationary)
def no_tombstones(patch: Patch) -> None:
    """What removes is done and forgotten, together with what it removed: a late copy brings that back."""
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        after = honest(state, records)
        said = operations(after.applied)
        gone: set[Cid] = set()
        for cid, one in said.items():
            if isinstance(one, Untag | Unlink):
                gone |= {cid, *(add for add in one.adds if add != state.subject)}
        applied = {cid: record for cid, record in after.applied.items() if cid not in gone}
        return replace(after, applied=applied)

    patch.setattr(EntryState, "add_all", add_all)


@caught_by(laws.order_never_shows)
def late_create_resurrects(patch: Patch) -> None:
    """A delete that comes before the create finds nothing to delete, and is done."""
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        after = honest(state, records)
        if state.subject in after.applied:
            return after
        kept = {cid: record for cid, record in after.waiting.items() if record.header.kind != DELETE}
        return replace(after, waiting=kept)

    patch.setattr(EntryState, "add_all", add_all)


@caught_by(hostile_laws.forged_places_change_nothing)
def nothing_is_waited_for(patch: Patch) -> None:
    """What comes is applied, whether or not what it builds on has come."""

    def release(applied: dict[Cid, Record], waiting: dict[Cid, Record]) -> None:
        applied.update(waiting)
        waiting.clear()

    patch.setattr(entry, "release", release)


@caught_by(hostile_laws.forged_places_change_nothing)
def any_place_on_a_line_is_believed(patch: Patch) -> None:
    patch.setattr(causal, "_follows", lambda *_: True)


@caught_by(hostile_laws.the_waiting_room_is_bounded)
def the_waiting_room_is_endless(patch: Patch) -> None:
    patch.setattr(entry, "_shrink", lambda _: ())


@caught_by(hostile_laws.the_waiting_room_is_bounded)
def who_came_first_waits(patch: Patch) -> None:
    """A full waiting room refuses whoever comes, however close they are to being applied."""

    def shrink(waiting: dict[Cid, Record]) -> tuple[Cid, ...]:
        dropped: list[Cid] = []
        authors: list[AgentId] = []
        for cid, record in list(waiting.items()):
            author = record.header.author
            if len(authors) == entry.MAX_WAITING or authors.count(author) == entry.MAX_WAITING_PER_AUTHOR:
                del waiting[cid]
                dropped.append(cid)
            else:
                authors.append(author)
        return tuple(sorted(dropped))

    patch.setattr(entry, "_shrink", shrink)


@caught_by(hostile_laws.the_waiting_room_is_bounded)
def a_liar_fills_the_room_for_all(patch: Patch) -> None:
    """The room is one for all, none has a share."""

    def shrink(waiting: dict[Cid, Record]) -> tuple[Cid, ...]:
        order = sorted(waiting, key=lambda cid: (waiting[cid].header.lamport, cid))
        for cid in order[entry.MAX_WAITING :]:
            del waiting[cid]
        return tuple(sorted(order[entry.MAX_WAITING :]))

    patch.setattr(entry, "_shrink", shrink)


@caught_by(hostile_laws.forks_stand_side_by_side)
def the_first_branch_is_the_line(patch: Patch) -> None:
    """A second record at a place that is taken is refused."""
    honest = causal._follows

    def follows(record: Record, applied: Mapping[Cid, Record]) -> bool:
        place = (record.header.author, record.header.subject_seq)
        taken = {(one.header.author, one.header.subject_seq) for one in applied.values()}
        return honest(record, applied) and place not in taken

    patch.setattr(causal, "_follows", follows)


@caught_by(laws.purge_is_final, laws.inflationary)
def a_purge_removes_the_header(patch: Patch) -> None:
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        after = honest(state, records)
        gone = purging.purged_by(after.applied, purging.purges_in(after.applied))
        return replace(after, applied={c: r for c, r in after.applied.items() if c not in gone})

    patch.setattr(EntryState, "add_all", add_all)


@caught_by(laws.purge_is_final, laws.nobody_purges_another)
def a_purge_reaches_only_what_is_there(patch: Patch) -> None:
    """A record that comes after its purge keeps its payload."""
    honest = EntryState.add_all

    def add_all(state: EntryState, records: Iterable[Record]) -> EntryState:
        known = list(records)
        purged = purging.purged_by(state.applied, purging.purges_in(state.applied))
        after = honest(state, known)
        late = {one.cid: one for one in known if one.payload and one.cid not in purged}
        back = {cid: late[cid] for cid in after.applied if cid in late and cid not in state.applied}
        return replace(after, applied={**after.applied, **back})

    patch.setattr(EntryState, "add_all", add_all)


@caught_by(laws.the_excluded_say_nothing)
def the_excluded_still_vote(patch: Patch) -> None:
    honest = ballots.ballots
    patch.setattr(entry_view, "ballots", lambda applied, said, standing: honest(applied, operations(applied)))


@caught_by(laws.the_excluded_say_nothing)
def the_excluded_still_delete(patch: Patch) -> None:
    honest = entry_view.killed_by
    patch.setattr(entry_view, "killed_by", lambda applied, said, standing: honest(applied, said))


@caught_by(laws.the_excluded_say_nothing)
def what_the_excluded_wrote_is_gone(patch: Patch) -> None:
    """Their records are dropped, and with them all that was built on them."""
    honest = entry_view.view_of

    def view_of(subject: Cid, applied: Mapping[Cid, Record], standing: Any = CLEAR) -> Entry | None:
        counting = [record for record in applied.values() if standing.counts(record)]
        return honest(subject, EntryState(subject).add_all(counting).applied, standing)

    patch.setattr(entry, "view_of", view_of)


@caught_by(laws.deltas_are_enough, laws.inflationary)
def a_bare_copy_replaces_the_whole(patch: Patch) -> None:
    """Of two copies the one that came last: a header alone erases the payload."""
    honest = causal.merge_copies

    def merged(a: Record, b: Record) -> Record:
        whole = honest(a, b)
        return whole.without_payload() if b.payload is None else whole

    patch.setattr(entry, "merge_copies", merged)


@caught_by(laws.inflationary)
def what_was_joined_is_what_both_have(patch: Patch) -> None:
    def join(a: EntryState, b: EntryState) -> EntryState:
        return EntryState(a.subject).add_all(a.applied[cid] for cid in a.applied if cid in b.applied)

    patch.setattr(EntryState, "join", join)


@caught_by(laws.the_excluded_say_nothing)
def the_excluded_still_describe(patch: Patch) -> None:
    honest = registers.field_values
    patch.setattr(entry_view, "field_values", lambda applied, every, standing: honest(applied, every))


@caught_by(laws.nobody_purges_another)
def a_purge_ends_at_what_is_not_its_own(patch: Patch) -> None:
    """It names records in the order of their CIDs; one of another's among them, and the rest is left."""
    honest = purging.purged_by

    def purged(records: Mapping[Cid, Record], said: Mapping[Cid, Any]) -> dict[Cid, Cid]:
        kept = dict(said)
        for cid, one in said.items():
            if isinstance(one, Purge):
                author = records[cid].header.author
                foreign = [
                    n
                    for n, target in enumerate(one.records)
                    if target not in records or records[target].header.author != author
                ]
                kept[cid] = Purge(one.records[: foreign[0]]) if foreign else one
        return honest(records, kept)

    for module in (entry, entry_view, purging):
        patch.setattr(module, "purged_by", purged)
