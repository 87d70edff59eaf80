"""Questions by words: rare ones reach the shard that has them, and no holder is believed about a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain import canonical
from dht.summaries import puller
from dht.summaries.block import Kind
from dht.summaries.messages import MAX_REPLY, Item, State
from dht.summaries.service import Source
from node.models import Answer, NewEntry, QueryOptions
from node.node import Node
from node.query.question import QueryError, mode_of
from node.query.scoring import Scores
from node.query.search_protocol import SearchRequest
from node.query.term_audits import COUNT_S, PAUSE_S
from node.query.trail import LIKELY
from node.storage.derived_state import Posting
from node.term_rows import TERMS
from sharding.bm25 import blended
from sharding.term_sketch import KEY_BYTES, RESERVED
from sharding.terms import term_id
from sharding.tree import Prefix
from tests.node.simulated_nodes import override, until
from tests.node.test_widening import within

GUEST = 4
RARE = "Badgers dig their setts beside the zorblax."
TEXTS = [
    *(f"Sort a list of {number} numbers in place." for number in range(30)),
    *(f"A recipe for soup with {number} leeks and potatoes." for number in range(30)),
    RARE,
]
QUESTION = "sort numbers by the zorblax"


async def asked(node: Node, mode: str | None, question: str = QUESTION, explain: bool = False) -> Answer:
    options = QueryOptions(mode=mode, explain=explain, cache=False)
    return await node.query(question, None, 5, (), None, options=options)


async def warmed(nodes: Sequence[Node]) -> None:
    """Until nodes 1 and the guest have the terms of all shards: the first question sends for them."""
    for node in (nodes[1], nodes[GUEST]):
        await asked(node, "hybrid")
    await trio.sleep(10)


def with_any(folder: Path, traces: Sequence[bytes]) -> list[str]:
    """The files that hold one of these."""
    files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
    return [one.name for one in files if any(trace in one.read_bytes() for trace in traces)]


def said(answer: Answer) -> list[str]:
    return [hit.text for hit in answer.hits]


def in_network(folder: Path, scenario: Callable[[Sequence[Node]], object]) -> None:
    within(folder, [NewEntry(text) for text in TEXTS], scenario)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_rare_word_is_found_where_the_vector_does_not_ask_and_no_holder_is_believed(tmp_path: Path) -> None:
    async def scenario(nodes: Sequence[Node]) -> None:
        guest = nodes[GUEST]
        await warmed(nodes)
        by_vector = await asked(guest, "vector", explain=True)
        assert by_vector.cost.shards_contacted < by_vector.cost.shards_total
        assert RARE not in said(by_vector)
        assert [hit.lexical for hit in by_vector.hits] == [None] * 5
        for mode in ("hybrid", "lexical"):
            answer = await asked(guest, mode, explain=True)
            (hit,) = [hit for hit in answer.hits if hit.text == RARE]
            assert hit.lexical is not None
            assert hit.score == (hit.lexical if mode == "lexical" else blended(hit.cosine, hit.lexical))
            assert answer.route is not None
            assert by_vector.route is not None
            (home,) = guest.parts.layouts.shards_of([(hit.record, guest.parts.intake.content(hit.record))])[0]
            assert home not in [one.shard for one in by_vector.route.shards if one.why == LIKELY]
            assert answer.cost.shards_contacted < answer.cost.shards_total
            assert answer.cost.hits_refused == 0
        assert said(answer)[0] == RARE
        assert "soup" not in "".join(said(answer)), "words alone find nothing without one of them"
        assert nodes[1].parts.derived.indexed
        # Whoever holds the text weighs and scores alike.
        own = await asked(nodes[1], "lexical")
        assert [(hit.id, hit.score) for hit in own.hits] == [(hit.id, hit.score) for hit in answer.hits]

        # A holder that claims another score by words loses the hit.

        def lies(node: Node) -> None:
            true = node.parts.holder.best

            def best(request: SearchRequest) -> list[tuple[Posting, Scores]]:
                return [
                    (posting, replace(scores, lexical=scores.lexical + 1) if is_rare(posting) else scores)
                    for posting, scores in true(request)
                    if scores.lexical is not None
                ]

            override(node.parts.holder, "best", best)

        def is_rare(posting: Posting) -> bool:
            return posting.entry == rare

        rare = answer.hits[0].id
        for node in nodes[:GUEST]:
            lies(node)
        answer = await guest.query(
            QUESTION, None, 6, (), None, options=QueryOptions(mode="lexical", cache=False)
        )
        assert RARE not in said(answer)
        assert len(answer.hits) >= 4
        assert answer.cost.hits_refused >= 1

    in_network(tmp_path, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["more", "none"])
def test_a_holder_that_lies_about_its_terms_is_found_out(
    tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In later copies, too: it was honest at first, so only what has changed is asked of it.

    Whom the guest has its few copies with terms of, it goes on asking: else chance may end the lie first.
    """
    monkeypatch.setattr(puller, "OTHER", 10**6)

    async def scenario(nodes: Sequence[Node]) -> None:
        guest = nodes[GUEST]
        await warmed(nodes)
        shelf = guest.parts.wording.puller.shelf
        told = Counter[bytes]()  # whose copies have terms: about others there is nothing to lie
        for holder, shards in shelf.holders().items():
            copies = [copy for shard in shards if (copy := shelf.copy(shard)) is not None]
            told[holder] = sum(len(copy.block) > RESERVED for copy in copies)
        agent = max(told, key=lambda one: (told[one], one))
        (liar,) = [node for node in nodes if node.agent == agent]
        true = liar.parts.summaries._sources[TERMS].rows

        def false(shard: Prefix, before: Mapping[bytes, bytes]) -> Mapping[bytes, bytes] | None:
            rows = dict(true(shard, {}) or {})
            for place, key in enumerate(sorted(rows)[RESERVED:]):
                if lie == "more":
                    rows[key] = rows[bytes(KEY_BYTES)]  # in all texts
                elif place % 2:
                    del rows[key]
            return rows

        liar.parts.summaries._sources[TERMS] = Source(TERMS, false)
        liar.parts.summaries.changed_all()

        async def is_found_out() -> bool:
            await asked(guest, "lexical")
            return guest.status().counters["term_lies_total"] > 0

        for _ in range(40):  # the holders take turns, and every other one of its is where there are texts
            if await is_found_out():
                break
            await trio.sleep(10)
        else:
            raise AssertionError("nobody noticed")
        assert agent not in guest.parts.wording.puller.shelf.holders()
        assert guest.kademlia.standing(agent).slowed
        assert not any(guest.kademlia.standing(one.agent).slowed for one in nodes[:GUEST] if one is not liar)
        audited = guest.status().counters["term_sketches_audited_total"]
        for _ in range(12):
            await asked(guest, "hybrid")
            await trio.sleep(10)
        assert guest.status().counters["term_sketches_audited_total"] > audited
        assert guest.status().counters["term_lies_total"] == 1
        assert said(await asked(guest, "lexical"))[0] == RARE

    in_network(tmp_path, scenario)


@pytest.mark.slow
def test_words_of_private_and_purged_entries_are_in_no_file_and_found_by_nobody_else(tmp_path: Path) -> None:
    word = term_id("zorblax")

    def traces() -> list[str]:
        return with_any(tmp_path, (f"{word:08x}".encode(), word.to_bytes(4, "little")))

    async def scenario(nodes: Sequence[Node]) -> None:
        (hit, *_) = (await asked(nodes[1], "lexical")).hits
        assert hit.text == RARE
        assert traces()
        await nodes[1].purge(hit.id)
        await until(lambda: not traces() and not any(node.parts.erasing.pending for node in nodes), 60, 0.5)
        for node in nodes:
            answer = await node.query("zorblax", None, 5, (), None, options=QueryOptions(mode="lexical"))
            assert answer.hits == ()

        # Private entries are found by their words too, by their owner alone.
        await nodes[1].private.add(NewEntry("The key lies under the quuxly stone."))
        (hit,) = (await asked(nodes[1], "lexical", "quuxly")).hits
        assert hit.private
        assert hit.score == hit.lexical
        hybrid = (await asked(nodes[1], "hybrid", "where is the quuxly key")).hits
        assert hybrid[0].private
        assert hybrid[0].score == blended(hybrid[0].cosine, hybrid[0].lexical or 0)
        assert (await asked(nodes[2], "lexical", "quuxly")).hits == ()
        assert not with_any(tmp_path, (b"quuxly", f"{term_id('quuxly'):08x}".encode()))

    in_network(tmp_path, scenario)


@pytest.mark.parametrize(
    ("mode", "text", "vector"),
    [
        (None, True, True),
        ("vector", True, True),
        (None, False, False),
        ("lexical", False, True),
        ("x", True, False),
    ],
)
def test_what_cannot_be_asked_is_refused(mode: str | None, text: bool, vector: bool) -> None:
    with pytest.raises(QueryError):
        mode_of(mode, text, vector)


def test_the_mode_decides_by_what_hits_are_ordered() -> None:
    assert Scores(400_000, 300_000).score == 350_000
    assert Scores(400_000, 300_000, True).score == 300_000
    assert Scores(400_000).score == 400_000


@pytest.mark.slow
def test_a_holder_that_trickles_its_sketches_keeps_no_others_from_being_audited(tmp_path: Path) -> None:
    """It takes nearly the 2 s that a request may take, and puts off what it is asked each time."""

    async def scenario(nodes: Sequence[Node]) -> None:
        guest = nodes[GUEST]
        await warmed(nodes)
        agent = min(guest.parts.wording.puller.shelf.holders())  # the one that is audited first
        (liar,) = [node for node in nodes if node.agent == agent]
        summaries = liar.parts.summaries
        answer, serve = summaries._answer, summaries._run_blocking

        def trickle(kind: Kind, items: Sequence[Item], here: Sequence[bool]) -> bytes:
            instance, told = canonical.decode(answer(kind, items, here), MAX_REPLY)
            return canonical.encode([instance, [[int(State.LATER)] for _ in told]])

        async def slowly(*work: object) -> object:
            await trio.sleep(1.5)
            return await serve(*work)  # type: ignore[arg-type]

        override(summaries, "_answer", trickle)
        override(summaries, "_run_blocking", slowly)
        began = trio.current_time()
        while not guest.status().counters["term_sketches_audited_total"]:
            assert trio.current_time() - began < COUNT_S + 3 * PAUSE_S
            await asked(guest, "lexical")
            await trio.sleep(5)
        assert not guest.status().counters["term_lies_total"]

    in_network(tmp_path, scenario)
