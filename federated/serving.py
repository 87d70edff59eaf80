"""What the other members of its tasks ask of a node: to sign a round's outcome, and to hear that an app is at
work.

Both are methods on the wire, open to members of the network only. A body that cannot be read is the sender's
fault (a bad request); a question about a task that is not followed here, or not in that mode, is refused, and
a node that may be a copy of another signs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from chain import canonical
from chain.cid import Cid
from chain.identity import AgentId
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import Network
from federated.engagement import Engagement
from federated.following import Tools
from federated.messages import ALIVE, SIGN, decode_alive, decode_question
from federated.modes import Followed
from federated.server_run import ServerRun


class Serving:
    """Answers for the tasks in `engaged`, which goes on to change."""

    def __init__(self, tools: Tools, network: Network, engaged: Mapping[Cid, Followed]) -> None:
        self._tools = tools
        self._engaged = engaged
        self.signed = 0
        """Results of others that this node has signed."""
        network.register(SIGN, tools.kademlia.members_only(self._sign))
        network.register(ALIVE, tools.kademlia.members_only(self._alive))

    async def _sign(self, sender: AgentId, body: bytes) -> bytes:
        try:
            question = decode_question(body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        engagement = self._engaged.get(question.task)
        if not isinstance(engagement, Engagement):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node follows no rounds of this task")
        if self._tools.own.frozen is not None:
            # The original may have signed another result of the round.
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node may be a copy, and signs nothing")
        reply = await engagement.answer(sender, question)
        self.signed += bool(reply.signature)
        return reply.encode()

    async def _alive(self, sender: AgentId, body: bytes) -> bytes:
        try:
            task, call = decode_alive(body)
        except FrameError as error:
            raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
        run = self._engaged.get(task)
        if not isinstance(run, ServerRun):
            raise RequestRefused(RefusalCode.FORBIDDEN, "this node follows no ServerApp of this task")
        return canonical.encode(run.alive(sender, call))
