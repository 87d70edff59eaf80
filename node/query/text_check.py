"""Embedding the best hits again: is the vector by which a hit was found the vector of its text?

Spam can borrow the vector of what people ask for. Where every machine computes the same vectors (the built-in
embedder) a record with a borrowed one breaks the rule `binding`: no honest holder keeps it, and a hit is
refused as it comes in and counts against whoever sent it (`dht.records.intake`), so there is nothing left to
do here. With other embedders a vector is nobody's proof: machines differ, so validity cannot hang on it, and
neither the holder, which need not have the embedder, nor the author, who cannot be shown guilty to a third
party, can be blamed. But the asker can look for itself: the texts of the hits to be shown are embedded in one
call, and those that their vectors do not agree with are left out, here and each time after.

The time for it is bounded, and what was looked at once is remembered; a hit that was not reached in time, or
that the embedder cannot take now, stays.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from chain.cid import Cid
from chain.vector import codes_from_bytes, score_ppm
from dht.ports import RunBlocking
from node.embedding.caller import CallerVectors
from node.embedding.errors import EmbeddingError
from node.embedding.external import OPENAI, Unavailable
from node.models import Hit
from validation.payload_rules import BINDING_PPM

if TYPE_CHECKING:
    from node.embedding.embedder import Embedder

ROUNDS: Final = 3
"""Hits that take the places of those left out are looked at too, so often."""
MAX_REMEMBERED: Final = 20_000
"""Records of which it is known whether text and vector agree: about 2 MB."""
MAX_WAITING: Final = 8
"""Questions whose hits wait to be looked at; what comes beyond is shown as it is."""
BUDGET_S: Final = 0.5
"""The longest that embedding again may hold up an answer."""

log = logging.getLogger(f"roseforest.{__name__}")


@dataclass(slots=True)
class Looked:
    """What looking has found: hits looked at now, and hits left out."""

    checked: int = 0
    left_out: int = 0


class TextCheck:
    """Holds hits against their texts by `embedder`; with None there is nothing to do."""

    def __init__(self, embedder: Embedder | None, dim: int, run_blocking: RunBlocking) -> None:
        """`run_blocking` may take long: it is waited for in `run`, not by who asks."""
        self._embedder = embedder
        self._dim = dim
        self._run_blocking = run_blocking
        self._agrees: OrderedDict[Cid, bool] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[tuple[Sequence[Hit], trio.Event]](MAX_WAITING)
        self.checked = 0
        self.left_out = 0

    @property
    def active(self) -> bool:
        """Whether there is anything to do."""
        return self._embedder is not None

    async def run(self) -> None:
        """Embed what `check` hands over, for ever."""
        async for hits, done in self._receive:
            try:
                found = await self._run_blocking(self._compare, hits)
            except EmbeddingError as error:
                log.info("hits are shown without embedding them again: %s", error)
                found = {}
            self.checked += len(found)
            for cid, agrees in found.items():
                if not agrees:
                    log.warning("the vector of record %s is not its text's: not shown", cid.hex()[:16])
                self._agrees[cid] = agrees
                self._agrees.move_to_end(cid)
            while len(self._agrees) > MAX_REMEMBERED:
                self._agrees.popitem(last=False)
            done.set()

    async def check(self, hits: Sequence[Hit], k: int, looked: Looked, left_s: float) -> list[Hit]:
        """`hits`, best first, without those among the best `k` whose vector is known not to be their text's.

        For when it is `active`. Takes `left_s` at most, and not more than `BUDGET_S`; `looked` is kept
        up to date.
        """
        current = list(hits)
        with trio.move_on_after(max(0.0, min(BUDGET_S, left_s))):
            for _ in range(ROUNDS):
                current = self.known(current, looked)
                unknown = [hit for hit in current[:k] if hit.record.cid not in self._agrees]
                if not unknown:
                    break
                done = trio.Event()
                try:
                    self._send.send_nowait((unknown, done))
                except trio.WouldBlock:
                    break
                await done.wait()
                known = sum(hit.record.cid in self._agrees for hit in unknown)
                looked.checked += known
                if not known:
                    break
        return self.known(current, looked)

    def known(self, hits: Sequence[Hit], looked: Looked) -> list[Hit]:
        """`hits` without those that are known not to agree with their text."""
        kept = [hit for hit in hits if self._agrees.get(hit.record.cid, True)]
        looked.left_out += len(hits) - len(kept)
        self.left_out += len(hits) - len(kept)
        return kept

    def _compare(self, hits: Sequence[Hit]) -> dict[Cid, bool]:
        assert self._embedder is not None
        rows = self._embedder.embed([hit.text for hit in hits])
        return {
            hit.record.cid: score_ppm(row, codes_from_bytes(_codes(hit), self._dim)) >= BINDING_PPM
            for hit, row in zip(hits, rows, strict=True)
        }


def embedder_to_check(embedder: Embedder | CallerVectors, wanted: bool | None) -> Embedder | None:
    """The embedder to hold hits against, or None: where vectors are validated or come from callers, or the
    owner does not want it. `wanted` None: not by an endpoint, whose answers take long or cost money.
    """
    if isinstance(embedder, CallerVectors | Unavailable) or embedder.exact or wanted is False:
        return None
    return None if wanted is None and embedder.space.startswith(OPENAI) else embedder


def _codes(hit: Hit) -> bytes:
    """The signed vector's bytes; the record was verified before."""
    codes: bytes = hit.record.body()["codes"]
    return codes
