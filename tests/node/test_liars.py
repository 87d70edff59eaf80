"""Liars: whole nodes that deviate in one thing. Nothing they say is believed, shown or served.

Promise P1: each hit is checked by the asker on the signed record that it comes with. Where an honest replica
exists, the answer is the one that honest nodes alone would give; the liar is found out, counted, and ignored
when it goes on. What cannot be found out, a holder that conceals its postings, is stated by a test as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from chain import canonical
from chain.cid import Cid, digest, raw_cid
from chain.identity import AgentId
from chain.manifest import Manifest
from chain.record import Record, decode_payload, decode_record, encode_payload
from dht.errors import RefusalCode, RequestRefused
from dht.network import MAX_BODY
from dht.overlay.hello import HELLO
from dht.records.basis import subject_basis
from dht.records.bundle import Bundle, Item, bundle_value, open_bundle
from dht.records.intake import Judged
from dht.records.record_store import Held
from dht.records.replies import StoreStatus, read_statuses, write_statuses
from dht.repair import publisher
from node.embedding.caller import CallerVectors
from node.node import Node
from node.query.search_protocol import SearchRequest
from sim.virtual_clock import EPOCH_US
from tests.dht.authors import Author, forged
from tests.node.simulated_nodes import (
    DIM,
    FaultyLink,
    Network,
    Vector,
    entry,
    identity,
    override,
    shown,
    simulate,
    until,
    vector,
)
from validation.verdict import Pending

LIAR = 1
GUEST = 3
CODES = b"\x7f" + bytes(DIM - 1)
THREE_AND_A_GUEST = (100, 100, 100, 0)
QUERIES = [vector(seed) for seed in range(2_000, 2_007)]
MANY_QUERIES = [vector(seed) for seed in range(3_000, 3_016)]

Reply = list[Any]
"""A decoded search reply: [complete, ranking, [openings, headers, items]]."""
Lie = Callable[[Reply, "Stage"], object]
"""Alters a reply in place, or returns what is sent instead."""


class Stage:
    """What a lie may use: the request it answers, an author of its own, and the network."""

    def __init__(self, manifest: Manifest, request: SearchRequest) -> None:
        self.request = request
        self.manifest = manifest

    def author(self, **options: bool) -> Author:
        return Author(1, self.manifest, EPOCH_US, **options)

    def put(self, reply: Reply, record: Record, opening: tuple[Record, Record] | None, score: int) -> None:
        """Send `record` as the only hit."""
        reply[1] = [[record.cid, score]]
        reply[2] = bundle_value([opening] if opening else [], [], [Item(record, 0)])


def favourable_link() -> FaultyLink:
    """The liar answers fastest, so everybody asks it first."""
    return FaultyLink(slow_us={identity(number).agent: 50_000 for number in (0, 2)})


def lie(node: Node, how: Lie) -> None:
    honest = node.parts.searches._answer

    def answer(request: SearchRequest, complete: list[int]) -> bytes:
        reply = canonical.decode(honest(request, complete), MAX_BODY)
        said = how(reply, Stage(node.manifest, request))
        return said if isinstance(said, bytes) else canonical.encode(reply if said is None else said)

    override(node.parts.searches, "_answer", answer)


def altered_payload(reply: Reply, change: Callable[[dict[str, Any]], None], rehash: bool) -> None:
    """Change the body of the first hit; with `rehash` the header names the new payload."""
    record = decode_record(reply[2][2][0][1])
    assert record.payload is not None
    body = decode_payload(record.payload)
    change(body)
    payload = encode_payload(bytes(16), body)
    header = record.header_bytes
    if rehash:
        header = replace(record.header, payload=raw_cid(payload), payload_size=len(payload)).encode()
        changed = decode_record(canonical.encode([header, record.signature, payload]))
        reply[1][0][0] = changed.cid
    reply[2][2][0][1] = canonical.encode([header, record.signature, payload])


def other_text(reply: Reply, _: Stage) -> None:
    altered_payload(reply, lambda body: body.update(text="buy my book"), rehash=False)


def other_text_rehashed(reply: Reply, _: Stage) -> None:
    altered_payload(reply, lambda body: body.update(text="buy my book"), rehash=True)


def other_vector(reply: Reply, stage: Stage) -> None:
    altered_payload(reply, lambda body: body.update(codes=stage.request.codes.tobytes()), rehash=False)
    reply[1][0][1] = 1_000_000


def other_vector_rehashed(reply: Reply, stage: Stage) -> None:
    altered_payload(reply, lambda body: body.update(codes=stage.request.codes.tobytes()), rehash=True)
    reply[1][0][1] = 1_000_000


def other_score(reply: Reply, _: Stage) -> None:
    reply[1][0][1] += 1


def wrong_signature(reply: Reply, _: Stage) -> None:
    record = decode_record(reply[2][2][0][1])
    flipped = bytes([record.signature[0] ^ 1]) + record.signature[1:]
    reply[2][2][0][1] = replace(record, signature=flipped).encode()


def no_payload(reply: Reply, _: Stage) -> None:
    reply[2][2][0][1] = decode_record(reply[2][2][0][1]).without_payload().encode()


def other_network(reply: Reply, stage: Stage) -> None:
    author = Author(1, replace(stage.manifest, name="elsewhere"), EPOCH_US)
    stage.put(
        reply, author.create("elsewhere", stage.request.codes.tobytes()), author.opening, score=1_000_000
    )


def no_opening(reply: Reply, stage: Stage) -> None:
    stage.put(reply, stage.author().create("unknown", stage.request.codes.tobytes()), None, score=1_000_000)


def opening_that_does_not_pay(reply: Reply, stage: Stage) -> None:
    author = stage.author(pays=False)
    stage.put(reply, author.create("free", stage.request.codes.tobytes()), author.opening, score=1_000_000)


def opening_of_another(reply: Reply, stage: Stage) -> None:
    author, payer = stage.author(pays=False), Author(2, stage.manifest, EPOCH_US)
    stage.put(reply, author.create("free", stage.request.codes.tobytes()), payer.opening, score=1_000_000)


def not_content(reply: Reply, stage: Stage) -> None:
    author = stage.author()
    stage.put(reply, author.records[2], author.opening, score=1_000_000)


def not_ranked(reply: Reply, _: Stage) -> None:
    reply[1].pop()


def twice(reply: Reply, _: Stage) -> None:
    reply[2][2].append(reply[2][2][0])


def not_a_record(reply: Reply, _: Stage) -> None:
    reply[2][2][0] = [0, b"garbage"]


ALTERED: list[Lie] = [
    other_text,
    other_text_rehashed,
    other_vector,
    other_vector_rehashed,
    other_score,
    wrong_signature,
    no_payload,
    other_network,
    no_opening,
    opening_that_does_not_pay,
    opening_of_another,
    not_content,
    not_ranked,
    twice,
    not_a_record,
]
"""Lies that come as a hit which is refused."""


def too_many(reply: Reply, stage: Stage) -> None:
    ranked = reply[1][0]
    reply[1] = [ranked] * (stage.request.k + 1)


def foreign_shards(reply: Reply, stage: Stage) -> None:
    reply[0].append(len(stage.request.shards))


def garbage(_: Reply, __: Stage) -> bytes:
    return b"\xc1" * 1_000


def empty(_: Reply, __: Stage) -> bytes:
    return b""


def another_shape(_: Reply, __: Stage) -> object:
    return [1, 2]


def impossible_score(reply: Reply, _: Stage) -> None:
    reply[1][0][1] = 1_000_001


MALFORMED: list[Lie] = [too_many, foreign_shards, garbage, empty, another_shape, impossible_score]
"""Lies that are not a search reply at all."""


ONE_OF_EACH_KIND = (other_text_rehashed, opening_that_does_not_pay, foreign_shards, garbage)
"""Of a payload, of an opening, of a reply's place, of its bytes; the others are slow tests."""


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[] if how in ONE_OF_EACH_KIND else [pytest.mark.slow])
        for how in ALTERED + MALFORMED
    ],
    ids=lambda how: how.__name__,
)
def test_a_lie_is_refused_counted_and_ends_in_being_ignored(tmp_path: Path, how: Lie) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1, 2))
        liar, guest = network.nodes[LIAR], network.nodes[GUEST]
        lie(liar, how)
        bad = 0
        for wanted in MANY_QUERIES:  # who could answer the same takes turns
            answer = await network.ask(GUEST, wanted, k=5)
            assert shown(answer) == network.best(wanted, 5)
            assert all(hit.text.startswith("entry") for hit in answer.hits)
            assert answer.cost.shards_missed == 0
            before, bad = bad, guest.status().counters["kademlia_bad_answers_total"]
            if (before, bad) == (0, 1):
                assert (answer.cost.hits_refused > 0) == (how in ALTERED)
                assert answer.cost.nodes_contacted == 2
        assert bad
        await is_asked_no_more(network, liar)

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


async def is_asked_no_more(network: Network, liar: Node) -> None:
    """Banned, or known to fail so often that whoever else could answer goes first."""
    served = liar.status().counters["searches_served_total"]
    for wanted in QUERIES:
        answer = await network.ask(GUEST, wanted, k=5)
        assert shown(answer) == network.best(wanted, 5)
        assert answer.cost.hits_refused == 0
    assert liar.status().counters["searches_served_total"] == served, "the liar is still listened to"


def test_hits_without_the_tags_asked_for_are_refused(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.add(0, [entry(n, "wanted") for n in range(4)] + [entry(n) for n in range(4, 30)])
        await network.settle()
        liar = network.nodes[LIAR]
        honest = liar.parts.searches._answer
        override(
            liar.parts.searches,
            "_answer",
            lambda request, complete: honest(replace(request, tags=()), complete),
        )
        answer = await network.ask(GUEST, QUERIES[0], k=4, tags=("wanted",))
        assert shown(answer) == network.best(QUERIES[0], 4, ("wanted",))
        assert answer.cost.hits_refused > 0

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


def test_one_bad_hit_does_not_cost_the_good_ones_that_only_the_liar_holds(tmp_path: Path) -> None:
    """Without a replica the verified hits of a liar still count, and its shards are reported as missed."""

    async def scenario(network: Network) -> None:
        await network.fill(10, authors=(0,))
        lie(network.nodes[0], other_score)
        answer = await network.ask(1, QUERIES[0])
        assert shown(answer) == network.best(QUERIES[0], 10)[1:]
        assert answer.cost.hits_refused == 1
        assert answer.cost.shards_missed == 64

    simulate(tmp_path, (100, 0), scenario)


def test_hits_that_are_named_and_not_served_come_from_the_next_holder(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1, 2))
        override(network.nodes[LIAR].parts.records, "bundle", lambda *_, **__: (bundle_value([], [], []), 0))
        for wanted in MANY_QUERIES:
            assert shown(await network.ask(GUEST, wanted)) == network.best(wanted, 10)
        assert network.nodes[GUEST].status().counters["kademlia_bad_answers_total"]
        await is_asked_no_more(network, network.nodes[LIAR])

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


def test_a_holder_that_never_answers_is_hedged(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1, 2))

        async def never(*_: object) -> None:
            await trio.sleep_forever()

        override(network.nodes[LIAR].parts.asker, "_run_blocking", never)
        for number, wanted in enumerate(QUERIES):
            answer = await network.ask(GUEST, wanted)
            assert shown(answer) == network.best(wanted, 10)
            assert answer.cost.ms < (950 if number == 0 else 350)

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


def test_a_holder_that_conceals_its_postings_is_believed(tmp_path: Path) -> None:
    """The limit of this release, said plainly: nothing signed says what a holder should have.

    Claiming to be complete with nothing to show cannot be told from an empty shard by one answer; the hits
    are lost for those who ask this holder, though never replaced by false ones.
    """

    async def scenario(network: Network) -> None:
        await network.fill(12, authors=(0, 1, 2))
        lie(
            network.nodes[LIAR],
            lambda _, stage: [list(range(len(stage.request.shards))), [], bundle_value([], [], [])],
        )
        answer = await network.ask(GUEST, QUERIES[0])
        assert answer.hits == ()
        assert (answer.cost.shards_missed, answer.cost.hits_refused) == (0, 0)
        own = await network.ask(0, QUERIES[0])
        assert shown(own) == network.best(QUERIES[0], 10)

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


# Lies told to whoever fetches an entry by its id.


@pytest.mark.parametrize(
    "what",
    ["other text", "garbage"]
    + [pytest.param(what, marks=pytest.mark.slow) for what in ("header only", "nothing", "another entry")],
)
def test_an_entry_is_shown_as_its_author_signed_it_whatever_a_holder_serves(
    tmp_path: Path, what: str
) -> None:
    async def scenario(network: Network) -> None:
        wanted, other = await network.add(0, [entry(1, "tag"), entry(2)])
        await network.settle()
        liar = network.nodes[LIAR]

        def serve(records: Sequence[Record], *, named: bool = True) -> tuple[list[Any], int]:
            value, sent = honest(records, named=named)
            match what:
                case "header only":
                    value[2] = [[roles, decode_record(r).without_payload().encode()] for roles, r in value[2]]
                case "other text":
                    reply = [[], [[b"", 0]], value]
                    other_text(reply, None)  # type: ignore[arg-type]
                case "nothing":
                    value = bundle_value([], [], [])
                case "garbage":
                    value[2] = [[0, b"garbage"], "garbage"]
                case _:
                    value, sent = honest(filter(None, liar.parts.held.get_many([other])), named=named)
            return value, sent

        honest = liar.parts.records.bundle
        override(liar.parts.records, "bundle", serve)
        shown_entry = await network.nodes[GUEST].get(wanted)
        assert shown_entry is not None
        assert (shown_entry.text, shown_entry.tags, shown_entry.author) == (
            "entry 1",
            ("tag",),
            identity(0).agent,
        )
        assert [record.cid for record in shown_entry.records] == [wanted]

    simulate(tmp_path, THREE_AND_A_GUEST, scenario, favourable_link())


# Lies told to whoever stores.


async def store(sender: Node, holder: AgentId, body: bytes, count: int) -> list[tuple[StoreStatus, str]]:
    return read_statuses(await sender.kademlia.request(holder, "record.store", body), count)


def codes_of(wanted: Vector) -> bytes:
    return CallerVectors("", DIM).quantise(wanted).tobytes()


def test_each_bad_record_of_a_batch_is_refused_by_name_and_the_good_ones_are_kept(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        manifest = network.founding.manifest
        author, stranger = Author(1, manifest, EPOCH_US), Author(2, manifest, EPOCH_US)
        outsider = Author(3, manifest, EPOCH_US, pays=False)
        foreign = Author(4, replace(manifest, name="elsewhere"), EPOCH_US)
        codes = codes_of(QUERIES[0])
        good = author.create("entry good", codes)
        theirs = stranger.create("entry theirs", codes)
        last = author.create("entry last", codes)
        bad: list[tuple[bytes, str]] = [
            (b"garbage", "malformed"),
            (canonical.encode([good.header_bytes, good.signature, b"other"]), "malformed"),
            (forged(last).encode(), "signature"),
            (foreign.create("bad foreign", codes).encode(), "network"),
            (author.signed(last, prev=theirs.cid).encode(), "prev"),
            (author.signed(last, seq=9).encode(), "prev"),
            (author.signed(last, lamport=99).encode(), "lamport"),
            (author.signed(last, hlc=last.header.hlc - 1).encode(), "clock"),
            (author.signed(last, kind="entry.unheard-of").encode(), "kind"),
            (author.signed(last, body={"text": "bad codes", "codes": bytes(DIM)}).encode(), "vector"),
            (author.signed(last, body={"text": "bad dim", "codes": b"\x7f" * 3}).encode(), "vector"),
            (author.signed(last, body={"text": "", "codes": codes}).encode(), "operation"),
            (good.without_payload().encode(), "payload-missing"),
            (outsider.create("bad free", codes).encode(), "opening"),
        ]
        items = [good.encode(), *(raw for raw, _ in bad), last.encode()]
        body = canonical.encode(
            [
                [[a.encode(), b.encode()] for a, b in (author.opening, outsider.opening, foreign.opening)],
                [one.without_payload().encode() for one in (author.records[2], outsider.records[2], theirs)],
                [[7, raw] for raw in items],
            ]
        )
        sender, holder = network.nodes[GUEST], network.nodes[0]
        statuses = await store(sender, holder.agent, body, len(items))
        assert statuses[0] == statuses[-1] == (StoreStatus.HELD, "")
        assert statuses[1:-1] == [(StoreStatus.INVALID, rule) for _, rule in bad]
        answer = await network.ask(0, QUERIES[0], k=50)
        assert sorted(hit.text for hit in answer.hits) == ["entry good", "entry last"]
        for raw, rule in bad:
            if rule not in (
                "malformed",
                "signature",
                "payload-missing",
            ):  # whose CID is unknown, or a good one's
                assert holder.parts.held.get_many([decode_record(raw).cid]) == [None], rule
        (kept,) = holder.parts.held.get_many([last.cid])
        assert kept is not None
        assert kept.signature == last.signature
        served = open_bundle(
            canonical.decode(
                await sender.kademlia.request(
                    holder.agent, "record.at", canonical.encode([subject_basis(last.cid), None, 10])
                ),
                MAX_BODY,
            )[1]
        )
        assert [item.record for item in served.items if isinstance(item, Item)] == [last]

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


def test_what_cannot_be_judged_yet_is_not_kept_and_blames_nobody(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = Author(1, network.founding.manifest, EPOCH_US)
        codes = codes_of(QUERIES[0])
        first, second = author.create("one", codes), author.create("two", codes)
        ahead = author.signed(second, hlc=EPOCH_US + 10**12)
        sender, holder = network.nodes[GUEST], network.nodes[0]

        async def status(records: list[Record], headers: list[Record], opening: bool) -> list[StoreStatus]:
            openings = [author.opening] if opening else []
            body = canonical.encode(bundle_value(openings, headers, [Item(record, 7) for record in records]))
            return [one for one, _ in await store(sender, holder.agent, body, len(records))]

        assert await status([second], [], opening=True) == [StoreStatus.PENDING]
        assert await status([second], [first], opening=False) == [StoreStatus.PENDING]
        assert await status([ahead], [first], opening=True) == [StoreStatus.PARKED]
        assert holder.parts.held.get_many([second.cid, ahead.cid]) == [None, None]
        assert (await network.ask(0, QUERIES[0])).hits == ()
        assert holder.status().counters["kademlia_bad_answers_total"] == 0
        assert await status([second], [first], opening=True) == [StoreStatus.HELD]
        assert [hit.text for hit in (await network.ask(0, QUERIES[0])).hits] == ["two"]

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


def test_a_record_that_lies_nowhere_is_not_kept(tmp_path: Path) -> None:
    """It would take up room for ever: nobody else is compared with about it, and nothing drops it."""

    async def scenario(network: Network) -> None:
        sender, holder = network.nodes[GUEST], network.nodes[0]
        author = Author(1, network.founding.manifest, EPOCH_US)
        record = author.create("for no role", CODES)
        used = holder.parts.held.count()

        async def status(roles: int) -> StoreStatus:
            value = bundle_value([author.opening], [author.records[2]], [Item(record, roles)])
            ((found, rule),) = await store(sender, holder.agent, canonical.encode(value), 1)
            assert not rule
            return found

        for roles in (0, 64):  # none, and one that a later release may know
            assert await status(roles) == StoreStatus.BLOCKED
        assert (holder.parts.held.count(), holder.holds(record.cid)) == (used, False)
        assert holder.kademlia.standing(sender.agent).score == 0
        assert await status(1) == StoreStatus.HELD

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


def test_who_keeps_storing_bad_records_is_not_listened_to_any_more(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        sender, holder = network.nodes[GUEST], network.nodes[0]
        body = canonical.encode([[], [], [[7, b"garbage"]] * 100])
        for _ in range(4):
            statuses = await store(sender, holder.agent, body, 100)
            assert set(statuses) == {(StoreStatus.INVALID, "malformed")}
            if holder.kademlia.is_suspect(sender.agent):
                break
        assert holder.kademlia.is_suspect(sender.agent)
        assert (await network.ask(1, QUERIES[0])).cost.shards_missed == 0
        with pytest.raises(RequestRefused, match="banned") as refusal:
            await store(sender, holder.agent, body, 100)
        assert refusal.value.code == RefusalCode.BANNED

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", canonical.encode([1, 2, 3]), canonical.encode([[], [], [[7, b""]] * 513])],
    ids=["empty", "garbage", "another shape", "too many"],
)
def test_a_store_that_is_no_bundle_is_refused_as_a_whole(tmp_path: Path, body: bytes) -> None:
    async def scenario(network: Network) -> None:
        with pytest.raises(Exception, match="bad_request"):
            await network.nodes[GUEST].kademlia.request(network.nodes[0].agent, "record.store", body)

    simulate(tmp_path, THREE_AND_A_GUEST, scenario)


def test_a_holder_that_answers_stores_with_garbage_is_passed_over(tmp_path: Path) -> None:
    """Records reach R honest holders although one of the nearest acknowledges nothing."""

    async def scenario(network: Network) -> None:
        liar = network.nodes[LIAR]

        def receipted(*_: object) -> bytes:
            return write_statuses([(StoreStatus.HELD, "")] * 1_000)

        override(liar.parts.records, "_receipted", receipted)
        await network.add(0, [entry(number) for number in range(8)])
        await until(lambda: network.nodes[0].status().pending == 0)
        assert network.nodes[0].kademlia.is_suspect(liar.agent)
        for id_ in network.entries:
            copies = [n for n in (0, 2, 3) if network.nodes[n].parts.held.get_many([id_]) != [None]]
            assert copies == [0, 2, 3]

    simulate(tmp_path, (100, 100, 100, 100), scenario)


@pytest.mark.slow
def test_a_fellow_holder_that_trickles_keeps_nobody_from_being_complete(tmp_path: Path) -> None:
    """It always has more that is valid, and brings one record at a time."""
    link = FaultyLink()

    async def scenario(network: Network) -> None:
        await network.fill(12, authors=[0])
        liar = network.nodes[LIAR].parts
        author = Author(1, network.founding.manifest, EPOCH_US)
        more = {one.cid: one for one in (author.create(f"{n}", CODES) for n in range(400))}
        heads = {one.cid: one.without_payload() for one in author.records}
        listed = canonical.encode(b"".join(map(digest, sorted(more))))

        def fetched(cids: Sequence[Cid]) -> bytes:
            record = more[cids[0]]
            assert record.header.prev is not None
            return canonical.encode(
                bundle_value([author.opening], [heads[record.header.prev]], [Item(record, 0)])
            )

        override(liar.held, "digest_of", lambda basis: (400, bytes(32)))
        override(liar.records, "_cids_of", lambda basis, after, limit: b"\xc4\0" if after else listed)
        override(liar.records, "_fetched", fetched)
        link.slow_us[identity(LIAR).agent] = 100_000
        node = await network.start(3)
        await trio.sleep(10.0)
        mine = len(await network.shards_of(3))
        assert mine
        await until(lambda: node.status().shards_held == mine, within_s=150.0)

    simulate(tmp_path, (100, 100, 100), scenario, link)


@pytest.mark.slow
def test_a_holder_that_never_decides_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds everything pending: neither taken, nor refused, nor garbage."""
    monkeypatch.setattr(publisher, "UNDECIDED_S", 2.0)

    async def scenario(network: Network) -> None:
        liar = network.nodes[LIAR]

        def judged(bundle: Bundle, also: object) -> tuple[list[Judged], list[Held]]:
            return [Judged(StoreStatus.PENDING, needs=Pending(())) for _ in bundle.items], []

        override(liar.parts.records, "_judge", judged)
        await network.add(0, [entry(number) for number in range(4)])
        await until(lambda: network.nodes[0].status().pending == 0, within_s=20.0)
        for id_ in network.entries:
            copies = [n for n in (0, 2, 3) if network.nodes[n].parts.held.get_many([id_]) != [None]]
            assert copies == [0, 2, 3]

    simulate(tmp_path, (100, 100, 100, 100), scenario)


def test_whoever_sends_malformed_requests_is_banned_whatever_it_asks(tmp_path: Path) -> None:
    """Every method but the one by which strangers look a network over before they belong to it."""

    async def scenario(network: Network) -> None:
        node, sender = network.nodes[0], network.nodes[LIAR]
        methods = sorted(set(node.parts.network._handlers) - {HELLO})  # type: ignore[attr-defined]
        assert {"peer.find", "peer.health", "record.fetch", "shard.search", "shard.copy"} <= set(methods)
        for method in methods:
            codes = []
            for _ in range(6):
                with pytest.raises(RequestRefused) as refusal:
                    await sender.parts.network.request(node.agent, method, b"\xc1", 5.0)
                codes.append(refusal.value.code)
            assert codes[0] == RefusalCode.BAD_REQUEST, method
            assert codes[-1] == RefusalCode.BANNED, method
            node.kademlia.pardon(sender.agent)

    simulate(tmp_path, (100, 100), scenario)
