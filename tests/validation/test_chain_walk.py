"""A walk verifies exactly what hangs together from genesis on, in stretches of any length."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.cid import record_cid
from chain.kinds import CLOSE, CREATE
from chain.record import Record, sign_record
from chain.source_chain import Draft, head_of, next_record
from tests.validation.bench import ALICE, MANIFEST, NETWORK, Author, content
from validation.chain_walk import MAX_BRANCHES, Walked, walk
from validation.context import Context

CONTEXT = Context(MANIFEST, NETWORK)
LENGTH = 12


@cache
def chain() -> tuple[Record, ...]:
    author = Author(ALICE)
    author.join()
    for number in range(LENGTH - 3):
        author.write(Draft(CREATE, content(f"roses {number}").to_body()), 2_000 + number)
    return tuple(record.without_payload() for record in author.records)


def after(record: Record, draft: Draft, now_us: int = 9_000) -> Record:
    return next_record(ALICE, NETWORK, NETWORK, head_of(record), draft, now_us, bytes(16))


def create(text: str) -> Draft:
    return Draft(CREATE, content(text).to_body())


@given(cuts=st.lists(st.integers(0, LENGTH), max_size=4), missing=st.integers(0, LENGTH))
def test_stretches_come_as_far_as_the_whole_and_stop_at_a_gap(cuts: list[int], missing: int) -> None:
    records = [record for record in chain() if record.header.seq != missing]
    places = sorted({0, *cuts, LENGTH})
    here, verified = Walked((), 0), 0
    for low, high in zip(places, places[1:], strict=False):
        stretch = [record for record in records if low <= record.header.seq < high]
        here = walk(here.tips, stretch, CONTEXT)
        verified += here.verified
        assert not here.broken
    assert verified == min(missing, LENGTH)
    if missing < LENGTH - 1 and stretch and stretch[-1].header.seq > missing:
        assert here.gap == missing
    elif missing >= LENGTH - 1:
        assert here.gap is None
    filled = walk(here.tips, chain(), CONTEXT)  # what was verified is not asked again
    assert (filled.verified, filled.gap, filled.tips) == (LENGTH - verified, None, (chain()[-1],))


def test_nothing_follows_a_close_however_it_is_brought() -> None:
    """The record after the next one names a header that looks well; only the chain shows that it is none."""
    closed = after(chain()[-1], Draft(CLOSE, {}))
    ghost = after(closed, create("from beyond"))
    second = after(ghost, create("and on"))
    here = walk((), [*chain(), closed, ghost, second], CONTEXT)
    assert here.tips == (closed,)
    assert [(one.record, one.prev, one.verdict.rule) for one in here.broken] == [(ghost, closed, "closed")]
    assert here.gap is None
    assert walk((), [*chain(), closed, second], CONTEXT).gap == LENGTH + 1


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("clock", {"hlc": 999}),
        ("lamport", {"lamport": 99}),
        ("network", {"network": record_cid(b"")[:4].replace(b"\x81\x04", b"\x55") + bytes(32)}),
        ("kind", {"kind": "entry.sing"}),
        ("opening-order", {"kind": "chain.genesis"}),
        ("subject-shape", {"subject_seq": 1}),
    ],
)
def test_a_link_that_breaks_a_rule_ends_the_walk_and_is_named(rule: str, changes: dict[str, object]) -> None:
    good = after(chain()[-1], create("the next"))
    assert good.payload is not None
    header = replace(good.header, **changes)  # type: ignore[arg-type]
    bad = sign_record(ALICE, header, good.payload)
    here = walk(chain()[-1:], [bad], CONTEXT)
    assert [one.verdict.rule for one in here.broken] == [rule]
    assert here.tips == chain()[-1:]


def test_branches_are_walked_side_by_side_and_bounded() -> None:
    branches = sorted((after(chain()[-1], create(f"branch {n}")) for n in range(12)), key=lambda one: one.cid)
    here = walk(chain()[-1:], branches, CONTEXT)
    assert here.tips == tuple(branches[:MAX_BRANCHES])
    on = after(branches[3], create("goes on"))
    assert walk(here.tips, [on], CONTEXT).tips == (on,)


def test_an_epoch_that_is_not_known_is_waited_for() -> None:
    good = after(chain()[-1], create("the next"))
    assert good.payload is not None
    later = sign_record(ALICE, replace(good.header, epoch=record_cid(b"epoch")), good.payload)
    here = walk(chain()[-1:], [later], CONTEXT)
    assert (here.waits, here.gap, here.broken) == (True, None, ())
