"""The fault suite: networks in which much goes wrong and some lie, and what holds for the honest.

Every kind of liar has a run of its own, in a small network that also loses messages, is cut in two, and whose
nodes come and go. Each run is then played once more with the defence taken away that it is about: what held
must not hold any more, or the run would prove nothing. A defence is taken away by overriding it on the honest
nodes as they start; no node has a switch for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from chain.cid import Cid
from chain.identity import AgentId
from chain.kinds import WARRANTS
from chain.record import Record
from dht.records.intake import Judged
from dht.records.placement import Role, bases_of
from dht.records.record_store import Held
from dht.records.replies import StoreStatus
from node.node import Node
from node.query.wave import Wave
from sharding.tree import Prefix
from sim.faults import SECOND_US
from sim.liars import COURTEOUS
from sim.result import Result
from sim.scenario import load_scenario, parse_scenario, scaled
from sim.simulated_stage import identity_of, play
from sim.trace import Event, TraceEvent
from tests.node.simulated_nodes import override
from tests.sim.test_simulated_stage import Quiet

pytestmark = pytest.mark.slow

LATE_S = 60.0
"""Virtual seconds after which a habitual liar is known."""

KEPT = """
    "pending == 0", "retrieved == 1", "stale_count == 0", "copies_gone == 0", "forgeries_held == 0",
    "bases_differing == 0", "replicas_equal == 1", "honest_accused == 0", "offenders_at_large == 0",
    "liars_idle == 0",
"""
ROUGH = """
about = "Eight nodes, one of them a liar; messages are lost, nodes come and go, half is cut off."
assert = [KEPT]
[topology]
nodes = 8
[[faults]]
kind = "loss"
at_s = 0
for_s = 80
nodes = "all"
loss = 0.05
[[faults]]
kind = "liar"
at_s = 0
nodes = "node-5"
lies = ["KIND"]
[[faults]]
kind = "crash"
at_s = 12
nodes = "node-2"
return_after_s = 10
[[faults]]
kind = "crash"
at_s = 60
nodes = "node-5"
return_after_s = 8
[[faults]]
kind = "partition"
at_s = 30
for_s = 25
sides = ["1/2"]
[[workload]]
do = "add"
name = "load"
over_s = 60
entries = 24
batch = 2
from = "storing"
[[workload]]
do = "ask"
name = "ask"
at_s = 70
over_s = 10
queries = 8
[finish]
settle_within_s = 120
"""


def ban_nobody(_: str, node: Node) -> None:
    """However often a peer sends what does not decode or verify, it is asked and answered."""
    override(node.kademlia._members, "blame", lambda *_, **__: None)


def wait_for_the_slow(_: str, node: Node) -> None:
    """No other replica is asked while a holder is slow, and none that was slow is asked last."""
    asker = node.parts.asker
    plan = asker._plan

    async def patient(shards: Sequence[Prefix], by_guests: bool) -> Wave:
        asker._late.clear()
        wave = await plan(shards, by_guests)
        override(wave, "on_slow", lambda _: [])
        return wave

    override(asker, "_plan", patient)


def see_no_fork(_: str, node: Node) -> None:
    """Nobody looks whether another record stands at the same place of a chain."""

    async def held(_: object) -> None:
        await trio.lowlevel.checkpoint()

    override(node.governance.watch, "held", held)


def believe_accusers(_: str, node: Node) -> None:
    """A warrant is believed as it comes, its proof is not looked at."""
    judge = node.parts.intake.outcome

    def outcome(record: Record, roles: Role, shards: Any, *rest: Any) -> Judged:
        if record.header.kind in WARRANTS:
            return Judged(StoreStatus.HELD, held=Held(record, bases_of(record, roles, None, shards)))
        return judge(record, roles, shards, *rest)

    override(node.parts.intake, "outcome", outcome)


def believe_whatever_comes(_: str, node: Node) -> None:
    """A record is held as it comes, and nobody looks whether its author signed it."""

    def outcome(record: Record, roles: Role, shards: Any, *_: Any) -> Judged:
        return Judged(StoreStatus.HELD, held=Held(record, bases_of(record, roles, None, shards)))

    override(node.parts.intake, "outcome", outcome)


def repair_nothing(_: str, node: Node) -> None:
    """Nobody looks whether the other holders have what they should."""

    async def look(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()

    override(node.parts.repairer, "look", look)


def believe_holders(_: str, node: Node) -> None:
    """Whoever says that it holds something need not prove it."""

    async def prove(_: AgentId, wanted: Mapping[Cid, bool]) -> frozenset[Cid]:
        await trio.lowlevel.checkpoint()
        return frozenset(wanted)

    async def challenge(_: AgentId, records: Sequence[tuple[Record, bool]]) -> frozenset[Cid]:
        await trio.lowlevel.checkpoint()
        return frozenset(record.cid for record, _ in records)

    override(node.parts.repairer._looks._proofs, "prove", prove)
    override(node.parts.repairer._looks._proofs, "challenge", challenge)


@dataclass(frozen=True)
class Case:
    """A run, the defence that it is about, and assertions at least one of which needs it."""

    text: str
    without: Callable[[str, Node], None]
    fails: str


def rough(kind: str) -> str:
    return ROUGH.replace("KEPT", KEPT).replace("KIND", kind)


# Two go for good, one after the other: what is left is on a dropper, or repaired.
DROPPER = """
about = "Six nodes, one of them a dropper; two others go for good."
assert = [KEPT]
[topology]
nodes = 6
[[faults]]
kind = "liar"
at_s = 0
nodes = "node-6"
lies = ["dropper"]
[[faults]]
kind = "crash"
at_s = 20
nodes = "node-2"
[[faults]]
kind = "crash"
at_s = 50
nodes = "node-3"
[[workload]]
do = "add"
name = "load"
over_s = 5
entries = 24
batch = 4
from = ["node-1", "node-2", "node-3", "node-4"]
[finish]
settle_within_s = 120
"""
# Four who hold nothing but the list come back to be the nearest of some records. The others would drop theirs
# after five minutes; then the author goes.
HOLLOW = """
about = "Two honest nodes, and four that come back to be holders, and are hollow."
assert = [KEPT]
[topology]
nodes = 6
[groups]
liars = ["node-3", "node-4", "node-5", "node-6"]
[[faults]]
kind = "liar"
at_s = 0
nodes = "liars"
lies = ["hollow"]
[[faults]]
kind = "crash"
at_s = 0
nodes = "liars"
return_after_s = 20
[[workload]]
do = "add"
name = "load"
at_s = 3
over_s = 5
entries = 80
batch = 10
from = "node-1"
[[faults]]
kind = "crash"
at_s = 400
nodes = "node-1"
[finish]
settle_within_s = 60
"""

SLOW = """
about = "Six nodes, two of which become slow as the first question is asked: nobody waits for them."
seed = 3
assert = [KEPT "questions.query_ms.max <= 800"]
[topology]
nodes = 6
observers = 1
[[faults]]
kind = "liar"
at_s = 25
nodes = ["node-5", "node-6"]
lies = ["slow"]
[[workload]]
do = "add"
name = "load"
entries = 30
from = "node-1"
[[workload]]
do = "ask"
name = "questions"
at_s = 25
over_s = 10
queries = 20
from = "observers"
"""

CASES: dict[str, Case] = {
    "pusher": Case(rough("pusher"), believe_whatever_comes, "forgeries_held"),
    "forker": Case(rough("forker"), see_no_fork, "offenders_at_large"),
    "accuser": Case(rough("accuser"), believe_accusers, "honest_accused"),
    "dropper": Case(DROPPER.replace("KEPT", KEPT), repair_nothing, "replicas_equal"),
    "slow": Case(SLOW.replace("KEPT", KEPT), wait_for_the_slow, "questions.query_ms.max"),
    "hollow": Case(HOLLOW.replace("KEPT", KEPT), believe_holders, "copies_gone"),
}


def run(text: str, folder: Path, on_start: Callable[[str, Node], None] | None = None) -> Result:
    return play(parse_scenario(text, "case.toml"), folder, Quiet(), on_start=on_start)


def broken(result: Result) -> dict[str, float | None]:
    return {verdict.assertion.metric: verdict.value for verdict in result.verdicts if not verdict.held}


@pytest.mark.parametrize("name", CASES)
def test_what_a_run_asserts_holds_and_not_without_the_defence_it_is_about(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert broken(run(case.text, tmp_path / "with")) == {}
    assert case.fails in broken(run(case.text, tmp_path / "without", case.without))


def test_nothing_that_a_forger_passes_on_is_held(tmp_path: Path) -> None:
    """Without a counterpart: who asks takes nothing else than it asked for. That of `pusher` is the same
    defence, met by somebody who does not wait to be asked."""
    assert broken(run(rough("forger"), tmp_path)) == {}


@pytest.mark.long
def test_a_sender_of_garbage_is_soon_left_alone(tmp_path: Path) -> None:
    """It still introduces itself and answers pings, so nothing but its reputation speaks against it."""

    def asked_late(folder: Path, on_start: Callable[[str, Node], None] | None = None) -> int:
        folder.mkdir()
        played = parse_scenario(rough("garbage"), "garbage.toml")
        liar = identity_of(played, "node-5").agent
        asked: list[float] = []

        def watch(event: TraceEvent) -> None:
            if event.event is Event.REQUEST and event.receiver == liar and event.method not in COURTEOUS:
                asked.append(event.at_us / SECOND_US)

        result = play(played, folder, Quiet(), watch, on_start)
        assert on_start is not None or broken(result) == {}
        return sum(LATE_S <= at < LATE_S + 20 for at in asked)

    banned = asked_late(tmp_path / "with")
    heard = asked_late(tmp_path / "without", ban_nobody)
    assert 3 * banned < heard


@pytest.mark.longest
@pytest.mark.parametrize("scale", [0.6, pytest.param(1.0, marks=pytest.mark.long)])
def test_strangers_for_ten_minutes(scale: float, tmp_path: Path) -> None:
    """The packaged scenario, of forty nodes as it is; `make test-long` plays 200 for an hour, too."""
    result = play(scaled(load_scenario("strangers"), scale), tmp_path, Quiet())
    assert broken(result) == {}
    assert result.metrics["entry_created_count"] >= 90 * scale
    assert result.metrics["liars_idle"] == 0
