"""The shard keys of records placed lately: whoever judges, stores, shows or publishes one asks for its key.

A key follows from atlas, vector and CID (`sharding.key`), and the CID names the payload that holds the
vector, so for one atlas the CID alone finds it again. Working it out is one dot product with every cell of
the atlas, a tenth of a millisecond.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

from chain.cid import Cid

MAX_KEYS = 4096
"""Keys remembered, some 600 kB; beyond it the one that was not asked for longest is worked out anew."""


class ShardMemory:
    """Keys by CID, for one atlas. Asked from several threads at a time."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Cid, bytes] = OrderedDict()
        self._lock = Lock()

    def keys(self, cids: Sequence[Cid], work_out: Callable[[Sequence[int]], Sequence[bytes]]) -> list[bytes]:
        """The keys of these records; `work_out` is called for the places of those that are not remembered."""
        known: dict[Cid, bytes] = {}
        with self._lock:
            for cid in cids:
                if cid in self._keys:
                    self._keys.move_to_end(cid)
                    known[cid] = self._keys[cid]
        missing = [place for place, cid in enumerate(cids) if cid not in known]
        if missing:
            new = {cids[place]: key for place, key in zip(missing, work_out(missing), strict=True)}
            with self._lock:
                self._keys.update(new)
                while len(self._keys) > MAX_KEYS:
                    self._keys.popitem(last=False)
            known |= new
        return [known[cid] for cid in cids]
