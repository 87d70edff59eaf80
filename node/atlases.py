"""Atlases from a node's side: which it has, how it gets those of new epochs, and when it goes over to one.

An epoch names its atlas by hash. A node that hears of one fetches the atlas from whoever has it (`hello`), at
most `MAX_ATLAS_BYTES`, and checks hash, space and dimension before anything depends on it; until then it goes
on in the epoch before. Atlases are files named by their CIDs. From the line of epochs that this node works in
follows the history of layouts, and from that and the time since the newest was published what is written and
asked now (`dht.records.layouts`); this module waits for the moments at which that changes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from chain import canonical
from chain.cid import Cid, blob_cid, to_text
from chain.errors import ChainError
from chain.identity import AgentId
from chain.manifest import Manifest
from dht.errors import FrameError, NetworkError
from dht.network import MAX_BODY
from dht.overlay.hello import ATLAS_CHUNK, HELLO
from dht.overlay.kademlia import Kademlia
from dht.ports import Clock, Random, RunBlocking
from dht.records.layouts import ASK_S, MAX_FORMER, OVERLAP_S, SPREAD_S, Layouts, places_at
from dht.records.placement import Layout
from node.durable_files import read_bounded, write_atomically
from node.epochs import Epochs, Step
from node.errors import HomeError, InvalidInput, NotFound
from node.founding import SHARD_BITS, SpaceError, checked_atlas
from node.query.sketched_sample import SketchedSample
from sharding.atlas import MAX_ATLAS_BYTES, Atlas
from sharding.tree import ShardTree

FOLDER = "atlas"
"""Beside the chain."""
RETRY_S = 5.0
"""From one attempt to get an atlas to the next."""
MAX_ASKED = 64
"""Peers asked for an atlas in one attempt."""
CHUNK_TIMEOUT_S = 10.0
PATIENCE_S = 20.0
"""Seconds that one peer has for a whole atlas, so that the next is asked instead of one that trickles; twice
as long after each attempt in which somebody was too slow and nobody else had it."""
MAX_PATIENCE_S = 1_280.0

log = logging.getLogger(f"roseforest.{__name__}")


class Atlases:
    """The atlases of one network. `adopt` goes on in the newest epoch whose atlas is here."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        founding: Layout,
        layouts: Layouts,
        epochs: Epochs,
        kademlia: Kademlia,
        clock: Clock,
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        """`founding`: the layout of epoch 0."""
        self._manifest = manifest
        self._folder = folder
        self._founding = founding
        self._layouts = layouts
        self._epochs = epochs
        self._kademlia = kademlia
        self._clock = clock
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._known: dict[Cid, Atlas] = {}
        self._refused: set[Cid] = set()
        self._patience_s = PATIENCE_S
        self._made: dict[int, Layout] = {}
        self._wake = trio.Event()
        self.adopt: Callable[[], None] = lambda: None
        self.follow: Callable[[], Awaitable[None]] = _nothing
        """Goes over to the newest layout."""
        self.sample: Callable[[], Awaitable[SketchedSample]]
        """Vectors of what everybody holds, of which an atlas can be made."""

    def usable(self, cid: Cid | None) -> bool:
        """Whether this node can work by an atlas, or by none."""
        return cid is None or cid == self._manifest.atlas or cid in self._known

    @property
    def missing(self) -> list[Cid]:
        """The atlases of newer epochs that this node waits for."""
        steps = (*self._epochs.steps()[-1:], *self._epochs.ahead())
        wanted = [step.atlas for step in steps if step.atlas is not None]
        return [cid for cid in wanted if not self.usable(cid) and cid not in self._refused]

    @property
    def age_s(self) -> float:
        """Seconds since the newest atlas was published, by its publisher's clock and ours."""
        step = self._epochs.steps()[-1]
        return max(0.0, (self._clock.wall_us() - step.published_us) / 1_000_000)

    def served(self) -> bytes | None:
        """The bytes of the atlas of the epoch that this node works in; None where there is none."""
        cid = self._epochs.steps()[-1].atlas
        atlas = self._founding.atlas if cid == self._manifest.atlas else self._known.get(cid or b"")
        return None if atlas is None else atlas.encode()

    async def read(self, cid: Cid) -> bytes | None:
        """The bytes of an atlas that is here, or None."""
        return await self._run_blocking(self._read, cid)

    async def keep(self, data: bytes) -> Atlas:
        """Check an atlas and keep it; raises `InvalidInput` for one that this network cannot use."""
        atlas = await self._run_blocking(self._checked, data)
        await self._run_blocking(self._write, data)
        self._known[blob_cid(data)] = atlas
        return atlas

    async def require(self, cid: Cid | None) -> None:
        """Have an atlas here, asking peers for it; raises `NotFound` and `InvalidInput`."""
        if cid is None or cid == self._manifest.atlas or await self._load(cid):
            return
        if not await self._fetch(cid):
            raise NotFound(
                f"no peer serves the atlas {to_text(cid)}: give the file with --atlas, or have the node of "
                "who proposed it run"
            )

    async def load(self) -> None:
        """Read the atlases of the epochs that this node works in, or is about to, as far as they are here."""
        for step in (*self._epochs.steps()[-1 - MAX_FORMER :], *self._epochs.ahead()):
            if step.atlas is not None and not self.usable(step.atlas):
                try:
                    await self._load(step.atlas)
                except InvalidInput as error:
                    self._refuse(step.atlas, error)

    def apply(self) -> None:
        """Place and ask as the epoch that this node works in, and the tree of shards, have it now."""
        self._layouts.grow()
        history = [self._layout(step) for step in self._epochs.steps()]
        if not history[-1].known:
            return  # it is being fetched
        places = places_at(history, self.age_s)
        if self._layouts.change(places):
            log.info(
                "asking by the atlas of epoch %d and %d earlier ones, writing by that of epoch %d",
                places.current.generation,
                len(places.former),
                places.writes.generation,
            )

    def heard(self) -> None:
        """An epoch came in, or this node goes on in another one."""
        self.apply()
        self._wake.set()

    async def run(self) -> None:
        """Fetch what is missing, and change what is written and asked when its time has come, for ever."""
        while True:
            self._wake = trio.Event()
            for cid in self.missing:
                try:
                    if await self._fetch(cid):
                        self.adopt()
                except InvalidInput as error:
                    self._refuse(cid, error)
                except HomeError as error:  # a full disk: it is asked for again
                    log.error("the atlas %s is not kept: %s", to_text(cid), error)
            self.apply()
            await self.follow()
            with trio.move_on_after(self._pause()):
                await self._wake.wait()

    def _refuse(self, cid: Cid, error: InvalidInput) -> None:
        if cid not in self._refused:
            log.error("the epoch of the atlas %s is not followed: %s", to_text(cid), error)
        self._refused.add(cid)

    def _pause(self) -> float:
        if self.missing:
            return RETRY_S * self._rng.uniform(0.8, 1.2)
        left = [at - self.age_s for at in (SPREAD_S, OVERLAP_S, ASK_S)]
        left.append(self._layouts.changes_at() - self._clock.wall_us() / 1_000_000)
        return min((pause for pause in left if pause > 0), default=float("inf"))

    def _layout(self, step: Step) -> Layout:
        """One layout is one value as long as it is known: what compares them compares no arrays."""
        made = self._made.get(step.number)
        if made is None or not made.known:
            if step.number == 0:
                made = self._founding
            else:
                atlas = None if step.atlas is None else self._known.get(step.atlas)
                if step.atlas is not None and step.atlas == self._manifest.atlas:
                    atlas = self._founding.atlas
                known = step.atlas is None or atlas is not None
                made = Layout(atlas, ShardTree.fixed(SHARD_BITS, step.number), known)
            self._made[step.number] = made
        return made

    async def _load(self, cid: Cid) -> bool:
        if cid in self._known:
            return True
        data = await self._run_blocking(self._read, cid)
        if data is None:
            return False
        self._known[cid] = await self._run_blocking(self._checked, data)
        return True

    def _checked(self, data: bytes) -> Atlas:
        try:
            return checked_atlas(self._manifest.space, data)
        except SpaceError as error:
            raise InvalidInput(str(error)) from error

    def _read(self, cid: Cid) -> bytes | None:
        path = self._folder / to_text(cid)
        if not path.exists():
            return None
        data = read_bounded(path, MAX_ATLAS_BYTES, "delete it: it is fetched again")
        return data if cid in self._known or blob_cid(data) == cid else None

    def _write(self, data: bytes) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise HomeError(f"cannot make the folder {self._folder}: {error.strerror}") from error
        write_atomically(self._folder / to_text(blob_cid(data)), data)

    async def _fetch(self, cid: Cid) -> bool:
        """Get an atlas from some peer; raises `InvalidInput` for one that is what was named, and no use."""
        known = [c.agent for c in self._kademlia.contacts() if not self._kademlia.is_suspect(c.agent)]
        slow = False
        for agent in self._rng.sample(known, min(MAX_ASKED, len(known))):
            data: bytes | None = None
            try:
                with trio.move_on_after(self._patience_s):
                    data = await self._ask(agent, cid)
            except NetworkError as error:
                log.debug("%s does not serve an atlas: %s", agent.hex()[:8], error)
                if isinstance(error, FrameError):
                    self._kademlia.report(agent)
                continue
            if data is None:
                log.info("%s is too slow for an atlas: others are asked", agent.hex()[:8])
                slow = True
                continue
            await self.keep(data)
            self._patience_s = PATIENCE_S
            return True
        if slow:
            self._patience_s = min(2 * self._patience_s, MAX_PATIENCE_S)
        return False

    async def _ask(self, agent: AgentId, cid: Cid) -> bytes:
        data = bytearray()
        while True:
            question = canonical.encode(["atlas", len(data) // ATLAS_CHUNK, cid])
            chunk = _chunk(await self._kademlia.request(agent, HELLO, question, most=CHUNK_TIMEOUT_S))
            data += chunk
            if len(data) > MAX_ATLAS_BYTES:
                raise FrameError(f"an atlas of over {MAX_ATLAS_BYTES} bytes")
            if len(chunk) < ATLAS_CHUNK:
                break
        if blob_cid(bytes(data)) != cid:
            raise FrameError(f"{len(data)} bytes that are not the atlas {to_text(cid)}")
        return bytes(data)


def _chunk(reply: bytes) -> bytes:
    try:
        value = canonical.decode(reply, MAX_BODY)
    except ChainError as error:
        raise FrameError(f"a part of an atlas is malformed: {error}") from error
    match value:
        case [bytes(chunk)] if len(chunk) <= ATLAS_CHUNK:
            return chunk
    raise FrameError("a part of an atlas is the array of one byte string of 256 KiB at most")


async def _nothing() -> None:
    """Where nothing follows."""
