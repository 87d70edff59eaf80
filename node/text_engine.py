"""The engine that puts texts together: Loro, behind `crdt.shared_text.Engine`, in the extra `text`.

Loro is given no bytes of strangers: no blob, no JSON. Each step is typed into a fresh document, at its
version and under its peer, by splices whose reach and whose outcome were checked before. So what its
decoders make of hostile input is nobody's worry here. It still is a library of another language: a panic of
its becomes None, and the document it happened in is thrown away with everything in it.

The outcome is a function of the script: the order of the steps is the script's, the peers come from CIDs,
nothing else enters. Nodes with different versions of Loro agree as long as Loro keeps its order of
concurrent insertions; where it did not, a later edit's own text would differ from what is computed, and
that edit would be left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from chain.cid import Cid, to_text
from chain.splices import touched
from crdt.shared_text import BASE_PEER, Engine, Merged, Replayer, Script, Step

if TYPE_CHECKING:
    from loro import ID, LoroDoc

ROOT = "text"
NEEDS_EXTRA = "these values were written apart; to put their texts together, install roseforest[text]"

log = logging.getLogger(f"roseforest.{__name__}")


@cache
def engine() -> Engine | None:
    """The engine of this installation, or None without the extra; cheap, nothing is imported yet."""
    return None if find_spec("loro") is None else replay


def replay(script: Script) -> Merged | None:
    """Put the texts of a script together; None when Loro fails at it. Needs the extra.

    O(steps · text) and, for steps written apart, the length of both sides; at most half a second
    within the bounds of `crdt.shared_text`.
    """
    try:
        return _replay(script)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except (
        BaseException
    ) as error:  # Loro raises bare BaseException; a panic of it is none of Exception either
        log.warning("texts from %s cannot be put together: %s", to_text(script.base), str(error)[:200])
        return None


def _replay(script: Script) -> Merged:
    document = _Document(script)
    replayer = Replayer(script)
    for step in script.steps:
        if replayer.depends_on_left(step):
            continue
        document.go_to(step.over)
        if replayer.holds(step, document.text):
            document.type(step)
    values = replayer.values()
    document.go_to(values or (script.base,))
    return Merged(values, document.text, replayer.left_out())


class _Document:
    """A Loro document whose versions go by the records that made them.

    Loro means frontiers to be without ids that lie in the past of others, and panics at two of one peer. So
    a peer has one change, and of each change all that is in its past is kept, as the bits of a number.
    """

    def __init__(self, script: Script) -> None:
        from loro import LoroDoc

        self._doc: LoroDoc = LoroDoc()  # type: ignore[no-untyped-call]
        self._doc.set_detached_editing(True)
        self._doc.peer_id = BASE_PEER
        self._text = self._doc.get_text(ROOT)
        self._text.insert(0, script.text)
        self._doc.commit()
        self._at: frozenset[int] = frozenset({0})
        self._ids: list[ID] = [_id(BASE_PEER, len(script.text))]
        self._past: list[int] = [1]
        self._ends: dict[Cid, frozenset[int]] = {script.base: frozenset({0})}

    @property
    def text(self) -> str:
        return self._text.to_string()

    def go_to(self, records: Iterable[Cid]) -> None:
        from loro import Frontiers

        ends = self._frontier(records)
        if ends != self._at:
            self._doc.checkout(Frontiers.from_ids([self._ids[end] for end in sorted(ends)]))
            self._at = ends

    def type(self, step: Step) -> None:
        """Type a step at its version, where the document is now."""
        ends = self._frontier(step.over)
        if not step.splices:
            self._ends[step.record] = ends
            return
        self._doc.peer_id = step.peer
        for one in step.splices:
            if one.delete:
                self._text.delete(one.at, one.delete)
            if one.insert:
                self._text.insert(one.at, one.insert)
        self._doc.commit()
        past = 1 << len(self._ids)
        for end in ends:
            past |= self._past[end]
        self._at = self._ends[step.record] = frozenset({len(self._ids)})
        self._ids.append(_id(step.peer, touched(step.splices)))
        self._past.append(past)

    def _frontier(self, records: Iterable[Cid]) -> frozenset[int]:
        ends = frozenset().union(*(self._ends[record] for record in records))
        return frozenset(
            end for end in ends if not any(other != end and self._past[other] >> end & 1 for other in ends)
        )


def _id(peer: int, length: int) -> ID:
    from loro import ID

    return ID(peer, length - 1)
