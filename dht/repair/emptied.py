"""Emptied: a holder that has lost what it held, and is back at once, says so.

Who dies is missed, and what it held is repaired: a look after a change of holders finds out what they lack.
But one that is back before anybody missed it is the same holder as before, and what was found to be in order
is not asked about again until the next sweep, ten minutes later. It knows itself that its store is a new one
beside an old chain, though, and tells everybody it meets in its first minutes (`store.emptied`); they take
all that they have in common with it for unsettled, and look soon. Who says so for fun, or often, costs its
peers a comparison by ranges a minute.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from chain.identity import AgentId
from dht.errors import NetworkError, RefusalCode, RequestRefused
from dht.network import Network
from dht.overlay.kademlia import Kademlia
from dht.overlay.peer_messages import EMPTY

EMPTIED: Final = "store.emptied"
TELLS_S: Final = 300.0
"""So long after its start a node tells those that it meets."""
TICK_S: Final = 1.0
NOT_BEFORE_S: Final = 60.0
"""Who says so again sooner is not heard."""
MAX_HEARD: Final = 4_096
"""Agents of whom it is remembered when they said so."""

log = logging.getLogger(f"roseforest.{__name__}")


class Emptied:
    """Both sides. `on_emptied` is told who has lost what it held."""

    def __init__(
        self, network: Network, kademlia: Kademlia, is_emptied: bool, on_emptied: Callable[[AgentId], None]
    ) -> None:
        self._kademlia = kademlia
        self._is_emptied = is_emptied
        self._on_emptied = on_emptied
        self._heard: OrderedDict[AgentId, float] = OrderedDict()
        network.register(EMPTIED, kademlia.members_only(self._serve))

    async def run(self) -> None:
        """Tell everybody whom this node meets in its first minutes, if there is anything to tell."""
        if not self._is_emptied:
            return
        told: set[AgentId] = set()
        with trio.move_on_after(TELLS_S):
            while True:
                for contact in self._kademlia.contacts():
                    if contact.agent not in told and not self._kademlia.is_suspect(contact.agent):
                        await self._tell(contact.agent, told)
                await trio.sleep(TICK_S)

    async def _tell(self, agent: AgentId, told: set[AgentId]) -> None:
        try:
            await self._kademlia.request(agent, EMPTIED, EMPTY)
        except RequestRefused as error:
            if error.code == RefusalCode.UNKNOWN_METHOD:
                told.add(agent)  # of an older release: its next sweep will see
            log.debug("%s does not hear that this store is empty: %s", agent.hex()[:8], error)
        except NetworkError as error:
            log.debug("%s does not hear that this store is empty: %s", agent.hex()[:8], error)
        else:
            told.add(agent)

    async def _serve(self, sender: AgentId, body: bytes) -> bytes:
        if body != EMPTY:
            raise RequestRefused(RefusalCode.BAD_REQUEST, f"the body of {EMPTIED!r} is not empty")
        now = trio.current_time()
        if now >= self._heard.get(sender, -NOT_BEFORE_S) + NOT_BEFORE_S:
            self._heard[sender] = now
            self._heard.move_to_end(sender)
            while len(self._heard) > MAX_HEARD:
                self._heard.popitem(last=False)
            log.info("%s is there with an empty store and gets what belongs to it", sender.hex()[:8])
            self._on_emptied(sender)
        return EMPTY
