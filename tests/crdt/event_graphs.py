"""Random histories of one text that several people wrote apart, as the contents of edits by their CIDs."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from chain.cid import Cid, record_cid
from chain.content import Content
from chain.splices import Splice, spliced
from crdt.shared_text import Engine, version_text

LETTERS = "ab é😀\n"


@dataclass
class History:
    """`said`: what each edit says, in the order of writing. `past`: of each all before it, and itself."""

    said: dict[Cid, Content] = field(default_factory=dict)
    past: dict[Cid, frozenset[Cid]] = field(default_factory=dict)

    def add(self, content: Content) -> Cid:
        cid = record_cid(sha256(repr((len(self.said), content)).encode()).digest())
        self.said[cid] = content
        self.past[cid] = frozenset({cid}).union(*(self.past.get(one, frozenset()) for one in content.over))
        return cid

    def ends(self) -> tuple[Cid, ...]:
        """What nothing was written on top of."""
        under = {one for cid, past in self.past.items() for one in past if one != cid}
        return tuple(sorted(set(self.said) - under))


def begin(text: str) -> History:
    """A history of one create."""
    history = History()
    history.add(Content(text, b"\x7f"))
    return history


def write(history: History, over: tuple[Cid, ...], splices: tuple[Splice, ...], engine: Engine) -> Cid | None:
    """An edit at the version `over`; None where there is no such version, or it has too little text."""
    before = version_text(over, history.said, engine)
    if before is None:
        return None
    text = spliced(before, splices)
    return history.add(Content(text, b"\x7f", over=tuple(sorted(over)), splices=splices)) if text else None


def random_history(random: Random, edits: int, engine: Engine) -> History:
    """Edits at random versions, seldom only to put together what was written apart."""
    history = begin("".join(random.choices(LETTERS, k=random.randrange(1, 12))))
    for number in range(edits):
        there = list(history.said)
        picked = random.sample(there, min(len(there), random.choice((1, 1, 2, 3))))
        over = tuple(
            one for one in picked if not any(one in history.past[other] for other in picked if other != one)
        )
        before = version_text(over, history.said, engine)
        assert before is not None
        write(history, over, random_splices(random, before, f"<{number}>"), engine)
    return history


def random_splices(random: Random, text: str, mark: str) -> tuple[Splice, ...]:
    """Up to three splices of `text`; what they insert has `mark` in it."""
    splices: list[Splice] = []
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        at = random.randrange(len(text) + 1)
        delete = random.randrange(min(len(text) - at, 4) + 1)
        insert = mark + random.choice(LETTERS) if not delete or random.random() < 0.6 else ""
        one = Splice(at, delete, insert)
        text = spliced(text, (one,))
        splices.append(one)
    return tuple(splices)
