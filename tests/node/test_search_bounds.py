"""What a query may cost: the asker its deadline, whatever lookups take, and a holder one look at a shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio

from chain import canonical
from chain.content import MAX_DOMAIN, MAX_TAG, MAX_TAGS
from chain.manifest import MAX_REPLICATION
from chain.vector import MAX_DIM, PPM
from dht.errors import RequestRefused
from dht.overlay.contact import Contact
from dht.overlay.routing_table import K
from dht.repair.catch_up import FORMER_HOLDERS
from node.query.asker import EXTRA_HOLDERS
from node.query.filters import MAX_AUTHORS, MAX_DOMAINS, MAX_US, Filters
from node.query.search_protocol import (
    MAX_DEPTH,
    MAX_K,
    MAX_REQUEST,
    MAX_SHARDS,
    METHOD,
    SearchRequest,
    decode_request,
)
from node.query.serving import MAX_SERVED
from sharding.tree import Prefix
from tests.node.simulated_nodes import DIM, SHARDS, Network, override, simulate, vector

CODES = np.full(DIM, 127, dtype=np.int8)


def test_the_deadline_covers_the_lookups_of_holders_too(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        await network.fill(6, authors=[1])
        node = network.nodes[1]

        async def lost(_basis: bytes, _count: int) -> list[Contact]:
            await trio.sleep_forever()
            raise AssertionError

        override(node.kademlia, "known_holders", lambda _basis, _count: None)
        override(node.kademlia, "holders", lost)
        started = trio.current_time()
        with trio.fail_after(10):
            answer = await network.ask(1, vector(1), k=3, deadline_ms=500)
        assert trio.current_time() - started < 0.6
        assert answer.cost.deadline_hit
        assert answer.cost.shards_missed == answer.cost.shards_total == len(SHARDS)
        assert len(answer.hits) == 3, "what this node knows is shown all the same"

    simulate(tmp_path, (100, 0), scenario)


def test_searches_for_others_leave_workers_for_everything_else(tmp_path: Path) -> None:
    async def scenario(network: Network) -> None:
        holder, guest = network.nodes[0], network.nodes[1]
        running: list[int] = [0]
        most = 0

        async def slowly(_work: object, *_args: object) -> bytes:
            nonlocal most
            running[0] += 1
            most = max(most, running[0])
            await trio.sleep(0.1)
            running[0] -= 1
            return b"answered"

        override(holder.parts.searches, "_run_blocking", slowly)
        body = SearchRequest(SHARDS, CODES, 10).encode()
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await guest.kademlia.request(holder.agent, METHOD, body, 10.0))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert answers == [b"answered"] * 20
        assert most == MAX_SERVED

    simulate(tmp_path, (100, 0), scenario)


def test_a_shard_that_is_named_a_thousand_times_is_not_searched_a_thousand_times() -> None:
    request = SearchRequest(SHARDS, CODES, 10)
    assert decode_request(request.encode(), DIM).shards == SHARDS
    for shards in (SHARDS[:1] * 2, (*SHARDS, SHARDS[3]), SHARDS[:1] * MAX_SHARDS):
        with pytest.raises(RequestRefused, match="twice"):
            decode_request(SearchRequest(shards, CODES, 10).encode(), DIM)


def test_the_largest_request_fits_and_a_larger_one_is_not_decoded() -> None:
    deepest = 1 << MAX_DEPTH
    shards = tuple(Prefix(bits=deepest - n, length=MAX_DEPTH) for n in range(1, MAX_SHARDS + 1))
    tags = tuple(f"{n:0{MAX_TAG}d}" for n in range(MAX_TAGS))
    filters = Filters(
        authors=tuple(bytes([n]) * 32 for n in range(MAX_AUTHORS)),
        domains=tuple(f"{n:0{MAX_DOMAIN}d}" for n in range(MAX_DOMAINS)),
        confidence=PPM,
        since=MAX_US - 1,
        until=MAX_US,
    )
    request = SearchRequest(shards, np.ones(MAX_DIM, dtype=np.int8), MAX_K, tags, filters)
    decoded = decode_request(request.encode(), MAX_DIM)
    assert (decoded.shards, decoded.k, decoded.tags, decoded.filters) == (shards, MAX_K, tags, filters)
    with pytest.raises(RequestRefused, match=f"the limit is {MAX_REQUEST}"):
        decode_request(canonical.encode([0] * MAX_REQUEST), MAX_DIM)


def test_every_legal_replication_leaves_room_for_the_spare_holders_that_are_asked() -> None:
    """A lookup for more than k nodes is refused, which would end catching up and every query."""
    assert MAX_REPLICATION + max(EXTRA_HOLDERS, FORMER_HOLDERS) <= K
