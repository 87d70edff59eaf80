"""A reader outside keeps a copy by HTTP: from a snapshot that it checks, then by what has come since."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chain.cid import from_text, record_cid, to_text
from chain.record import Record, decode_record, verify_signature
from crdt.delta_codec import decode_delta
from crdt.entry import EntryState
from crdt.errors import SnapshotError, SnapshotLacks
from crdt.snapshot import believed, decode_snapshot
from node.api.deltas import COMPACT, version_in, version_out
from node.errors import InvalidInput
from tests.node.memory_node import NETWORK
from tests.node.test_api import Served, serving
from tests.node.test_api_editing import send

ROSE = {"text": "Roses climb.", "tags": ["rose"], "domain": "garden"}


@pytest.fixture
async def api() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def followed(api: Served, entry: str, since: str, form: str) -> tuple[list[Record], str, int]:
    """All records since a version, verified, two a page; the last version, and how many pages it took."""
    records: list[Record] = []
    pages, more = 0, True
    while more:
        path = f"/v1/entries/{entry}/delta?since={since}&limit=2&form={form}"
        reply = await api.get(path)
        assert reply.status == 200
        if form == "json":
            answer = reply.value
            page = [decode_record(base64.b64decode(one["data"])) for one in answer["records"]]
            assert [to_text(one.cid) for one in page] == [one["id"] for one in answer["records"]]
            since, more = answer["version"], answer["more"]
        else:
            assert reply.headers["content-type"] == COMPACT
            page = list(decode_delta(reply.body, NETWORK))
            since, more = reply.headers["roseforest-version"], reply.headers["roseforest-more"] == "true"
        assert all(map(verify_signature, page))
        assert len(page) <= 2
        records += page
        pages += 1
    return records, since, pages


async def test_a_reader_starts_from_a_snapshot_that_its_records_fold_to_and_follows(api: Served) -> None:
    entry = (await api.post("/v1/entries", ROSE)).value["id"]
    for number in range(4):
        assert (await send(api, "PATCH", f"/v1/entries/{entry}", {"text": f"{number}"})).status == 200
    shown = (await api.get(f"/v1/entries/{entry}/snapshot")).value
    snapshot = decode_snapshot(base64.b64decode(shown["snapshot"]))
    assert (to_text(snapshot.entry), snapshot.digest.hex()) == (entry, shown["digest"])
    assert [to_text(cid) for cid in snapshot.heads] == shown["heads"]
    with pytest.raises(SnapshotLacks):
        believed(snapshot, [])
    records, version, pages = await followed(api, entry, "", "json")
    assert (len(records), pages) == (5, 3)
    copy = believed(snapshot, records)
    false = decode_snapshot(snapshot.encode().replace(b"garden", b"harden"))
    with pytest.raises(SnapshotError, match="do not fold"):
        believed(false, records)

    assert await followed(api, entry, version, "json") == ([], version, 1)
    for edit in ({"text": "Roses ramble."}, {"text": "Roses ramble.", "tags": ["wild"]}):
        assert (await send(api, "PATCH", f"/v1/entries/{entry}", edit)).status == 200
    tail, after, _ = await followed(api, entry, shown["version"], "compact")
    assert len(tail) == 2
    view = copy.add_all(tail).view()
    assert view is not None
    now = (await api.get(f"/v1/entries/{entry}")).value
    assert (view.version.fingerprint, view.tags) == (now["version_id"], ("rose", "wild"))
    assert after != version
    posted = await api.post(f"/v1/entries/{entry}/delta", {"since": shown["version"], "form": "compact"})
    assert [one.cid for one in decode_delta(posted.body, NETWORK)] == [one.cid for one in tail]


async def test_equal_roots_are_equal_entries(api: Served) -> None:
    ids = [(await api.post("/v1/entries", {"text": text})).value["id"] for text in ("one", "two")]
    first = (await api.post("/v1/snapshots", {"ids": ids})).value
    assert (await api.post("/v1/snapshots", {"ids": [*reversed(ids), ids[0]]})).value == first
    assert [one["id"] for one in first["snapshots"]] == sorted(ids)
    alone = (await api.get(f"/v1/entries/{ids[0]}/snapshot")).value
    assert alone["digest"] in [one["digest"] for one in first["snapshots"]]
    await send(api, "PATCH", f"/v1/entries/{ids[1]}", {"text": "three"})
    assert (await api.post("/v1/snapshots", {"ids": ids})).value["root"] != first["root"]


async def test_what_is_refused(api: Served) -> None:
    known: Any = (await api.post("/v1/entries", ROSE)).value["id"]
    unknown = to_text(record_cid(b"nobody"))
    for path, status in {
        f"{unknown}/delta": 404,
        f"{unknown}/snapshot": 404,
        "x/delta": 400,
        f"{known}/delta?since=x": 422,
        f"{known}/delta?since=kA!": 422,
        f"{known}/delta?limit=0": 422,
        f"{known}/delta?form=xml": 422,
        f"{known}/delta?since={'A' * 8_001}": 422,
    }.items():
        assert (await api.get(f"/v1/entries/{path}")).status == status, path
    version = EntryState(from_text(known)).add_all(api.node.about(from_text(known)).values()).version
    assert version_in(version_out(version)) == version
    for text in ("=", "A", "AAAA", "é"):
        with pytest.raises(InvalidInput):
            version_in(text)
