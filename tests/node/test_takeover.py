"""A ServerApp's run is taken over though what its coordinator sent last had gone with it; not while it is at
work."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain import canonical
from chain.cid import Cid
from chain.learning_task import SERVER_APP
from federated.presence import HOLDS_S, SIGN_S
from federated.server_run import Collected, Duty
from node.node import Node
from tests.node.learners import publish, soon
from tests.node.simulated_nodes import Network, identity, override, simulate, until

pytestmark = pytest.mark.slow

DEADLINE_S = 20.0
LEASE_S = 5.0
ASKED = b"what the app sends, the same to everybody"
MEMBERS = 4


async def duty(node: Node, task: Cid, state: str, within_s: float) -> Duty:
    """What a node's process is to do, once it is that."""
    with trio.fail_after(within_s):
        while True:
            now = await node.learning.server_run(task).work(20.0, state == "coordinate")
            if now.state == state:
                return now


@pytest.mark.parametrize(("busy_s", "wait_s"), [(0.0, None), (61.0, 12.0)])
def test_messages_that_went_with_their_sender_come_from_who_takes_over(
    tmp_path: Path, busy_s: float, wait_s: float | None
) -> None:
    async def scenario(network: Network) -> None:
        nodes = network.nodes
        task = await publish(
            nodes[0],
            mode=SERVER_APP,
            arrays=(),
            rounds=1,
            reveal_ms=1_000,
            commit_ms=int(DEADLINE_S * 1_000),
            result_ms=int(LEASE_S * 1_000),
        )
        await until(lambda: not any(node.status().pending for node in nodes.values()))
        for number in range(MEMBERS):
            await nodes[number].learning.join(task)
        runs = {number: nodes[number].learning.server_run(task) for number in range(MEMBERS)}
        await soon(lambda: all(len(run.nodes()) == MEMBERS for run in runs.values()))

        async def nothing(sender: bytes, body: bytes) -> bytes:
            return canonical.encode(None)

        # The first node's call is heard of, its messages are not to be had; then it is gone.
        handlers = nodes[0].parts.network._handlers  # type: ignore[attr-defined]
        override(nodes[0].parts.network, "_handlers", {**handlers, "blob.list": nothing})
        blob = (await nodes[0].blobs.put(ASKED)).cid
        agents = [identity(number).agent for number in range(MEMBERS)]
        assert (await duty(nodes[0], task, "coordinate", 5)).number == 0
        messages = [(agent, blob) for agent in agents]
        call = await runs[0].call(task, runs[0].nodes(), [], messages, wait_s)
        await soon(lambda: all(run.ledger.head == call for run in runs.values()))
        # Its app is at work long after the answers were due; the others hear of it, and wait.
        heard = silent = trio.current_time()
        for _ in range(int(busy_s)):
            runs[0].at_work(call)
            heard = trio.current_time()
            await trio.sleep(1)
            for number in range(1, MEMBERS):
                assert (await runs[number].work(0.0, True)).state == "wait"
        began = trio.current_time()
        await network.crash(0)

        led: list[tuple[int, float]] = []
        collected: list[Collected] = []

        async def process(number: int) -> None:
            """A member's process: it answers, and coordinates when it is to, as `fl run` does."""
            node, serving = nodes[number], False
            while not runs[number].ledger.finished:
                now = await runs[number].work(20.0, not serving)
                if now.state == "answer":
                    assert now.call is not None
                    assert now.deadline_s is not None
                    assert 1 < now.deadline_s <= (wait_s or DEADLINE_S), "there is time to answer"
                    reply = (await node.blobs.put(b"answer %d" % number)).cid
                    await runs[number].answer(now.call, now.place, reply)
                elif now.state == "coordinate":
                    serving = True
                    led.append((number, trio.current_time() - began))
                    nursery.start_soon(lead, number)

        async def lead(number: int) -> None:
            """The app, run again on the log, comes to the same messages, and puts them here."""
            assert (await nodes[number].blobs.put(ASKED)).cid == blob
            found = Collected((), False)
            while not found.done:
                found = await runs[number].collect(call, 20.0)
            collected.append(found)
            assert len(runs[number].nodes()) == MEMBERS - 1, "the members are there for the next call"
            answers = [one.record for one in found.answers]
            await runs[number].end(call, answers, None, "enough was seen")

        with trio.fail_after(200):
            async with trio.open_nursery() as nursery:
                for number in range(1, MEMBERS):
                    nursery.start_soon(process, number)
        ((_, after),) = led
        gone = began - silent + after
        if busy_s:
            assert heard - silent + HOLDS_S - SIGN_S - 1 < gone < heard - silent + HOLDS_S + 1
        else:
            assert abs(gone - DEADLINE_S - LEASE_S) < 1
        (found,) = collected
        assert sorted(one.agent for one in found.answers) == sorted(agents[1:])
        # The one that is gone was not waited for.
        assert trio.current_time() - began - after < (wait_s or DEADLINE_S) / 2
        assert runs[1].ledger.steps[0].call.wait_ms == (None if wait_s is None else 1_000 * wait_s)

    simulate(tmp_path, [100] * MEMBERS, scenario)
