"""What receipts allow to conclude: how many validated a record, and whether its word can be taken for a link.

A holder that has not seen a chain itself accepts a record's `prev` when two others signed that they judged
it. Anybody can make keys and sign with them, so only the receipts of those count whom the asker itself finds
responsible for the author's activity (`near`): to forge two of these costs what it costs to hold a basis.
Pure: equal receipts in any order, with duplicates, give equal answers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from chain.cid import Cid
from chain.identity import AgentId
from chain.receipt import Finding, Receipt

PREV_RECEIPTS = 2
"""Holders whose receipts stand for having verified a chain up to a record."""


def validators(
    receipts: Iterable[Receipt], network: Cid, cid: Cid, *, author: AgentId | None, whole: bool = False
) -> frozenset[AgentId]:
    """The holders that found this record valid; never its author. `whole`: only those that had its payload.

    Receipts of other networks, about other records, or with another verdict do not count.
    """
    return frozenset(
        one.holder
        for one in receipts
        if one.network == network
        and one.found.cid == cid
        and one.found.finding is Finding.VALID
        and one.holder != author
        and (one.found.whole or not whole)
    )


def accepts_link(
    receipts: Iterable[Receipt], network: Cid, record: Cid, *, author: AgentId, near: Collection[AgentId]
) -> bool:
    """Whether a record may be built upon without its chain: `PREV_RECEIPTS` of `near` found it valid.

    `near` are the nodes that the asker finds responsible for the author's activity, the author left out.
    """
    return len(vouchers(receipts, network, record, author=author, near=near)) >= PREV_RECEIPTS


def vouchers(
    receipts: Iterable[Receipt], network: Cid, record: Cid, *, author: AgentId, near: Collection[AgentId]
) -> frozenset[AgentId]:
    """Those of `near` that found a record valid; arguments as of `accepts_link`."""
    return validators(receipts, network, record, author=author) & frozenset(near)
