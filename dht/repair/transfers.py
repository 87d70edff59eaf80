"""Transfers: the way all that is moved between holders takes, be it repair, catching up, offers or migration.

Each request of theirs to a peer goes through that peer's circuit breaker (`dht.repair.circuit`), which all of
them share: a holder that answers, but fails at what is asked of it, costs the node one run of failures and
not one for each of them. The overlay's liveness looks at whether a peer is there at all, and keeps off one
that is not; so what it does not even send counts for nothing here. What goes is counted by one token bucket
(`dht.repair.throttle`), and who has sent rests at least as long as that took: questions go first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from chain.identity import AgentId
from dht.errors import FrameError, NetworkError, PeerUnreachable, RefusalCode, RequestRefused, RequestTimeout
from dht.overlay.contact_book import MAX_CONTACTS
from dht.ports import Random
from dht.repair.circuit import Circuit, Gate
from dht.repair.throttle import Bucket

MAX_REST_S = 1.0
"""After a request its sender rests as long as that took, at most so long."""
IN_TROUBLE = frozenset({RefusalCode.OVERLOADED, RefusalCode.INTERNAL})
"""Refusals that say that a peer cannot; others say that it will not, and that is an answer."""


class Transfers:
    """The circuits of one node, and its bucket. At most `MAX_CONTACTS` circuits are remembered."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng.choice
        self._circuits: dict[AgentId, Circuit] = {}
        self._bucket = Bucket()
        self._hurry = trio.Event()
        self.opened = 0
        """Times that a circuit opened."""
        self.held_back = 0
        """Requests that were not sent because a circuit was open."""

    @property
    def open(self) -> int:
        """Circuits that are not closed now."""
        return sum(circuit.gate is not Gate.CLOSED for circuit in self._circuits.values())

    @contextmanager
    def asking(self, agent: AgentId) -> Iterator[None]:
        """One request to a peer: what comes of the body is what comes of the request.

        Raises `PeerUnreachable` at once while its circuit is open. Cancellation says nothing of the peer.
        """
        circuit, number = self._circuit(agent).asked(trio.current_time())
        self._note(agent, circuit)
        if number is None:
            self.held_back += 1
            raise PeerUnreachable(f"peer {agent.hex()[:8]} failed too often of late: nothing moves there now")
        fails: bool | None = None
        try:
            yield
            fails = False
        except NetworkError as error:
            fails = _fails(error)
            raise
        finally:
            self._ended(agent, number, fails)

    async def rest(self, began: float, size: int) -> None:
        """A request that began then moved `size` bytes: let others have the disks and the line."""
        now = trio.current_time()
        self.spent(size)
        with trio.move_on_after(max(min(now - began, MAX_REST_S), self._bucket.wait_s(now))):
            await self._hurry.wait()

    def spent(self, size: int) -> None:
        """So many bytes went without waiting for their turn."""
        self._bucket = self._bucket.spent(size, trio.current_time())

    def hurry(self) -> None:
        """This node is about to go: nothing rests any longer, and each circuit may be tried, as ever one
        request at a time."""
        self._hurry.set()

    def _circuit(self, agent: AgentId) -> Circuit:
        circuit = self._circuits.get(agent, Circuit())
        return circuit.hurried() if self._hurry.is_set() else circuit

    def _ended(self, agent: AgentId, number: int, fails: bool | None) -> None:
        circuit = self._circuit(agent)
        if fails is None:
            self._note(agent, circuit.abandoned(number))
        elif fails:
            failed = circuit.failed(number, trio.current_time(), self._rng.random())
            self.opened += failed.gate is Gate.OPEN and failed.number != circuit.number
            self._note(agent, failed)
        else:
            self._note(agent, circuit.answered(number))

    def _note(self, agent: AgentId, circuit: Circuit) -> None:
        if agent not in self._circuits and len(self._circuits) >= MAX_CONTACTS:
            del self._circuits[next(iter(self._circuits))]
        self._circuits[agent] = circuit


def _fails(error: NetworkError) -> bool | None:
    """Whether a peer failed; None: it was not even asked, or the overlay knows better."""
    if isinstance(error, RequestRefused):
        return error.code in IN_TROUBLE
    return True if isinstance(error, RequestTimeout | FrameError) else None
