"""Bugs of views: wrong merges of texts, fields, tags, references, votes and assessments.

Each is planted by changing what one function of `crdt` is, and names the laws that have to notice it.
`tests/crdt/state_bugs.py` has those of states, vectors, purges and standing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from chain.cid import Cid
from chain.content import Content
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, RETRACT, VOTE
from chain.record import Record
from crdt import ballots, conflicts, entry, entry_view, observed_sets, registers
from crdt.ballots import Assessment, Ballot
from crdt.causal import parents, past
from crdt.entry_view import Entry
from crdt.observed_sets import tag_adds as _tag_adds
from crdt.operations import Assess, Describe, Tag, Unlink, Untag, Vote
from crdt.standing import CLEAR
from crdt.trust import VOTE as ONE
from tests.crdt import field_laws, hostile_laws, laws
from tests.crdt.planting import Bug, Patch, planted

VIEW_BUGS: list[Bug] = []
caught_by = planted(VIEW_BUGS)


@caught_by(laws.add_wins)
def remove_wins(patch: Patch) -> None:
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


@caught_by(laws.edit_wins)
def delete_wins(patch: Patch) -> None:
    def killed(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any) -> set[Cid]:
        return set(applied) if any(applied[cid].header.kind == "entry.delete" for cid in said) else set()

    patch.setattr(entry_view, "killed_by", killed)


@caught_by(laws.delete_kills)
def delete_forgets_the_past(patch: Patch) -> None:
    def killed(_applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _standing: Any) -> set[Cid]:
        return {cid for value in said.values() if hasattr(value, "seen") for cid in value.seen}

    patch.setattr(entry_view, "killed_by", killed)


@caught_by(laws.one_vote_an_agent)
def every_vote_counts(patch: Patch) -> None:
    def votes(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any) -> tuple[Ballot, ...]:
        found = [(applied[cid].header.author, cid) for cid in sorted(said) if isinstance(said[cid], Vote)]
        return tuple(Ballot(agent, cid, said[cid]) for agent, cid in sorted(found) if said[cid].value)

    patch.setattr(entry_view, "ballots", votes)


@caught_by(laws.one_vote_an_agent)
def smallest_branch_votes(patch: Patch) -> None:
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


@caught_by(field_laws.concurrent_descriptions_are_kept)
def the_last_description_wins(patch: Patch) -> None:
    def newest(applied: Mapping[Cid, Record], *rest: Any) -> Any:
        return tuple((name, values[:1]) for name, values in registers.field_values(applied, *rest))

    patch.setattr(entry_view, "field_values", newest)


@caught_by(field_laws.a_value_survives_a_concurrent_clearing)
def clearing_wins(patch: Patch) -> None:
    def cleared(applied: Mapping[Cid, Record], every: Mapping[Cid, Any], *rest: Any) -> Any:
        gone = {name for one in every.values() if isinstance(one, Describe) for name in one.clear}
        found = registers.field_values(applied, every, *rest)
        return tuple((name, values) for name, values in found if name not in gone)

    patch.setattr(entry_view, "field_values", cleared)


@caught_by(field_laws.an_erased_description_brings_nothing_back)
def an_erased_description_overwrites_nothing(patch: Patch) -> None:
    patch.setattr(registers, "purged_by", lambda _records, _said: {})


@caught_by(field_laws.concurrent_descriptions_are_kept)
def one_field_overwrites_all(patch: Patch) -> None:
    def every(value: Any) -> tuple[str, ...]:
        return ("title", "type") if isinstance(value, Describe) else ()

    patch.setattr(registers, "_touched", every)


@caught_by(field_laws.an_added_reference_wins)
def unlink_wins(patch: Patch) -> None:
    def gone(said: Mapping[Cid, Any]) -> Any:
        removed = {one.reference for one in said.values() if isinstance(one, Unlink)}
        return tuple(pair for pair in observed_sets.reference_adds(said) if pair[0] not in removed)

    patch.setattr(entry_view, "reference_adds", gone)


@caught_by(field_laws.votes_for_others_stand_beside)
def votes_for_others_are_its_own(patch: Patch) -> None:
    patch.setattr(ballots, "_for_whom", lambda _: b"")


@caught_by(field_laws.an_erased_vote_revives_none)
def an_erased_vote_is_skipped(patch: Patch) -> None:
    honest = ballots._last

    def last(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any) -> Any:
        return honest({cid: one for cid, one in applied.items() if cid in said}, said, *rest)

    patch.setattr(ballots, "_last", last)


@caught_by(hostile_laws.a_greatest_clock_hides_nothing)
def wall_clock_wins(patch: Patch) -> None:
    """Last writer wins: of all content records the one with the greatest clock."""

    def newest(applied: Mapping[Cid, Record], said: Any, standing: Any = CLEAR) -> tuple[Cid, ...]:
        contents = [
            cid
            for cid, record in applied.items()
            if record.header.kind in CARRIES_CONTENT and standing.counts(record)
        ]
        return (max(contents, key=lambda cid: (applied[cid].header.hlc, cid)),) if contents else ()

    patch.setattr(entry_view, "maximal_values", newest)


@caught_by(hostile_laws.forks_stand_side_by_side)
def the_deepest_edit_wins(patch: Patch) -> None:
    """Of concurrent values only that with the greatest lamport is kept."""
    honest = entry_view.maximal_values

    def deepest(applied: Mapping[Cid, Record], *rest: Any) -> tuple[Cid, ...]:
        kept = honest(applied, *rest)
        return kept and (max(kept, key=lambda cid: (applied[cid].header.lamport, cid)),)

    patch.setattr(entry_view, "maximal_values", deepest)


@caught_by(laws.order_never_shows)
def ties_keep_mine(patch: Patch) -> None:
    """Of values with equal clocks the one that came first is shown, so each replica shows its own."""
    honest = entry_view.view_of

    def view_of(subject: Cid, applied: Mapping[Cid, Record], *rest: Any) -> Entry | None:
        view = honest(subject, applied, *rest)
        if view is None:
            return None
        came = {cid: place for place, cid in enumerate(applied)}
        shown = sorted(view.contents, key=lambda pair: (-applied[pair[0]].header.hlc, came[pair[0]]))
        return replace(view, contents=tuple(shown), winner=shown[0][0] if shown else None)

    patch.setattr(entry, "view_of", view_of)


@caught_by(field_laws.the_last_assessment_counts)
def pairwise_mean_of_confidence(patch: Patch) -> None:
    """What an agent says replaces nothing: it is averaged with what there is, one after the other."""

    def averaged(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _: Any) -> tuple[Assessment, ...]:
        mean: dict[AgentId, Assessment] = {}
        for cid in applied:
            if isinstance(one := said.get(cid), Assess):
                agent = applied[cid].header.author
                before = mean[agent].confidence if agent in mean else one.confidence
                mean[agent] = Assessment(agent, cid, (before + one.confidence) // 2)
        return tuple(mean[agent] for agent in sorted(mean))

    patch.setattr(entry_view, "assessments", averaged)


@caught_by(hostile_laws.trust_does_not_hang_on_order)
def pairwise_mean_of_everybody(patch: Patch) -> None:
    """One confidence of the entry, the mean of what it was and of what comes."""
    honest = entry_view.view_of

    def view_of(subject: Cid, applied: Mapping[Cid, Record], *rest: Any) -> Entry | None:
        view = honest(subject, applied, *rest)
        if view is None or not view.assessments:
            return view
        came = {cid: place for place, cid in enumerate(applied)}
        mean = 0
        for one in sorted(view.assessments, key=lambda one: came[one.record]):
            mean = (mean + one.confidence * ONE) // 2
        return replace(view, assessments=(replace(view.assessments[0], confidence=min(mean, ONE)),))

    patch.setattr(entry, "view_of", view_of)


@caught_by(laws.retract_is_final)
def an_edit_undoes_a_retract(patch: Patch) -> None:
    """A retract counts as long as nothing is beside or after it."""

    def is_retracted(creator: AgentId, records: Iterable[Record], standing: Any = CLEAR) -> bool:
        known = {one.cid: one for one in records}
        heads = entry_view._heads(known)
        return any(known[cid].header.kind == RETRACT for cid in heads) and len(heads) == 1

    patch.setattr(entry_view, "is_retracted", is_retracted)


@caught_by(hostile_laws.only_the_creator_retracts)
def anybody_retracts(patch: Patch) -> None:
    def is_retracted(_: AgentId, records: Iterable[Record], standing: Any = CLEAR) -> bool:
        return any(one.header.kind == RETRACT and standing.counts(one) for one in records)

    patch.setattr(entry_view, "is_retracted", is_retracted)


@caught_by(laws.delete_kills)
def no_edit_revives(patch: Patch) -> None:
    """What was deleted once stays so, whoever writes after having seen that."""
    honest = entry_view.killed_by

    def killed(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], standing: Any = CLEAR) -> set[Cid]:
        known = honest(applied, said, standing)
        later = {cid for cid in applied if known & past(parents(applied[cid]), applied)}
        return known | later

    patch.setattr(entry_view, "killed_by", killed)


@caught_by(field_laws.concurrent_resolutions_are_a_conflict)
def a_resolution_beats_what_it_never_saw(patch: Patch) -> None:
    honest = entry_view.maximal_values

    def maximal(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any) -> tuple[Cid, ...]:
        kept = honest(applied, said, *rest)
        ends = tuple(cid for cid in kept if getattr(said.get(cid), "resolution", None) is not None)
        return ends or kept

    patch.setattr(entry_view, "maximal_values", maximal)


@caught_by(field_laws.concurrent_resolutions_are_a_conflict)
def the_first_resolution_stands(patch: Patch) -> None:
    """Of several that end one conflict the one with the smallest CID; the others say nothing."""
    honest = entry_view.maximal_values

    def maximal(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any) -> tuple[Cid, ...]:
        kept = honest(applied, said, *rest)
        ends = [cid for cid in kept if getattr(said.get(cid), "resolution", None) is not None]
        return tuple(cid for cid in kept if cid not in ends[1:])

    patch.setattr(entry_view, "maximal_values", maximal)


@caught_by(field_laws.a_rejection_leaves_the_others)
def a_rejection_takes_all(patch: Patch) -> None:
    honest = entry_view.overwrites

    def overwrites(
        cids: Iterable[Cid], records: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any
    ) -> Any:
        ends = ((cid, getattr(said.get(cid), "resolution", None)) for cid in cids)
        rejecting = [cid for cid, end in ends if end is not None and end.decision == "reject"]
        seen = past((parent for cid in rejecting for parent in parents(records[cid])), records)
        return honest(cids, records, said, *rest) | seen

    patch.setattr(entry_view, "overwrites", overwrites)


@caught_by(field_laws.a_value_survives_a_concurrent_clearing)
def clearing_writes_a_value(patch: Patch) -> None:
    """A cleared field is one whose value is empty: it stands beside a concurrent value."""

    def cleared(applied: Mapping[Cid, Record], every: Mapping[Cid, Any], standing: Any = CLEAR) -> Any:
        found = dict(registers.field_values(applied, every, standing))
        for cid, one in every.items():
            for name in one.clear if isinstance(one, Describe) else ():
                found[name] = (*found.get(name, ()), (cid, ""))
        return tuple(sorted(found.items()))

    patch.setattr(entry_view, "field_values", cleared)


@caught_by(laws.order_never_shows)
def fields_keep_the_order_of_coming(patch: Patch) -> None:
    def came(applied: Mapping[Cid, Record], *rest: Any) -> Any:
        place = {cid: number for number, cid in enumerate(applied)}
        return tuple(
            (name, tuple(sorted(values, key=lambda pair: place[pair[0]])))
            for name, values in registers.field_values(applied, *rest)
        )

    patch.setattr(entry_view, "field_values", came)


@caught_by(field_laws.an_added_reference_wins)
def a_link_is_for_good(patch: Patch) -> None:
    patch.setattr(
        entry_view,
        "reference_adds",
        lambda said: observed_sets.reference_adds(
            {cid: one for cid, one in said.items() if not isinstance(one, Unlink)}
        ),
    )


@caught_by(laws.postings_are_the_views)
def a_new_text_takes_the_old_ones_tags(patch: Patch) -> None:
    """Tags belong to the value: those that a replaced text gave go with it."""

    def tag_adds(said: Mapping[Cid, Any]) -> Any:
        over = {target for one in said.values() if isinstance(one, Content) for target in one.over}
        adds = ((tag, tuple(cid for cid in cids if cid not in over)) for tag, cids in _tag_adds(said))
        return tuple((tag, cids) for tag, cids in adds if cids)

    patch.setattr(entry_view, "tag_adds", tag_adds)


@caught_by(field_laws.votes_for_others_stand_beside)
def who_was_voted_for_votes_once(patch: Patch) -> None:
    """Of all who pass on a vote for one name only the first is heard."""
    honest = ballots.ballots

    def once(*arguments: Any) -> tuple[Ballot, ...]:
        heard: dict[Any, Ballot] = {}
        for one in honest(*arguments):
            heard.setdefault(one.vote.behalf or one.agent, one)
        return tuple(heard.values())

    patch.setattr(entry_view, "ballots", once)


@caught_by(field_laws.the_newest_signed_vote_counts)
def who_brings_a_signed_vote_decides(patch: Patch) -> None:
    """Times are not looked at: of a key's votes the one that the smallest agent brings counts."""
    patch.setattr(ballots, "_rank", lambda vote: ())


@caught_by(field_laws.the_newest_signed_vote_counts)
def a_vote_is_known_by_who_brings_it(patch: Patch) -> None:
    """A signed vote counts as its bearer's last one for that key, as those without a time do."""
    patch.setattr(ballots, "is_timed", lambda vote: False)


@caught_by(laws.one_vote_an_agent)
def a_vote_taken_back_is_a_vote(patch: Patch) -> None:
    """A withdrawn vote leaves the one before it standing."""
    honest = ballots._last

    def last(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], *rest: Any) -> Any:
        kept = {cid: one for cid, one in applied.items() if getattr(said.get(cid), "value", 1) != 0}
        return honest(kept, said, *rest)

    patch.setattr(ballots, "_last", last)


@caught_by(field_laws.the_last_assessment_counts)
def the_surest_assessment_counts(patch: Patch) -> None:
    def surest(applied: Mapping[Cid, Record], said: Mapping[Cid, Any], _: Any) -> tuple[Assessment, ...]:
        best: dict[AgentId, Assessment] = {}
        for cid in sorted(said):
            if isinstance(one := said[cid], Assess):
                agent = applied[cid].header.author
                if agent not in best or one.confidence > best[agent].confidence:
                    best[agent] = Assessment(agent, cid, one.confidence)
        return tuple(best[agent] for agent in sorted(best))

    patch.setattr(entry_view, "assessments", surest)


@caught_by(field_laws.conflicts_are_told_alike)
def sides_are_told_as_they_came(patch: Patch) -> None:
    honest = conflicts._conflict

    def told(about: str, cids: Sequence[Cid], applied: Mapping[Cid, Record]) -> Any:
        place = {cid: number for number, cid in enumerate(applied)}
        return honest(about, sorted(cids, key=place.__getitem__), applied)

    patch.setattr(conflicts, "_conflict", told)


@caught_by(field_laws.conflicts_are_told_alike)
def a_conflict_of_fields_is_none(patch: Patch) -> None:
    honest = conflicts.conflicts_of
    patch.setattr(
        field_laws,
        "conflicts_of",
        lambda *args: tuple(one for one in honest(*args) if one.about in (conflicts.TEXT, conflicts.DELETED)),
    )
