"""The link book: of which records it is known that their chain hangs together, and what follows where not.

A record is taken in with the header before it, and says nothing about what came before that. Who holds its
author's activity walks the whole chain (`dht.evidence.activity`). Everybody else holds the record at once,
serves it, and notes it here as *unconfirmed*: a few seconds later two of those who hold the activity are to
say that they have walked the chain up to it (`validation.receipts.accepts_link`). So nothing waits for
receipts that cannot exist yet, and an invented predecessor is found out. What they do not confirm is asked
about again, with pauses that double; then the asker walks the chain itself, from whoever has it, so that no
few holders can silence an author; and if nobody can show it a whole chain, the record is *doubted*: it stays
where it is, but nothing of its author from there on is shown here until it is confirmed after all. Silence
is no answer: what cannot be asked about stays unconfirmed.

Told what happened and when, without network or disk. All numbers are bounded: of an author with more than
`MAX_OF_AUTHOR` open questions only from where on to read them again is kept, and of more than `MAX_AUTHORS`
authors those that came first are read again after a restart only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from chain.cid import Cid
from chain.identity import AgentId

MAX_AUTHORS = 10_000
MAX_OF_AUTHOR = 2_048
MAX_ASKED = 512
"""Records in one question."""
FIRST_S = 5.0
"""A record is asked about after some 3 to 8 s: by then its header is at the others, and was walked."""
LEAST_S = 3.0
AGAIN_S = (10.0, 20.0, 40.0)
"""Pauses between the first questions about a record; after the last one its chain is walked here."""
DOUBTED_S = 300.0
"""How often it is asked about what is doubted."""


@dataclass(frozen=True, slots=True)
class Link:
    """An open question: a record at its place, how often it was asked about, and when it is next."""

    cid: Cid
    seq: int
    due: float
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one question: who was there to be asked, who said what about each record.

    `needed`: how many have to vouch. `answered`: how many said anything. `walked_here`: this node walked the
    chain that far itself. `vouched` counts the others that did.
    """

    needed: int
    answered: int
    vouched: Mapping[Cid, int]
    walked_here: Collection[Cid] = frozenset()


@dataclass(slots=True)
class _Author:
    links: dict[Cid, Link] = field(default_factory=dict)
    slot: float = -inf
    """When the newest questions are asked, together."""
    rescan: int | None = None
    doubts: dict[Cid, int] = field(default_factory=dict)


class LinkBook:
    """Open questions by author."""

    def __init__(self) -> None:
        self._authors: OrderedDict[AgentId, _Author] = OrderedDict()
        self.confirmed = 0
        """Records confirmed since the start."""

    @property
    def unconfirmed(self) -> int:
        """Records that are open questions, doubted ones too; O(authors)."""
        return sum(len(one.links) for one in self._authors.values())

    @property
    def open(self) -> list[Cid]:
        """The records that are open questions."""
        return [cid for one in self._authors.values() for cid in one.links]

    @property
    def doubted(self) -> int:
        """Records that are doubted; O(authors)."""
        return sum(len(one.doubts) for one in self._authors.values())

    def doubted_now(self) -> frozenset[Cid]:
        """The records that are doubted; O(authors)."""
        return frozenset(cid for one in self._authors.values() for cid in one.doubts)

    def doubts(self) -> dict[AgentId, int]:
        """From which seq on nothing of an author counts here, of those of whom something is doubted."""
        return {agent: min(one.doubts.values()) for agent, one in self._authors.items() if one.doubts}

    def noted(self, author: AgentId, records: Iterable[tuple[Cid, int]], now: float) -> None:
        """These records (CID, seq) are held here, and not for the author's activity."""
        one = self._of(author)
        if one.slot < now + LEAST_S:
            one.slot = now + FIRST_S if one.slot < now else one.slot + FIRST_S
        for cid, seq in records:
            if cid in one.links:
                continue
            if len(one.links) < MAX_OF_AUTHOR:
                one.links[cid] = Link(cid, seq, one.slot)
            else:
                one.rescan = seq if one.rescan is None else min(one.rescan, seq)

    def rescan(self, author: AgentId, at: float) -> None:
        """All that is held of an author is to be read, and asked about, from `at` on."""
        one = self._of(author)
        one.rescan = 0
        one.slot = max(one.slot, at)

    def next_at(self) -> float:
        """When something is due; O(authors)."""
        return min((self._due(one) for one in self._authors.values()), default=inf)

    def due(self, now: float) -> list[AgentId]:
        """The authors of whom something is to be asked or read."""
        return [agent for agent, one in self._authors.items() if self._due(one) <= now]

    def to_read(self, author: AgentId) -> int | None:
        """From which seq on the held records of an author are to be read, when there is room for them."""
        one = self._authors.get(author)
        return None if one is None or len(one.links) + MAX_ASKED > MAX_OF_AUTHOR else one.rescan

    def read(
        self, author: AgentId, records: Iterable[tuple[Cid, int]], next_seq: int | None, now: float
    ) -> None:
        """They were read up to `next_seq`; None: to the end."""
        one = self._of(author)
        one.rescan = None
        self.noted(author, records, now)
        if next_seq is not None:
            one.rescan = next_seq if one.rescan is None else min(one.rescan, next_seq)

    def questions(self, author: AgentId, now: float) -> list[Link]:
        """What to ask about now, the earliest places first."""
        one = self._authors.get(author)
        if one is None:
            return []
        due = [link for link in one.links.values() if link.due <= now]
        return sorted(due, key=lambda link: (link.seq, link.cid))[:MAX_ASKED]

    def answered(self, author: AgentId, asked: Iterable[Link], heard: Heard, now: float) -> list[Link]:
        """Take what was said; returns what is to be walked here: it was denied often enough."""
        one = self._of(author)
        to_walk: list[Link] = []
        for link in asked:
            if link.cid in heard.walked_here or heard.vouched.get(link.cid, 0) >= heard.needed:
                self._confirm(one, link)
                continue
            denied = heard.answered >= heard.needed
            tries = min(link.tries + denied, len(AGAIN_S) + 1)
            again = AGAIN_S[min(max(tries, 1), len(AGAIN_S)) - 1]
            pause = DOUBTED_S if link.cid in one.doubts else again
            one.links[link.cid] = later = replace(link, tries=tries, due=now + pause)
            if tries > len(AGAIN_S):
                to_walk.append(later)
        self._forget_if_settled(author, one)
        return to_walk

    def walked(self, author: AgentId, asked: Iterable[Link], found: Collection[Cid], now: float) -> None:
        """The chain was walked here: what was found in it is confirmed, the rest doubted."""
        one = self._of(author)
        for link in asked:
            if link.cid in found:
                self._confirm(one, link)
            elif link.cid in one.links:
                one.doubts[link.cid] = link.seq
                one.links[link.cid] = replace(link, due=now + DOUBTED_S)
        self._forget_if_settled(author, one)

    def gone(self, cids: Collection[Cid]) -> None:
        """These records are not held here any more; O(cids · authors)."""
        for author, one in list(self._authors.items()):
            for cid in cids:
                one.links.pop(cid, None)
                one.doubts.pop(cid, None)
            self._forget_if_settled(author, one)

    def _confirm(self, one: _Author, link: Link) -> None:
        if one.links.pop(link.cid, None) is not None:
            self.confirmed += 1
        one.doubts.pop(link.cid, None)

    def _due(self, one: _Author) -> float:
        reads = one.rescan is not None and len(one.links) + MAX_ASKED <= MAX_OF_AUTHOR
        return min((link.due for link in one.links.values()), default=one.slot if reads else inf)

    def _of(self, author: AgentId) -> _Author:
        one = self._authors.get(author)
        if one is None:
            one = self._authors[author] = _Author()
            while len(self._authors) > MAX_AUTHORS:
                calm = next((agent for agent, known in self._authors.items() if not known.doubts), None)
                del self._authors[next(iter(self._authors)) if calm is None else calm]
        return one

    def _forget_if_settled(self, author: AgentId, one: _Author) -> None:
        if not one.links and one.rescan is None:
            self._authors.pop(author, None)
