"""What a peer can make a node decode, read and send: every question is small, and every reply can be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chain import canonical
from chain.cid import Cid, digest, record_cid_of_digest
from chain.kinds import EDIT
from chain.record import MAX_DEPS, Record
from dht.errors import RequestRefused
from dht.network import MAX_BODY
from dht.records.basis import subject_basis
from dht.records.bundle import Item, open_bundle
from dht.records.methods import MAX_FETCH, MAX_LACKS, MAX_QUESTION
from dht.records.placement import Role
from dht.records.record_store import Held
from tests.dht.authors import Author
from tests.node.simulated_nodes import DIM, Network, simulate

CODES = bytes([127] * DIM)
TEXT = "x" * 60_000


def stranger_to(network: Network) -> Author:
    return Author(1, network.founding.manifest, 1)


def unknown(start: int) -> tuple[Cid, ...]:
    """As many CIDs as a header may depend on, of records that nobody has."""
    return tuple(record_cid_of_digest((start + n).to_bytes(32, "big")) for n in range(MAX_DEPS))


def citing(author: Author, entry: Record, number: int) -> tuple[Record, list[Record]]:
    """An edit that names as many records as one can, each with as long a header as there is; and those."""
    headers = [
        author.signed(
            entry, kind=EDIT, subject=entry.cid, deps=unknown(1_000 * number + 1), seq=1_000 * number + n
        )
        for n in range(2 * MAX_DEPS)
    ]
    cids = [header.cid for header in headers]
    deps, over = tuple(sorted(cids[:MAX_DEPS])), sorted(cids[MAX_DEPS:])
    body = {"codes": CODES, "over": over, "text": TEXT}
    return author.signed(entry, body, kind=EDIT, subject=entry.cid, deps=deps, seq=number), headers


def test_a_reply_fits_a_message_whatever_its_records_name(tmp_path: Path) -> None:
    """Else one author could make an entry, or a shard to be caught up with, impossible to fetch."""

    async def scenario(network: Network) -> None:
        author = stranger_to(network)
        entry = author.create("entry", CODES)
        large = [author.create(TEXT, CODES) for _ in range(5)]
        (first, one), (last, other) = citing(author, entry, 1), citing(author, entry, 2)
        node = network.nodes[0]
        await node.parts.held.hold([Held(record) for record in (first, *one, *large, last, *other)])

        wanted = [first, *large, last]
        value, sent = node.parts.records.bundle(wanted)
        assert len(canonical.encode(value)) <= MAX_BODY
        assert sent == len(wanted) - 1, "the last one waits for the next reply"
        value, sent = node.parts.records.bundle([last])
        assert len(canonical.encode(value)) <= MAX_BODY
        assert sent == 1
        assert len(value[1]) == 2 * MAX_DEPS, "with all that it names"

    simulate(tmp_path, (100,), scenario)


def test_what_does_not_fit_one_reply_comes_with_the_next(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        author = stranger_to(network)
        basis = subject_basis(author.records[0].cid)
        records = [author.create(f"{number} {TEXT}", CODES) for number in range(40)]
        holder, guest = network.nodes[0], network.nodes[1]
        await holder.parts.held.hold([Held(record, ((int(Role.SUBJECT), basis),)) for record in records])
        found: list[Cid] = []
        more = True
        while more:
            page = await guest.parts.records.at(holder.agent, basis, found[-1] if found else None)
            found += [item.record.cid for item in page.bundle.items if isinstance(item, Item)]
            more = page.more
        assert found == sorted(record.cid for record in records)

        body = canonical.encode([digest(record.cid) for record in records])
        reply = await guest.kademlia.request(holder.agent, "record.fetch", body)
        fetched = [
            i.record for i in open_bundle(canonical.decode(reply, MAX_BODY)).items if isinstance(i, Item)
        ]
        assert 0 < len(fetched) < len(records)
        assert fetched == records[: len(fetched)]

    simulate(tmp_path, (100, 0), scenario)


@pytest.mark.parametrize(
    "method", ["record.fetch", "record.at", "record.digests", "record.cids", "record.lacks"]
)
def test_a_question_that_is_longer_than_any_honest_one_is_not_decoded(tmp_path: Path, method: str) -> None:
    """Decoding happens on the event loop."""

    async def scenario(network: Network) -> None:
        holder, guest = network.nodes[0], network.nodes[1]
        with pytest.raises(RequestRefused, match=f"the limit is {MAX_QUESTION}"):
            await guest.kademlia.request(holder.agent, method, canonical.encode([0] * MAX_QUESTION))
        honest = canonical.encode([bytes([n]) * 32 for n in range(MAX_FETCH)])
        assert len(honest) < MAX_QUESTION

    simulate(tmp_path, (100, 0), scenario)


@pytest.mark.parametrize(
    "question", [[1], [[b"x", bytes(32)]], [[bytes(32)]], [[bytes(32), bytes(32)]] * (MAX_LACKS + 1)]
)
def test_a_malformed_question_about_what_is_lacking_is_refused(tmp_path: Path, question: list[Any]) -> None:
    async def scenario(network: Network) -> None:
        holder, guest = network.nodes[0], network.nodes[1]
        with pytest.raises(RequestRefused, match=r"record.lacks takes up to|the limit is"):
            await guest.kademlia.request(holder.agent, "record.lacks", canonical.encode(question))
        there = next(iter(holder.parts.held.bases_after(b"", 1))).basis
        (cid,) = holder.parts.held.cids_at(there, None, 1)
        asked = [(there, cid), (bytes(32), cid), (there, record_cid_of_digest(bytes(32)))]
        assert await guest.parts.records.lacks(holder.agent, asked) == [False, True, True]

    simulate(tmp_path, (100, 0), scenario)


def test_a_store_that_is_no_bundle_is_held_against_its_sender(
    tmp_path: Path,
) -> None:
    async def scenario(network: Network) -> None:
        holder, guest = network.nodes[0], network.nodes[1]
        garbage = canonical.encode([[]] * 1_000)
        with pytest.raises(RequestRefused, match="bad_request"):
            await guest.kademlia.request(holder.agent, "record.store", garbage)
        assert holder.kademlia.counters.bad_answers == 1

    simulate(tmp_path, (100, 0), scenario)
