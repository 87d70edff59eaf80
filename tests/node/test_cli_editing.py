"""Changing entries from the command line: processes against a served node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.commands.exit_codes import ExitCode
from tests.node.test_cli import Running, served


@pytest.fixture
async def rose(tmp_path: Path) -> AsyncIterator[Running]:
    async with served(tmp_path) as running:
        yield running


@pytest.mark.slow
async def test_edit_tag_vote_delete_and_retract(rose: Running, tmp_path: Path) -> None:
    rose_id = (await rose("add", "Roses climb.", "--tag", "rose", "--domain", "garden")).out.strip()
    text = tmp_path / "text"
    text.write_text("Roses ramble.\n")
    edited = await rose("edit", rose_id, "--file", str(text), "--clear", "domain")
    assert edited.out.startswith(f"{rose_id} is at version ")
    assert (await rose("edit", rose_id, "-", data=b"Roses ramble.\n")).err == "nothing to change\n"
    assert (await rose("tag", rose_id, "red", "wild")).code == 0
    assert (await rose("untag", rose_id, "rose")).code == 0
    voted = await rose("vote", rose_id, "up", "--reason", "it does", "--json")
    shown = await rose("get", rose_id)
    assert "tags       red, wild" in shown.out
    assert "votes      1 up, 0 down" in shown.out
    assert "trust      0.60, between 0.20 and 1.00: 1 voice of your trust root, 0 others" in shown.out
    assert f"version    {voted.value['version_id']}" in shown.out
    assert "Roses ramble." in shown.out
    assert "garden" not in shown.out
    assert ": it does" in shown.out
    assert (await rose("delete", rose_id, "--if-version", voted.value["version_id"])).code == 0
    late = await rose("edit", rose_id, "Roses wilt.", "--if-version", voted.value["version_id"])
    assert (late.code, "entry.delete by" in late.complaint) == (ExitCode.CONFLICT, True)
    assert (await rose("tag", rose_id, "late")).code == ExitCode.REFUSED
    assert (await rose("retract", rose_id)).code == 0
    assert (await rose("get", rose_id)).out.startswith(f"{rose_id} (deleted, retracted)")


@pytest.mark.slow
async def test_what_cannot_be_done_has_its_exit_code(rose: Running) -> None:
    rose_id = (await rose("add", "Roses climb.")).out.strip()
    for wrong in (("edit", rose_id), ("edit", rose_id, "x", "--file", "y"), ("vote", rose_id, "sideways")):
        assert (await rose(*wrong)).code == ExitCode.USAGE, wrong
    assert (await rose("untag", rose_id, "nobody gave it")).code == ExitCode.NOT_FOUND
    assert (await rose("edit", rose_id, "--file", "/nowhere")).code == ExitCode.REFUSED
    assert (await rose("vote", "nonsense", "up")).code == ExitCode.REFUSED


@pytest.mark.slow
async def test_a_snapshot_is_checked_and_the_tail_followed(rose: Running) -> None:
    rose_id = (await rose("add", "Roses climb.")).out.strip()
    taken = await rose("snapshot", rose_id, "--json")
    assert (taken.code, taken.value["records"]) == (0, 1)
    assert (await rose("tag", rose_id, "red")).code == 0
    tail = await rose("delta", rose_id, "--since", taken.value["version"], "--json")
    assert [one["kind"] for one in tail.value["records"]] == ["entry.tag"]
    again = await rose("delta", rose_id, "--since", tail.value["version"])
    assert (again.out, again.err) == ("", f"version {tail.value['version']}\n")
    assert "checked  2 signed records fold to it" in (await rose("snapshot", rose_id)).out
    assert (await rose("delta", rose_id, "--since", "x")).code == ExitCode.REFUSED
    assert (await rose("snapshot", "nonsense")).code == ExitCode.REFUSED
