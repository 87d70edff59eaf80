"""The holder's side of summaries: makes blocks of what lies here, and serves them by `shard.summary`.

The node says when something in a shard has changed (`changed`), which costs a number; a block is made, or
made anew, when somebody asks for it, by the source of its kind. So a shard that nobody asks about costs
nothing, and blocks are not kept on disk. The count of a shard is read before its rows are: a block never
claims to be newer than it is, and what changes meanwhile comes with the next count.

A node answers for the shards that it is complete in; of others it says that they are absent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from chain.identity import AgentId
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.ports import RunBlocking
from dht.summaries.block import MAX_ROWS, Block, History, Kind, Version
from dht.summaries.messages import (
    METHOD,
    REPLY_BYTES,
    Item,
    State,
    changed,
    decode_question,
    encode_answer,
    same,
    whole,
)
from sharding.tree import Prefix

MAX_KEPT = 64 << 20
"""Bytes of blocks that are kept; beyond it the one that was not asked for longest is made again."""

MAX_MADE = 16_384
"""Rows of blocks made for the first time for one question, and those of one block more: some .2 s of work."""

Rows = Callable[[Prefix, Mapping[bytes, bytes]], Mapping[bytes, bytes] | None]
"""(shard, rows when it was last asked) -> its rows now, bodies by key; None: it has no block. Blocking."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the blocks of one kind come from."""

    kind: Kind
    rows: Rows


class SummaryService:
    """Blocks of this node's own shards. `changed` on the event loop; `block` from any thread."""

    def __init__(
        self,
        network: Network,
        kademlia: Kademlia,
        sources: Sequence[Source],
        serves: Callable[[Prefix], bool],
        instance: bytes,
        run_blocking: RunBlocking,
        layout_version: Callable[[], int] = lambda: 0,
    ) -> None:
        """`serves`: whether everything of a shard is here. `instance`: 8 bytes, others at each start.
        `layout_version`: another number when shards are others than they were.
        """
        self._layout_version = layout_version
        self._seen_version = layout_version()
        self.instance = instance
        self._sources = {source.kind: source for source in sources}
        self._serves = serves
        self._run_blocking = run_blocking
        self._count = 0
        self._all_at = 0
        self._changed_at: dict[Prefix, int] = {}
        self._kept: OrderedDict[tuple[Kind, Prefix], History] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()
        self.served = 0
        """Blocks, deltas and pages given to others."""
        self.served_bytes = 0
        network.register(METHOD, kademlia.members_only(self._serve, heavy=True))

    def changed(self, shards: Iterable[Prefix]) -> None:
        """Something in these shards is not as it was. To be called when it can be read.

        The wider shards that they lie in, which who has not heard of a split asks about, are not either.
        """
        self._count += 1
        for shard in shards:
            self._changed_at[shard] = self._count
            while shard.length:
                shard = shard.parent()
                self._changed_at[shard] = self._count

    def changed_all(self) -> None:
        """Shards are others now, or everything in them may be."""
        self._count += 1
        self._all_at = self._count
        self._changed_at.clear()

    def counter(self, shard: Prefix) -> int:
        """The count of a shard now."""
        return self._changed_at.get(shard, self._all_at)

    def present(self, kind: Kind, shard: Prefix) -> tuple[Block | None, bool]:
        """The block of a shard as it was made last, None: it was not; and whether it is as the shard is."""
        history = self._kept.get((kind, shard))
        if history is None or history.counter < 0:
            return None, False
        return history.block, history.counter >= self.counter(shard)

    def block(self, kind: Kind, shard: Prefix) -> tuple[Block, Version] | None:
        """The block of a shard as it is here; None where its source makes none. Blocking."""
        with self._lock:
            history = self._fresh(kind, shard)
            if history is None:
                return None
            block = history.block
            return block, Version(self.instance, history.counter, block.digest)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the blocks that are kept."""
        return self._bytes

    def _fresh(self, kind: Kind, shard: Prefix) -> History | None:
        name = (kind, shard)
        history = self._kept.pop(name, None) or History(kind)
        self._bytes -= len(history.block.rows)
        counter = self.counter(shard)
        if history.counter < counter:
            rows = self._sources[kind].rows(shard, history.block.mapping())
            if rows is None or len(rows) > MAX_ROWS:
                return None
            history.become(rows, counter)
        self._kept[name] = history
        self._bytes += len(history.block.rows)
        while self._bytes > MAX_KEPT and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= len(gone.block.rows)
        return history

    def follow_layout(self) -> None:
        """Look whether shards are others now. On the event loop."""
        version = self._layout_version()
        if version != self._seen_version:
            self._seen_version = version
            self.changed_all()

    async def _serve(self, _sender: AgentId, body: bytes) -> bytes:
        kind, items = decode_question(body, list(self._sources))
        self.follow_layout()
        # Read here, as it looks at the event loop's clock, and before the rows that it vouches for.
        here = [self._serves(item.shard) for item in items]
        reply = await self._run_blocking(self._answer, kind, items, here)
        self.served_bytes += len(reply)
        return reply

    def _answer(self, kind: Kind, items: Sequence[Item], here: Sequence[bool]) -> bytes:
        told: list[list[Any]] = []
        left, makes = REPLY_BYTES, MAX_MADE
        for item, there in zip(items, here, strict=True):
            if not there:
                told.append([int(State.ABSENT)])
            elif left < kind.row or makes < 0:
                told.append([int(State.LATER)])
            else:
                is_new = self.present(kind, item.shard)[0] is None
                one, size = self._tell(kind, item, left)
                told.append(one)
                left -= size
                block = self.present(kind, item.shard)[0]
                makes -= len(block) if is_new and block is not None else 0
        return encode_answer(self.instance, told)

    def _tell(self, kind: Kind, item: Item, left: int) -> tuple[list[Any], int]:
        """What is said of one shard, and how many bytes of rows that takes: at most `left`."""
        with self._lock:
            history = self._fresh(kind, item.shard)
            if history is None:
                return [int(State.ABSENT)], 0
            block, counter, known = history.block, history.counter, item.known
            if known is not None and known.digest == block.digest:
                return same(block, counter), 0
            if known is not None and known.instance == self.instance and item.after is None:
                delta = history.since(known.counter)
                size = 0 if delta is None else len(delta.removed) * kind.key + len(delta.added) * kind.row
                if delta is not None and size <= min(left, len(block.rows)):
                    self.served += 1
                    return changed(block, counter, delta), size
            rows, more = block.page(item.after, left // kind.row)
            if more and left < min(REPLY_BYTES, len(block.rows)) // 2:
                return [int(State.LATER)], left  # a page that is hardly begun is not worth a question
            self.served += 1
            return whole(block, counter, rows, more), len(rows)
