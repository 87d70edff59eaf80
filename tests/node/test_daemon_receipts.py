"""The journey of a receipt through real daemons: added, waited for, shown, and short of what cannot come."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.cid import to_text
from chain.identity import peer_id
from chain.receipt import open_receipt
from tests.node.real_daemons import Daemons, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    made = Daemons(tmp_path)
    yield made
    made.close()


def test_an_entry_is_waited_for_until_others_have_signed_for_it(daemons: Daemons) -> None:
    author = daemons.run(daemons.home("author"))
    holder = daemons.run(daemons.home("holder", "--join", author.address))
    eventually(lambda: author.get("/v1/status")["peers"] == 1, "the holder to be known")
    done = daemons.command(author.home, "add", "Receipts are signed.", "--wait-receipts", "1", "--json")
    assert done.code == 0, done
    assert done.value["reached"]
    (name,) = done.value["receipts"]
    shown = author.get(f"/v1/records/{done.value['id']}/receipts")
    assert shown["full"] == [name]
    (one,) = [one for one in shown["receipts"] if one["full"]]
    receipt = open_receipt(base64.b64decode(one["data"]))
    assert (peer_id(receipt.holder), to_text(receipt.found.cid)) == (name, done.value["id"])
    lines = daemons.command(author.home, "get", done.value["id"], "--provenance").out
    assert "validated by 1 other node" in lines
    assert name in lines
    assert "enough for every own record" in daemons.command(author.home, "status").out

    short = daemons.command(author.home, "add", "Two.", "--wait-receipts", "2", "--timeout", "1", "--json")
    assert short.code == 10
    assert (short.value["reached"], short.value["wanted"], len(short.value["receipts"])) == (False, 2, 1)
    assert "1 of 2 nodes had signed" in short.complaint
    far = daemons.command(author.home, "add", "Nine.", "--wait-receipts", "9")
    assert far.code == 5
    assert "3 copies" in far.complaint
    assert author.get("/v1/status")["records"] == 5, "nothing was added"
    # Who is not the author asks the holders; here that is the author alone, whose word proves nothing.
    assert holder.get(f"/v1/records/{done.value['id']}/receipts")["full"] == []
