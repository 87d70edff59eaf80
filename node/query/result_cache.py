"""Answers kept for a while, so that a question asked again costs nothing.

An answer is kept under the whole question, and only when it is whole: all its shards answered, as many hits
as were wanted, and nothing heard while it was made that concerns it. It goes when its time is up,
when others are used more (least recently used first, within bounds of entries and bytes), and as soon as this
node hears of a change that concerns it: a record that comes to a shard that was asked or is about an entry
that it shows, or another's block of such a shard, new or not what it was.
What this node writes itself ends all of them, so what you add, change or delete shows in your next question.
Whatever judges records (warrants, doubts, blocks, the layout of the shards) is compared again when an answer
is taken out. What this node does not hear of may be as old as the time to live; `fresh` asks anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from chain.record import Record
from dht.ports import Clock
from node.models import Answer
from node.query.question import Question
from node.query.steps import Steps
from sharding.tree import Prefix

MAX_ANSWERS: Final = 1_000
MAX_CHANGED: Final = 10_000
"""Shards and entries of which it is known when they changed last; what is older counts for all others."""
MAX_BYTES: Final = 32 << 20
"""Of all answers together, as `answer_bytes` counts."""
HIT_BYTES: Final = 1_500
"""What a hit takes up beside its text and its record's payload."""
SHARD_BYTES: Final = 100
"""What remembering one asked shard takes up."""


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer
    about: frozenset[bytes]
    """The bases of the shards asked, and the entries shown: what it hangs on."""
    bytes: int
    at_s: float
    judged_by: tuple[object, ...]


class ResultCache:
    """Keeps answers for `ttl_s` seconds; 0 keeps none.

    `judged_by` names what decides whether records count; an answer is good only while it gives the very same
    objects. `hides` tells whether a record is blocked here. For the event loop alone.
    """

    def __init__(
        self,
        clock: Clock,
        ttl_s: float,
        judged_by: Callable[[], tuple[object, ...]],
        hides: Callable[[Record], bool],
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._judged_by = judged_by
        self._hides = hides
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._hang_on: dict[bytes, set[Hashable]] = {}
        self._changed: OrderedDict[bytes, int] = OrderedDict()
        self._all_changed = 0
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.changes = 0
        """How many changes were heard of; an answer that one of them concerns is not kept when it is made."""

    def __len__(self) -> int:
        return len(self._kept)

    def answer(self, question: Question, steps: Steps) -> Answer | None:
        """The answer kept for this question with its age, or None; always None to who asks for more."""
        if not question.cache or question.fresh or question.explain or self._ttl_s <= 0:
            return None
        key = question.key()
        kept = self._kept.get(key)
        now_s = self._clock.monotonic()
        if kept is not None and not self._good(kept, now_s):
            self._drop(key)
            kept = None
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        cost = replace(
            kept.answer.cost, cached_s=now_s - kept.at_s, ms=sum(steps.ms().values()), steps=steps.ms()
        )
        return replace(kept.answer, cost=cost)

    def keep(self, question: Question, answer: Answer, shards: Iterable[Prefix], changes: int) -> None:
        """Keep the answer to a question that asked `shards`, if it is whole.

        `changes`: the value of `changes` when it was begun.
        """
        cost = answer.cost
        partial = cost.shards_missed or cost.deadline_hit or len(answer.hits) < question.k
        if self._ttl_s <= 0 or partial or changes < self._all_changed:
            return
        key = question.key()
        self._drop(key)
        bases = [shard.basis() for shard in shards]
        size = answer_bytes(answer) + SHARD_BYTES * len(bases)
        if size > self._max_bytes:
            return
        about = frozenset([*bases, *(hit.id for hit in answer.hits)])
        if any(self._changed.get(one, 0) > changes for one in about):
            return
        self._kept[key] = _Kept(answer, about, size, self._clock.monotonic(), self._judged_by())
        self.bytes += size
        for one in about:
            self._hang_on.setdefault(one, set()).add(key)
        while len(self._kept) > self._max_answers or self.bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def heard(self, about: Iterable[bytes]) -> None:
        """Something changed at these bases of shards, or about these entries. O(answers that go)."""
        self.changes += 1
        about = list(about)
        for one in about:
            self._changed[one] = self.changes
            self._changed.move_to_end(one)
        while len(self._changed) > MAX_CHANGED:
            self._all_changed = max(self._all_changed, self._changed.popitem(last=False)[1])
        for key in {key for one in about for key in self._hang_on.get(one, ())}:
            self._drop(key)

    def clear(self) -> None:
        """This node wrote something, or what it may show changed: forget everything."""
        self.changes += 1
        self._all_changed = self.changes
        self._changed.clear()
        self._kept.clear()
        self._hang_on.clear()
        self.bytes = 0

    def _good(self, kept: _Kept, now_s: float) -> bool:
        judged_by = self._judged_by()
        return (
            now_s - kept.at_s < self._ttl_s
            and len(judged_by) == len(kept.judged_by)
            and all(now is then for now, then in zip(judged_by, kept.judged_by, strict=True))
            and not any(self._hides(hit.record) for hit in kept.answer.hits)
        )

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self.bytes -= kept.bytes
        for one in kept.about:
            hanging = self._hang_on[one]
            hanging.discard(key)
            if not hanging:
                del self._hang_on[one]


def answer_bytes(answer: Answer) -> int:
    """About how much memory an answer takes up."""
    return sum(HIT_BYTES + len(hit.text.encode()) + len(hit.record.payload or b"") for hit in answer.hits)
