"""What gossip gives up in accuracy, and what liars can do to it, compared with rounds of all to all.

Peers train the digits' network (64-64-10, five local epochs a round) in step. Each pulls the shares of s
others, drawn as nodes draw them (`federated.gossip.draw`), examines them and combines them with its own in
fixed point by the task's strategy, with its own share as the base of differences. Said is the median and the
least accuracy over the honest peers' own models, and how far these lie apart: the median distance from their
mean, by its norm. Beside it the same peers and seeds in rounds of all to all, for as many as that takes.

The same is run with models in 16 bits (`federated.half`), as they travel where the network knows that form.

The last peers lie as in `benchmarks.attacks`, knowing what all honest ones show in the round, and say the
same to everybody; what they send is not refused by admission. Who has more liars among its draws than the
rule counts on (two of nine) can be led away in that step.

    python -m benchmarks.gossip [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.attacks import LIES, Round
from benchmarks.attacks import run as run_rounds
from benchmarks.digit_peers import Floats, Peers, accuracy, digits_task, new_model, unpack
from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.identity import Identity
from chain.learning_task import FEDAVG, FLOAT16, GOSSIP, NO_COMPRESSION, Task
from federated.admission import announced, examine
from federated.compression import sent_size
from federated.gossip import FANOUT, draw
from federated.half import expanded, halved, is_half
from federated.robust import round_model
from federated.update import decode, encode

MANY = 64
FEW = 20
"""As many as attacks on rounds are measured with."""
ROUNDS = 30
SEEDS = (1, 2, 3)
FANOUTS = (2, 4, 15)
SHARES = (10, 20)
ATTACKS = ("sign", "noise", "label", "alie", "ipm")
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5, "dirichlet_0.1": 0.1}
WITHIN = 0.02
"""How much less accurate than rounds of all to all a median peer may be, in parts that are alike."""
CLOSE = 0.005
"""How much less accurate a median peer may be with models in 16 bits."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended for the honest peers. `spread` is relative to the norm of their mean."""

    median: float
    least: float
    spread: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gossip", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="20 peers, eight rounds, one seed, two attacks")
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    rounds, seeds, many = (8, (1,), FEW) if quick else (ROUNDS, SEEDS, MANY)
    figures: dict[str, Any] = {"peers": many, "rounds": rounds, "fanout": FANOUT}
    targets: list[Target] = []
    for form in (NO_COMPRESSION, FLOAT16):
        task = digits_task(MANY, ROUNDS, FEDAVG, topology=GOSSIP, compression=form)
        figures[f"bytes of a model, {form}"] = sent_size(task)
    for name, alpha in list(ALPHAS.items())[: 1 if quick else None]:
        for strategy in (FEDAVG, ROBUST):
            all_ = [run_rounds("none", 0, alpha, seed, rounds, strategy).accuracy for seed in seeds]
            here = [run("none", 0, alpha, seed, rounds, strategy, FEW) for seed in seeds]
            lost = median(all_) - median(one.median for one in here)
            half = [run("none", 0, alpha, seed, rounds, strategy, FEW, form=FLOAT16) for seed in seeds]
            figures[f"{name}, {FEW} peers, {strategy}, gossip, {FLOAT16}"] = [shown(one) for one in half]
            cost = mean(one.median - other.median for one, other in zip(here, half, strict=True))
            targets.append(at_most(f"{name}, {strategy}: lost by {FLOAT16}, mean of all seeds", CLOSE, cost))
            figures[f"{name}, {FEW} peers, {strategy}, all to all"] = [rounded(one, 4) for one in all_]
            figures[f"{name}, {FEW} peers, {strategy}, gossip"] = [shown(one) for one in here]
            if not alpha:
                targets.append(at_most(f"{name}, {strategy}: lost beside all to all", WITHIN, lost))
    # On equal parts alone: of unequal ones for so many, hardly any draw leaves each peer enough images.
    figures[f"iid, {many} peers, {ROBUST}, gossip"] = [
        shown(run("none", 0, 0.0, seed, rounds, ROBUST, many)) for seed in seeds
    ]
    calm = run("none", 0, 0.0, 1, rounds, FEDAVG, many)
    for fanout in () if quick else FANOUTS:
        found = run("none", 0, 0.0, 1, rounds, FEDAVG, many, fanout)
        figures[f"iid, {many} peers, {FEDAVG}, fanout {fanout}"] = shown(found)
    figures[f"iid, {many} peers, {FEDAVG}, fanout {FANOUT}"] = shown(calm)
    for attack in ATTACKS[:2] if quick else ATTACKS:
        for share in SHARES[:1] if quick else SHARES:
            for strategy in (FEDAVG, ROBUST):
                found = run(attack, many * share // 100, 0.0, 1, rounds, strategy, many)
                figures[f"iid, {many} peers, {share} % {attack}, {strategy}"] = shown(found)
                print(attack, share, strategy, shown(found), flush=True)
                if strategy == ROBUST and share == SHARES[0] and not quick:
                    targets.append(at_least(f"{share} % {attack}: median", 0.85, found.median))
    emit("gossip", figures, targets, None if quick else RESULTS / "gossip.json")
    return 0 if all(target.met for target in targets) else 1


def shown(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON."""
    return {
        "median": rounded(outcome.median, 4),
        "least": rounded(outcome.least, 4),
        "spread": rounded(outcome.spread, 3),
    }


def run(
    attack: str,
    liars: int,
    alpha: float,
    seed: int,
    rounds: int,
    strategy: str,
    peers: int,
    fanout: int = FANOUT,
    form: str = NO_COMPRESSION,
) -> Outcome:
    """Train for so many rounds; a pure function of its arguments."""
    group = Peers(peers, alpha, seed)
    if attack == "label":
        group.poison_labels(liars)
    first = new_model(seed)
    task = digits_task(MANY, ROUNDS, strategy, topology=GOSSIP, fanout=fanout, compression=form)
    agents = [Identity.from_seed(number.to_bytes(32, "big")).agent for number in range(peers)]
    place = {agent: number for number, agent in enumerate(agents)}
    rng = np.random.default_rng([seed, 7])
    honest = peers - liars
    models: Floats = np.tile(first, (peers, 1))
    for number in range(1, rounds + 1):
        rows = group.train(models, number)
        sent = [
            (packed(task, row), int(size))
            for row, size in zip(rows[:honest], group.sizes[:honest], strict=True)
        ]
        if liars:
            middle = np.asarray(models[:honest].mean(0))
            known = Round(number, middle, rows[:honest], rows[honest:], models[0], task, rng)
            sent += LIES[attack](known)
        good = [
            (announced(task, examples, len(data)) or examine(task, None, data)) is None
            for data, examples in sent
        ]
        cids = [blob_cid(data) for data, _ in sent]
        combined = []
        for me in range(honest):
            order = [place[agent] for agent in draw(task.parameters, number, agents[me], agents)]
            drawn = [me, *[other for other in order if good[other]][:fanout]]
            updates = [(cids[one], *sent[one]) for one in drawn]
            data = round_model(task, expanded(task, sent[me][0]), updates)
            combined.append(
                np.concatenate([array.reshape(-1) for array in decode(task.arrays, data, task.max_abs)])
            )
        models = np.concatenate([np.stack(combined), np.tile(np.mean(combined, axis=0), (liars, 1))])
    scores = [accuracy(model) for model in models[:honest]]
    middle = models[:honest].mean(0)
    apart = np.linalg.norm(models[:honest] - middle, axis=1) / np.linalg.norm(middle)
    return Outcome(median(scores), min(scores), float(np.median(apart)))


def packed(task: Task, row: Floats) -> bytes:
    """A peer's model as it travels."""
    model = encode(task.arrays, unpack(row))
    return halved(task.arrays, model, task.max_abs) if is_half(task) else model


if __name__ == "__main__":
    sys.exit(main())
