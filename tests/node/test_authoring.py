"""Drafting entries: a bad one is rejected by itself, and the network's own limits hold before signing."""

from __future__ import annotations

from dataclasses import replace

from chain.behalf import Behalf, content_statement, vote_statement
from chain.cid import raw_cid
from chain.content import Content, Resolution
from chain.identity import Identity
from chain.kinds import FIELDS_FROM, SIGNED_AT_FROM
from chain.manifest import MIN_PAYLOAD_LIMIT, Limits
from chain.record import SALT_SIZE, decode_payload, encode_payload
from chain.source_chain import next_record
from crdt.drafts import draft_create, draft_resolution, draft_vote
from crdt.entry import fold
from node.authoring import draft_entries, refusal
from node.embedding.caller import CallerVectors
from node.embedding.static import StaticEmbedder
from node.models import NewEntry

BUILT_IN = StaticEmbedder()
NETWORK = raw_cid(b"a network")


def test_a_bad_entry_is_rejected_by_itself_and_the_order_is_kept() -> None:
    entries = [
        NewEntry("Bees dance."),
        NewEntry("???"),
        NewEntry("Wasps build.", vector=[1.0, 2.0]),
        NewEntry("", tags=("empty",)),
        NewEntry("Badgers dig.", tags=("b", "a", "b")),
    ]
    drafted = draft_entries(BUILT_IN, Limits(), entries)
    assert drafted.places == [0, 4]
    assert [draft.body["text"] for draft in drafted.drafts] == ["Bees dance.", "Badgers dig."]
    assert drafted.drafts[1].body["tags"] == ["a", "b"]
    assert sorted(one.index for one in drafted.rejected) == [1, 2, 3]


def test_the_networks_own_limits_hold_before_anything_is_signed() -> None:
    limits = Limits(text=12, tags=1)
    entries = [
        NewEntry("Bees dance."),
        NewEntry("Bees dance for each other."),
        NewEntry("Bees dance.", tags=("a", "b")),
    ]
    drafted = draft_entries(BUILT_IN, limits, entries)
    assert drafted.places == [0]
    assert ["limit is" in one.reason for one in drafted.rejected] == [True, True]


def test_an_entry_beyond_the_networks_payload_is_rejected_and_not_signed() -> None:
    """Such a record breaks a rule that anybody can prove, so it would exclude its author."""
    limits = Limits(payload=MIN_PAYLOAD_LIMIT)
    (draft,) = draft_entries(BUILT_IN, limits, [NewEntry("a")]).drafts
    size = len(encode_payload(bytes(SALT_SIZE), draft.body))
    fits = "bees " * ((MIN_PAYLOAD_LIMIT - size - 8) // 5)
    entries = [NewEntry(fits), NewEntry(fits + "x" * 16), NewEntry("a", citations=("c" * 1000,) * 9)]
    drafted = draft_entries(BUILT_IN, limits, entries)
    assert drafted.places == [0]
    assert ["limit is 8192" in one.reason for one in drafted.rejected] == [True, True]


def test_what_would_break_a_rule_of_the_network_is_rejected_and_not_signed() -> None:
    """Fields before the rules that know them, and a signature of another system that is not its own."""
    other = Identity.from_seed(bytes(32))
    signed = other.sign(content_statement("other", "a"))
    passed_on = Behalf("other", other.agent, signed)
    entries = [NewEntry("a"), NewEntry("a", fields=(("title", "A"),)), NewEntry("a", behalf=passed_on)]
    assert draft_entries(BUILT_IN, Limits(), entries).places == [0, 1, 2]
    older = draft_entries(BUILT_IN, Limits(), entries, FIELDS_FROM - 1)
    assert [one.reason for one in older.rejected] == [
        "this network's rules (version 4) do not know title",
        "this network's rules (version 4) do not know behalf",
    ]
    (forged,) = draft_entries(BUILT_IN, Limits(), [NewEntry("b", behalf=passed_on)]).rejected
    assert "has another signature" in forged.reason


def test_callers_vectors_are_quantised_and_texts_alone_are_refused() -> None:
    embedder = CallerVectors("mine", 3)
    drafted = draft_entries(embedder, Limits(), [NewEntry("a", vector=[0, 0, 2.0]), NewEntry("b")])
    assert drafted.places == [0]
    assert decode_payload(encode_payload(bytes(16), drafted.drafts[0].body))["codes"] == bytes([0, 0, 127])
    assert [one.index for one in drafted.rejected] == [1]


def test_an_edit_beyond_the_networks_limits_is_not_signed_whichever_verb_drafted_it() -> None:
    """A resolution merges to a text of its own, and what it comes from may have what no edit may have."""
    author = Identity.from_seed(bytes(32))
    create = next_record(author, NETWORK, NETWORK, None, draft_create(Content("a", b"\x7f")), 1, bytes(16))
    view = fold([create])
    assert view is not None
    merge = draft_resolution(view, author.agent, Resolution("merge", "both"), Content("a" * 13, b"\x7f"))
    assert "limit is 12" in (refusal(merge, Limits(text=12), FIELDS_FROM) or "")
    assert refusal(merge, Limits(text=13), FIELDS_FROM) is None
    titled = replace(merge, body={**merge.body, "title": "A"})
    assert "has the field 'title'" in (refusal(titled, Limits(), FIELDS_FROM) or "")


def test_a_signed_vote_is_signed_with_its_time_as_the_networks_rules_want_it() -> None:
    author, voter = (Identity.from_seed(bytes([number] * 32)) for number in range(2))
    create = next_record(author, NETWORK, NETWORK, None, draft_create(Content("a", b"\x7f")), 1, bytes(16))
    view = fold([create])
    assert view is not None
    faults: dict[tuple[int | None, int], str | None] = {}
    for signed_ms in (None, 5):
        signature = voter.sign(vote_statement("b", create.cid, 1, None, None, signed_ms))
        behalf = Behalf("b", voter.agent, signature, signed_ms)
        vote = draft_vote(view, author.agent, 1, behalf=behalf)
        for rules in (SIGNED_AT_FROM - 1, SIGNED_AT_FROM):
            faults[signed_ms, rules] = refusal(vote, Limits(), rules)
    assert faults == {
        (None, 6): None,
        (None, 7): "in rule version 7 a signed vote has signed_ms",
        (5, 6): "rule version 6 knows no field 'signed_ms'",
        (5, 7): None,
    }
