"""Questions in a network that loses messages: how many miss something, and what it costs to ask once more.

Whole nodes on simulated wires, in virtual time, seeded: three holders, of which one or two are left, and an
asker that holds nothing. Each message is lost with a probability; questions follow each other at a pace. Who
leaves a request unanswered is suspected for a while and is no holder then: `before` asks no suspect, `after`
asks suspects where nobody else is left (`node.query.wave`). `silent` has two holders, one of which takes
questions and answers none, though it answers everything else, and no losses.

    python -m benchmarks.lost_answers [--quick]

Times are virtual, so figures do not depend on the machine. Half a minute of a core.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import trio

from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.identity import AgentId, Identity
from dht.network import PeerId
from node.models import Cost, NewEntry
from node.node import Node
from node.options import NodeOptions
from node.query.asker import DEFAULT_DEADLINE_MS
from node.query.wave import Wave
from sharding.tree import Prefix
from sim.network import SimWorld, open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network, start_node

HOLDERS = 3
DIM = 8
ENTRIES = 30
SEED = 1
LATENCY_US = 10_000
LOSS = 0.05
QUESTIONS, QUICK_QUESTIONS = 200, 40
PACES = ((2, 0.02), (1, 0.25))
"""Holders left, and seconds from one question to the next."""
SETTLED_S = 60.0


@dataclass
class LossyLink:
    """One delay for all; a message is lost with a probability that is set while the network runs."""

    loss: float = 0.0

    def __call__(self, sender: PeerId, receiver: PeerId, size: int, rng: random.Random) -> int | None:
        return None if rng.random() < self.loss else LATENCY_US


@dataclass(frozen=True, slots=True)
class Run:
    """A network, and what is asked of it."""

    left: int
    pace_s: float
    loss: float
    ask_suspects: bool
    silent: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lost_answers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_QUESTIONS} questions, not kept")
    options = parser.parse_args(arguments)
    questions = QUICK_QUESTIONS if options.quick else QUESTIONS
    figures: dict[str, Any] = {"questions": questions, "loss": LOSS, "deadline_ms": DEFAULT_DEADLINE_MS}
    missed: dict[bool, int] = {False: 0, True: 0}
    for left, pace_s in PACES:
        for ask_suspects in (False, True):
            costs = play(Run(left, pace_s, LOSS, ask_suspects), questions)
            when = "after" if ask_suspects else "before"
            found = figures_of(f"{left}_left_every_{pace_s:g}_s_{when}", costs)
            figures |= found
            missed[ask_suspects] += sum(cost.shards_missed > 0 for cost in costs)
    lossless = {ask: play(Run(2, 1.0, 0.0, ask_suspects=ask), QUICK_QUESTIONS) for ask in (False, True)}
    figures |= figures_of("no_loss_before", lossless[False]) | figures_of("no_loss_after", lossless[True])
    silent = {ask: play(Run(2, 1.0, 0.0, ask, silent=True), QUICK_QUESTIONS) for ask in (False, True)}
    figures |= figures_of("silent_before", silent[False]) | figures_of("silent_after", silent[True])
    targets: list[Target] = [
        at_least(
            "questions that missed something: before, by after", 10, missed[False] / max(1, missed[True])
        ),
        at_most("milliseconds without losses: after, by before", 1.0, times(lossless)),
        at_most("milliseconds beside a silent holder: after, by before", 1.0, times(silent)),
    ]
    emit("lost_answers", figures, targets, None if options.quick else RESULTS / "lost_answers.json")
    return 0 if all(target.met for target in targets) else 1


def times(costs: dict[bool, list[Cost]]) -> float:
    """What questions took in all with the suspects asked, by what they took without."""
    return sum(cost.ms for cost in costs[True]) / sum(cost.ms for cost in costs[False])


def figures_of(name: str, costs: Sequence[Cost]) -> dict[str, Any]:
    """What the questions of a run missed and took, in virtual milliseconds."""
    took = sorted(cost.ms for cost in costs)
    return {
        f"{name}_questions_missing": sum(cost.shards_missed > 0 for cost in costs),
        f"{name}_suspects_asked": sum(cost.suspects_asked for cost in costs),
        f"{name}_ms_median": rounded(median(took)),
        f"{name}_ms_p95": rounded(took[int(0.95 * len(took))]),
        f"{name}_ms_max": rounded(took[-1]),
    }


def play(run: Run, questions: int) -> list[Cost]:
    """What each question of a run cost."""
    costs: list[Cost] = []

    async def main() -> None:
        link = LossyLink()
        with tempfile.TemporaryDirectory(prefix="roseforest-lost-") as folder:
            async with open_world(SEED, link) as world:
                asker = await _begin(world, Path(folder), run)
                link.loss = run.loss
                for number in range(questions):
                    answer = await asker.query(None, vector(ENTRIES + number), 10, (), None)
                    costs.append(answer.cost)
                    await trio.sleep(run.pace_s)

    run_deterministic(main, seed=SEED)
    return costs


async def _begin(world: SimWorld, folder: Path, run: Run) -> Node:
    """The network once it is at rest, and those who are to go are gone; the asker."""
    founding = found_network(identity(0), DIM)
    nodes: list[Node] = []
    for number in range(HOLDERS + 1):
        bootstrap = (world.address(identity(0).agent),) if number else ()
        options = NodeOptions(bootstrap=bootstrap, capacity=100 if number < HOLDERS else 0)
        (folder / str(number)).mkdir()
        nodes.append(
            await start_node(world, identity(number), founding, folder / str(number), number, options)
        )
    await nodes[0].add([NewEntry(f"entry {number}", vector=vector(number)) for number in range(ENTRIES)])
    await trio.sleep(SETTLED_S)
    for number in range(run.left, HOLDERS):
        world.crash(identity(number).agent)
    await trio.sleep(SETTLED_S)
    if run.silent:
        fall_silent(nodes[0])
    asker = nodes[HOLDERS]
    if not run.ask_suspects:
        give_up_suspects(asker)
    return asker


def fall_silent(node: Node) -> None:
    """Take questions and answer none."""

    async def never(*_: object) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    setattr(node.parts.searches, "_serve", never)  # noqa: B010


def give_up_suspects(node: Node) -> None:
    """Ask nobody who is suspected."""
    asker = node.parts.asker
    plan = asker._plan

    async def hasty(shards: Sequence[Prefix], by_guests: bool) -> Wave:
        wave = await plan(shards, by_guests)
        setattr(wave, "on_loss", wave.on_failure)  # noqa: B010
        return wave

    def nobody(_: Prefix) -> list[AgentId]:
        return []

    setattr(asker, "_plan", hasty)  # noqa: B010
    setattr(asker, "_suspects", nobody)  # noqa: B010


def vector(number: int) -> list[float]:
    """A vector that looks random."""
    return np.random.default_rng(number).normal(size=DIM).tolist()  # type: ignore[no-any-return]


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


if __name__ == "__main__":
    sys.exit(main())
