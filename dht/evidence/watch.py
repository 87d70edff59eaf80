"""The watch: who sees an offence says so, once.

Two things are seen where records are taken in: a record that breaks a rule, while it is judged, and a second
record at a place of a chain, once it is held, in whatever role (the holders of the author's key get every
header, so they see each fork), met with the first while an entry is read, or shown as an agent's opening in a
notice. Of each offender the earliest
offence seen is turned into a warrant (`validation.accusation`), after a pause of random length: mostly
somebody else was quicker by then, and one warrant is enough. An offender that shows one earlier offence after
another gets ever slower answers, so it cannot fill its accusers' chains.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from threading import Lock

import trio

from chain.agent_life import revocation_in
from chain.errors import ChainError
from chain.identity import AgentId
from chain.kinds import KINDS_BY_RULE_VERSION, REVOKE, WARRANTS
from chain.record import Record, decode_payload
from chain.source_chain import Draft
from chain.warrant import Offence, fork_offence, offence_of, proof_from_body, proof_of
from dht.ports import Random, RunBlocking
from dht.records.bundle import Opening
from dht.records.record_store import Held, HeldStore
from validation.accusation import accuse_fork, accuse_invalid
from validation.context import Context
from validation.ledger import Ledger

PAUSE_S = 3.0
"""A warrant is written after up to so many seconds, unless another one has come by then."""
AGAIN_S = 60.0
"""An earlier offence of the same offender waits so long, then twice as long each time."""
MAX_AGAIN = 10
MAX_SUSPECTS = 1024
"""Offenders whose warrant is being waited for; what is seen of others meanwhile is seen again later."""
MAX_REMEMBERED = 8192
"""Offenders of whom it is remembered how many warrants were written."""
TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class _Suspect:
    offence: Offence
    draft: Draft
    due: float


class Watch:
    """Accuses on behalf of one agent. `write` appends a draft to its chain and shows it to everybody."""

    def __init__(
        self,
        agent: AgentId,
        context: Callable[[], Context],
        opening_of: Callable[[AgentId], Opening | None],
        store: HeldStore,
        ledger: Ledger,
        write: Callable[[Draft], Awaitable[None]],
        run_blocking: RunBlocking,
        random: Random,
    ) -> None:
        """`context` gives the bench of the present: manifest and epochs."""
        self._agent = agent
        self._context = context
        self._opening_of = opening_of
        self._store = store
        self._ledger = ledger
        self._write = write
        self._run_blocking = run_blocking
        self._rng = random.choice
        self._suspects: dict[AgentId, _Suspect] = {}
        self._seen: list[tuple[Offence, Draft]] = []
        self._lock = Lock()  # judging goes on in several threads
        self._written: dict[AgentId, int] = {}
        self.accused = 0
        """Warrants written so far."""

    def broke_a_rule(self, record: Record, context: Context) -> None:
        """A record broke a rule; called in the thread that judged it."""
        author, seq = record.header.author, record.header.seq
        if not self._interesting(author, seq):
            return
        opening = context.opening or self._opening_of(author)
        draft = None if opening is None else accuse_invalid(opening, record, context)
        self._note(draft)

    async def held(self, items: Iterable[Held]) -> None:
        """Records were stored here: does one of them stand at a place where another one does?"""
        places = [
            (item.record.header.author, item.record.header.seq)
            for item in items
            if self._interesting(item.record.header.author, item.record.header.seq)
        ]
        if places:
            await self._run_blocking(self._look_for_forks, places)

    async def met(self, pairs: Sequence[tuple[Record, Record]]) -> None:
        """Pairs at one place of a chain came together here, held or not: an entry was read and folded."""
        pairs = [pair for pair in pairs if self._interesting(pair[0].header.author, pair[0].header.seq)]
        if pairs:
            await self._run_blocking(self._accuse_pairs, pairs)

    async def heard(self, notices: Sequence[Record]) -> None:
        """Notices came: does the opening that one of them brings differ from the one that is here?

        Who stole a key can sign a second genesis, and show it nowhere but in a revocation by it.
        """
        if notices:
            await self._run_blocking(self._compare_openings, notices)

    async def run(self) -> None:
        """Write the warrants that are due, for ever."""
        while True:
            await trio.sleep(TICK_S)
            now = trio.current_time()
            with self._lock:
                seen, self._seen = self._seen, []
            for offence, draft in seen:
                known = self._suspects.get(offence.offender)
                if known is None or offence.seq < known.offence.seq:
                    due = now + self._pause(offence.offender) if known is None else known.due
                    self._suspects[offence.offender] = _Suspect(offence, draft, due)
            for author in [one for one, suspect in self._suspects.items() if suspect.due <= now]:
                suspect = self._suspects.pop(author)
                if self._ledger.decides(suspect.offence):
                    self._written[author] = self._written.pop(author, 0) + 1
                    while len(self._written) > MAX_REMEMBERED:
                        del self._written[next(iter(self._written))]
                    await self._write(suspect.draft)
                    self.accused += 1

    def _pause(self, author: AgentId) -> float:
        before = min(self._written.get(author, 0), MAX_AGAIN)
        return float(self._rng.uniform(0.0, PAUSE_S) if not before else AGAIN_S * 2 ** (before - 1))

    def _interesting(self, author: AgentId, seq: int) -> bool:
        """Whether an offence there could change from where on the author's records count."""
        first = self._ledger.proven_from(author)
        return author != self._agent and (first is None or seq < first)

    def _look_for_forks(self, places: list[tuple[AgentId, int]]) -> None:
        context = self._context()
        for twins in self._store.twins(places):
            opening = self._opening_of(twins[0].header.author)
            pair = next(
                (pair for pair in combinations(twins, 2) if self._ledger.decides(fork_offence(*pair))), None
            )
            if opening is not None and pair is not None:
                self._note(accuse_fork(opening, *pair, context))

    def _accuse_pairs(self, pairs: Sequence[tuple[Record, Record]]) -> None:
        context = self._context()
        for one, other in pairs:
            opening = self._opening_of(one.header.author)
            if opening is not None:
                self._note(accuse_fork(opening, one, other, context))

    def _compare_openings(self, notices: Sequence[Record]) -> None:
        context = self._context()
        for notice in notices:
            brought = _opening_in(notice)
            if brought is None or not self._interesting(brought[0].header.author, 0):
                continue
            opening = self._opening_of(brought[0].header.author)
            for one, other in zip(opening or (), brought, strict=False):
                if opening is not None and one.cid != other.cid:
                    self._note(accuse_fork(opening, one, other, context))
                    break

    def _note(self, draft: Draft | None) -> None:
        if draft is None or not self._known_kind(draft.kind):
            return
        offence = offence_of(proof_from_body(draft.kind, draft.body))
        if not self._ledger.decides(offence):
            return
        with self._lock:
            if len(self._seen) + len(self._suspects) < MAX_SUSPECTS:
                self._seen.append((offence, draft))

    def _known_kind(self, kind: str) -> bool:
        """Networks of older rules have no warrants."""
        _, epoch = self._ledger.newest
        rules = self._context().manifest.rules if epoch is None else epoch.rules
        return kind in KINDS_BY_RULE_VERSION.get(rules, frozenset())


def _opening_in(notice: Record) -> Opening | None:
    """The opening of the agent whom a warrant or a revocation is about."""
    try:
        if notice.header.kind in WARRANTS:
            return proof_of(notice).opening
        if notice.header.kind == REVOKE:
            return revocation_in(REVOKE, decode_payload(notice.payload or b""))[1]
    except ChainError:
        pass  # without its payload it shows nothing
    return None
