"""The own chain: linked right under concurrency, idempotent by key, equal to a model across restarts."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, raw_cid
from chain.errors import ChainBrokenError, ChainError
from chain.identity import AgentId
from chain.kinds import VOTE
from chain.record import Record
from chain.source_chain import Draft, Head
from dht.ports import ThreadedBlocking
from dht.records.receipts import Kept, KeptBatch
from dht.records.record_store import Placement
from node.storage.database import Options
from node.storage.errors import DatabaseCorrupt, DiskFull, ReadOnly, StorageLimit
from node.storage.own_chain import MAX_DRAFTS, MAX_KEY, MAX_LEVEL, OwnChain
from tests.node.storage_fixtures import ALICE, OPENING, authored, entry, open_chain

HOLDERS = [bytes([number]) * 32 for number in range(5)]


async def started(path: Path, nursery: trio.Nursery) -> OwnChain:
    """A running chain with its opening, in worker threads."""
    chain = open_chain(path, ThreadedBlocking(1))
    await nursery.start(chain.run)
    await chain.append(OPENING, [None] * 3)
    return chain


async def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        done: dict[Cid, str] = {}

        async def write(writer: int) -> None:
            for number in range(6):
                text = f"{writer}/{number}"
                (appended,) = await chain.append([entry(text)], [None])
                record = chain.get(appended[0])
                assert record is not None, "not readable when acknowledged"
                done[appended[0]] = text

        async with trio.open_nursery() as writers:
            for writer in range(30):
                writers.start_soon(write, writer)
        report = chain.verify()
        assert (report.length, report.author) == (183, ALICE.agent)
        assert report.kinds["entry.create"] == len(done) == 180
        head = chain.head()
        assert head is not None
        assert (head.seq, head.cid) == (182, report.head)
        await chain.aclose()


async def test_a_key_is_used_once_however_many_ask_at_once(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        results: dict[bytes, list[tuple[Cid, bool]]] = {}

        async def write(key: bytes, number: int) -> None:
            (appended,) = await chain.append([entry(f"{key!r} {number}")], [key])
            results.setdefault(key, []).append(appended)

        async with trio.open_nursery() as writers:
            for number in range(12):
                for key in (b"a", b"b", b"c"):
                    writers.start_soon(write, key, number)
        for key in (b"a", b"b", b"c"):
            assert len({cid for cid, _ in results[key]}) == 1
            assert sum(created for _, created in results[key]) == 1
        assert chain.count() == 6
        await chain.aclose()


async def test_a_draft_over_a_limit_costs_only_its_own_append(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        failed: list[int] = []

        async def write(number: int) -> None:
            bad = number % 5 == 0
            drafts = [entry(f"first {number}"), entry("x" * (1 << 21) if bad else "second")]
            try:
                await chain.append(drafts, [f"key {number}".encode(), None])
            except ChainError:
                failed.append(number)

        async with trio.open_nursery() as writers:
            for number in range(20):
                writers.start_soon(write, number)
        assert sorted(failed) == [0, 5, 10, 15]
        assert chain.verify().length == 3 + 2 * 16
        # Of an append that failed halfway nothing stayed, its key neither.
        (again,) = await chain.append([entry("once more")], [b"key 0"])
        assert again[1]
        assert chain.verify().length == 3 + 2 * 16 + 1
        await chain.aclose()


def votes(subject: Cid, count: int) -> Generator[Draft, Record, list[Cid]]:
    """Operations each of which names the one before it, as those of one change do."""
    said: list[Cid] = []
    for number in range(count):
        draft = Draft(VOTE, {"value": 1}, subject, number, said[-1] if said else None, (subject,))
        record = yield draft
        assert (record.header.subject_seq, record.header.subject) == (number, subject)
        said.append(record.cid)
    return said


async def test_what_a_script_writes_is_there_together_or_not_at_all(tmp_path: Path) -> None:
    """Also beside writers whose transaction it shares, and of whom some fail."""
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        ((subject, _),) = await chain.append([entry("subject")], [None])
        written: dict[int, list[Cid]] = {}
        asked: list[int] = []

        def refuse_after(count: int) -> Generator[Draft, Record, list[Cid]]:
            yield from votes(subject, count)
            raise StorageLimit("no more than that")

        async def write(number: int) -> None:
            if number % 2:
                with pytest.raises(StorageLimit, match="no more"):
                    await chain.write(lambda: refuse_after(number))
            else:
                records, said = await chain.write(lambda: votes(subject, number))
                assert [one.cid for one in records] == said
                written[number] = said
            asked.append(number)

        async with trio.open_nursery() as writers:
            for number in range(10):
                writers.start_soon(write, number)
        assert len(asked) == 10
        assert chain.verify().kinds[VOTE] == sum(len(said) for said in written.values()) == 20
        for said in written.values():
            records = [chain.get(cid) for cid in said]
            assert [one.header.subject_seq for one in records if one is not None] == list(range(len(said)))
        assert {one.cid for one in chain.below(1, 3, 100)} == {
            cid for said in written.values() for cid in said
        }
        with pytest.raises(StorageLimit, match=f"over {MAX_DRAFTS} records"):
            await chain.write(lambda: votes(subject, MAX_DRAFTS + 1))
        assert chain.verify().kinds[VOTE] == 20
        await chain.aclose()


async def test_a_crash_between_any_two_records_of_a_script_leaves_all_or_nothing(tmp_path: Path) -> None:
    """The files are copied before each record, before the commit and after it: as a kill would leave them."""
    home, copies = tmp_path / "home", tmp_path / "copies"
    home.mkdir()
    moments: list[int] = []

    def leave(seen: int) -> None:
        shutil.copytree(home, copies / str(len(moments)))
        moments.append(seen)

    def look(_record: Record, before: Sequence[Record]) -> None:
        leave(len(before))

    def script() -> Generator[Draft, Record, list[Cid]]:
        said = yield from votes(subject, 5)
        leave(len(said))
        return said

    async with trio.open_nursery() as nursery:
        chain = await started(home / "chain.db", nursery)
        ((subject, _),) = await chain.append([entry("subject")], [None])
        chain.fault_of = look
        _, said = await chain.write(script)
        leave(len(said))
        await chain.aclose()
    assert moments == [0, 1, 2, 3, 4, 5, 5]
    for number in range(len(moments)):
        left = open_chain(copies / str(number) / "chain.db", ThreadedBlocking(1))
        durable = number == len(moments) - 1
        assert [one.cid for one in left.read(4, 10)] == (said if durable else [])
        assert left.verify().length == 4 + 5 * durable
        left.close()


async def test_what_was_queued_when_the_chain_is_frozen_is_not_signed(tmp_path: Path) -> None:
    """A longer chain was heard of: whatever is signed from then on forks it."""
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        refused: list[int] = []

        def freeze(_record: Record, _before: Sequence[Record]) -> None:
            chain.frozen = "the chain is longer than it is here"

        async def write(number: int) -> None:
            try:
                await chain.append([entry(f"{number}")], [None])
            except ReadOnly:
                refused.append(number)

        chain.fault_of = freeze  # as if the guard heard of it while the first of them is signed
        async with trio.open_nursery() as writers:
            for number in range(8):
                writers.start_soon(write, number)
        assert len(refused) == 7
        assert chain.verify().length == 3 + 1
        await chain.aclose()


async def test_limits_are_named(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        chain = await started(tmp_path / "chain.db", nursery)
        with pytest.raises(StorageLimit, match="drafts"):
            await chain.append([entry("x")] * (MAX_DRAFTS + 1), [None] * (MAX_DRAFTS + 1))
        with pytest.raises(StorageLimit, match="import key"):
            await chain.append([entry("x")], [b"k" * (MAX_KEY + 1)])
        with pytest.raises(StorageLimit, match="holder"):
            await chain.placed([Placement(b"", 1, b"short")], [])
        with pytest.raises(StorageLimit, match="level"):
            await chain.placed([], [(b"", MAX_LEVEL + 1)])
        assert chain.count() == 3
        await chain.aclose()


async def test_placements_add_up_and_levels_only_rise(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    async with trio.open_nursery() as nursery:
        chain = await started(path, nursery)
        first, second, third = (record.cid for record in chain.read(0, 3))
        stranger = authored(ALICE, [entry("never appended")])[0].cid
        assert chain.count_below(1) == 3
        await chain.placed([Placement(first, 1, HOLDERS[1]), Placement(first, 2, HOLDERS[0])], [(first, 2)])
        await chain.placed(
            [Placement(first, 4, HOLDERS[1]), Placement(stranger, 1, HOLDERS[0])], [(stranger, 3)]
        )
        assert chain.placements([second, first, stranger]) == [
            Placement(first, 2, HOLDERS[0]),
            Placement(first, 5, HOLDERS[1]),
        ]
        await chain.placed([], [(first, 1), (third, 3)])
        assert [chain.count_below(level) for level in range(5)] == [0, 1, 1, 2, 3]
        assert [record.cid for record in chain.below(3, -1, 10)] == [first, second]
        assert [record.cid for record in chain.below(3, 0, 10)] == [second]
        assert [record.cid for record in chain.below(4, -1, 2)] == [first, second]
        await chain.aclose()
    reopened = open_chain(path)
    assert reopened.count_below(3) == 2
    assert reopened.placements([first])[1].roles == 5
    reopened.close()


async def test_reads_name_records_in_order(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        chain = open_chain(tmp_path / "chain.db")
        await nursery.start(chain.run)
        assert (chain.head(), chain.count(), chain.opening(), chain.at(0)) == (None, 0, None, None)
        assert chain.verify().length == 0
        done = await chain.append([*OPENING, entry("one"), entry("two")], [None] * 5)
        cids = [cid for cid, _ in done]
        opening = chain.opening()
        assert opening is not None
        assert [record.cid for record in opening] == cids[:2]
        assert [record.cid for record in chain.read(2, 2)] == cids[2:4]
        assert chain.get_many([cids[4], b"unknown", cids[0]]) == [chain.at(4), None, chain.at(0)]
        await chain.aclose()


async def test_a_full_disk_leaves_a_chain_that_verifies_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    acknowledged: list[Cid] = []
    refused = 0
    async with trio.open_nursery() as nursery:
        chain = open_chain(path, ThreadedBlocking(1), Options(max_page_count=80))
        await nursery.start(chain.run)
        await chain.append(OPENING, [None] * 3)

        async def write(writer: int) -> None:
            nonlocal refused
            for number in range(30):
                try:
                    (done,) = await chain.append([entry(f"{writer}/{number} " + "x" * 500)], [None])
                    acknowledged.append(done[0])
                except (DiskFull, ReadOnly):
                    refused += 1

        async with trio.open_nursery() as writers:
            for writer in range(16):
                writers.start_soon(write, writer)
        assert refused
        assert acknowledged
        assert chain.read_only
        assert chain.verify().length == chain.count() == 3 + len(acknowledged)
        await chain.aclose()
    async with trio.open_nursery() as nursery:
        chain = open_chain(path, ThreadedBlocking(1))
        await nursery.start(chain.run)
        assert chain.read_only is None
        assert all(chain.get_many(acknowledged))
        await chain.append([entry("there is room again")], [None])
        assert chain.verify().length == 4 + len(acknowledged)
        await chain.aclose()


@contextmanager
def tampered(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.commit()


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("UPDATE records SET header = zeroblob(length(header)) WHERE seq = 4", DatabaseCorrupt),
        ("UPDATE records SET payload = zeroblob(length(payload)) WHERE seq = 4", DatabaseCorrupt),
        ("UPDATE records SET signature = zeroblob(64) WHERE seq = 4", ChainBrokenError),
        ("UPDATE records SET signature = x'00' WHERE seq = 4", DatabaseCorrupt),
        ("DELETE FROM records WHERE seq = 4", ChainBrokenError),
    ],
)
async def test_verifying_finds_what_was_altered(tmp_path: Path, sql: str, error: type[Exception]) -> None:
    path = tmp_path / "chain.db"
    async with trio.open_nursery() as nursery:
        chain = await started(path, nursery)
        await chain.append([entry(str(number)) for number in range(5)], [None] * 5)
        await chain.aclose()
    with tampered(path) as connection:
        connection.execute(sql)
    chain = open_chain(path)
    with pytest.raises(error):
        chain.verify()
    chain.close()


@pytest.mark.parametrize("column", ["header", "signature", "payload"])
async def test_a_damaged_newest_record_is_refused_at_opening(tmp_path: Path, column: str) -> None:
    path = tmp_path / "chain.db"
    async with trio.open_nursery() as nursery:
        chain = await started(path, nursery)
        await chain.aclose()
    with tampered(path) as connection:
        connection.execute(f"UPDATE records SET {column} = zeroblob(length({column})) WHERE seq = 2")
    before = path.read_bytes()
    with pytest.raises(DatabaseCorrupt, match="restore it from a backup"):
        open_chain(path)
    assert path.read_bytes() == before


KEYS = st.one_of(st.none(), st.sampled_from([b"", b"a", b"b", b"c"]))
APPEND = st.tuples(st.just("append"), st.lists(st.lists(KEYS, max_size=4), min_size=1, max_size=4))
PLACE = st.tuples(
    st.just("place"),
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([1, 2, 4, 7]), st.sampled_from(HOLDERS)), max_size=6
    ),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=4),
)
REOPEN = st.tuples(st.just("reopen"))


class Model:
    """What a chain must show, from what was acknowledged."""

    def __init__(self) -> None:
        self.cids: list[Cid] = []
        self.keys: dict[bytes, Cid] = {}
        self.placements: dict[tuple[Cid, bytes], int] = {}
        self.levels: dict[Cid, int] = {}

    def appended(self, keys: list[bytes | None], done: list[tuple[Cid, bool]]) -> None:
        """Take over one append's outcome, checking keys."""
        assert len(keys) == len(done)
        for key, (cid, created) in zip(keys, done, strict=True):
            if key is not None and key in self.keys:
                assert (cid, created) == (self.keys[key], False)
                continue
            assert created
            assert cid not in self.levels
            self.cids.append(cid)
            self.levels[cid] = 0
            if key is not None:
                self.keys[key] = cid

    def check(self, chain: OwnChain) -> None:
        """Hold the chain against the model."""
        records = chain.read(0, 1_000)
        assert sorted(record.cid for record in records) == sorted(self.cids)
        assert [record.header.seq for record in records] == list(range(len(self.cids)))
        assert chain.verify().length == chain.count() == len(self.cids)
        head = chain.head()
        assert head == (
            None if not records else Head(len(records) - 1, records[-1].cid, *_times(records[-1]))
        )
        for level in range(5):
            below = [record.cid for record in records if self.levels[record.cid] < level]
            assert chain.count_below(level) == len(below)
            assert [record.cid for record in chain.below(level, -1, 1_000)] == below
            assert [record.cid for record in chain.below(level, 2, 3)] == [
                cid for cid in below if records.index(_found(records, cid)) > 2
            ][:3]
        expected = [Placement(cid, roles, holder) for (cid, holder), roles in sorted(self.placements.items())]
        assert chain.placements(self.cids) == expected


def _times(record: Record) -> tuple[int, int]:
    return record.header.lamport, record.header.hlc


def _found(records: list[Record], cid: Cid) -> Record:
    return next(record for record in records if record.cid == cid)


@given(steps=st.lists(st.one_of(APPEND, PLACE, REOPEN), max_size=12))
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_writes_and_restarts_equals_the_model(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("model") / "chain.db"
    model = Model()

    async def session(steps: list[tuple[Any, ...]]) -> None:
        chain = open_chain(path)
        model.check(chain)
        async with trio.open_nursery() as nursery:
            await nursery.start(chain.run)
            if not model.cids:
                model.appended([None] * 3, await chain.append(OPENING, [None] * 3))
            for name, *arguments in steps:
                if name == "append":
                    await concurrently(chain, arguments[0])
                else:
                    await place(chain, *arguments)
                model.check(chain)
            await chain.aclose()

    async def concurrently(chain: OwnChain, appends: list[list[bytes | None]]) -> None:
        outcomes: list[tuple[list[bytes | None], list[tuple[Cid, bool]]]] = []

        async def one(number: int, keys: list[bytes | None]) -> None:
            drafts = [entry(f"{number} {place}") for place in range(len(keys))]
            outcomes.append((keys, await chain.append(drafts, keys)))

        async with trio.open_nursery() as nursery:
            for number, keys in enumerate(appends):
                nursery.start_soon(one, number, keys)
        pairs = [pair for keys, done in outcomes for pair in zip(keys, done, strict=True)]
        # Which append came first is not ours to say, but who created a key's record preceded who found it.
        for key, result in sorted(pairs, key=lambda pair: not pair[1][1]):
            model.appended([key], [result])

    async def place(
        chain: OwnChain, rows: list[tuple[int, int, bytes]], settled: list[tuple[int, int]]
    ) -> None:
        placements = [
            Placement(model.cids[place % len(model.cids)], roles, holder) for place, roles, holder in rows
        ]
        levels = [(model.cids[place % len(model.cids)], level) for place, level in settled]
        await chain.placed(placements, levels)
        for row in placements:
            key = (row.cid, row.holder)
            model.placements[key] = model.placements.get(key, 0) | row.roles
        for cid, level in levels:
            model.levels[cid] = max(model.levels[cid], level)

    rest = [*steps, ("reopen",)]
    while rest:
        cut = rest.index(("reopen",))
        trio.run(session, rest[:cut])
        rest = rest[cut + 1 :]
    final = open_chain(path)
    model.check(final)
    final.close()


async def test_receipts_count_once_a_holder_and_are_void_with_its_word(tmp_path: Path) -> None:
    path = tmp_path / "chain.db"
    async with trio.open_nursery() as nursery:
        chain = await started(path, nursery)
        first, second, third = (record.cid for record in chain.read(0, 3))
        one, two = HOLDERS[:2]
        leaves = bytes(32) + bytes([1]) * 32

        def batch(holder: AgentId, *rows: Kept) -> KeptBatch:
            return KeptBatch(holder, b"statement", leaves, rows)

        assert [chain.count_unconfirmed(need) for need in range(3)] == [0, 3, 3]
        full = Kept(first, 0, 1, True)
        await chain.placed(
            [Placement(cid, 1, one) for cid in (first, second)],
            [(first, 2), (second, 2)],
            [batch(one, full, Kept(second, 1, 2, False)), batch(one, full), batch(two, full)],
        )
        await chain.placed([], [], [KeptBatch(ALICE.agent, b"", b"", (Kept(first, 0, 1, True),))])
        assert [chain.count_unconfirmed(need) for need in range(5)] == [0, 2, 2, 2, 3], (
            "of 3, 0 and 0 holders"
        )
        assert [(one.holder, one.place) for one in chain.receipts(first)] == sorted([(one, 0), (two, 0)])
        assert chain.receipts(second)[0].leaves == (leaves[:32], leaves[32:])
        signed = {(one.cid, one.holder, one.whole) for one in chain.signed_from(0, 10)}
        assert signed == {(first, one, True), (first, two, True), (second, one, False)}
        assert len(chain.signed_from(1, 10)) == 1
        assert await chain.void(one, [first]) == 1
        assert [chain.count_unconfirmed(need) for need in range(4)] == [0, 2, 2, 3]
        assert [record.cid for record in chain.below(2, -1, 10)] == [first, third], "placed anew"
        assert await chain.void(one, None) == 1
        assert chain.placements([first, second]) == []
        assert chain.receipts(second) == []
        await chain.aclose()


def test_a_chain_goes_on_in_the_epoch_where_it_stopped(tmp_path: Path) -> None:
    epoch = raw_cid(b"a later epoch")

    async def session(set_epoch: bool) -> list[Cid]:
        async with trio.open_nursery() as nursery:
            own = open_chain(tmp_path / "chain.db")
            await nursery.start(own.run)
            if set_epoch:
                own.epoch = epoch
            await own.append([entry("one")], [None])
            epochs = [record.header.epoch for record in own.read(0, 9)]
            await own.aclose()
            return epochs

    assert trio.run(session, True) == [epoch]
    assert trio.run(session, False) == [epoch, epoch]
