"""What a gate saves its member from, and how often it is a false alarm.

The digits over ten peers, five local epochs a round, fifty rounds, on equal parts (IID) and on unequal ones
(Dirichlet .5 and .1). Each honest peer keeps a fifth of its own part for its gate, trains on the rest, and
decides as `fl run --gate .1` does. Updates are combined by the mean, so that a lie gets through: from round
20 on two of ten move the model ten times as far against the honest mean. Then the same without liars, with
the mean and with the default rule: whoever leaves there was alarmed for nothing.

    python -m benchmarks.gate [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from benchmarks import digit_peers
from benchmarks.compression import LIES, flat, packed
from benchmarks.digit_peers import Floats, Labels, Peers, digits_task
from benchmarks.report import RESULTS, Target, at_least, at_most, emit, rounded
from chain.aggregation_rule import ROBUST
from chain.cid import blob_cid
from chain.learning_task import FEDAVG
from federated.flower.gate import PATIENCE, Metric, Standing, judge
from federated.robust import round_model

PEERS = 10
LIARS = 2
FROM = 20
"""The round in which lies begin."""
ROUNDS = 50
QUICK_ROUNDS = 26
SEEDS = (1, 2, 3)
QUICK_SEEDS = (1,)
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5, "dirichlet_0.1": 0.1}
SHARE = 0.1
HELD_OUT = 5
"""One image in so many is the gate's."""
LOSS = Metric("loss", lower=True)
RULES = {"mean": FEDAVG, "robust": ROBUST}
FALL = 0.3
"""The accuracy that the common model loses at least: without harm a gate proves nothing."""
CLOSE = 0.03
"""How much less accurate than before the lies the models that gates kept may be, mean of all."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracies of the common model before the lies and at the end, and of what the gates of honest peers
    kept; how many of these left, and how many models they refused.
    """

    before: float
    end: float
    kept: list[float]
    left: int
    refused: int


class Gated:
    """Peers with a held-out part, and what their gates have decided."""

    def __init__(self, alpha: float, seed: int, honest: int) -> None:
        self.peers = Peers(PEERS, alpha, seed)
        self.standings: list[Standing | None] = [None] * honest
        self.left: set[int] = set()
        self.refused = 0
        self._held: list[tuple[Floats, Labels]] = []
        rng = np.random.default_rng(seed)
        sizes = self.peers.sizes.copy()
        for place, size in enumerate(sizes):
            order = rng.permutation(size)
            for values in (self.peers.images, self.peers.labels):
                values[place, :size] = values[place, order]
            rest = int(size - size // HELD_OUT)
            self._held.append((self.peers.images[place, rest:size], self.peers.labels[place, rest:size]))
            self.peers.sizes[place] = rest

    def judge(self, model: Floats, data: bytes, number: int) -> None:
        """Every honest peer that is still there looks at the model that the round began with."""
        for place, before in enumerate(self.standings):
            if place in self.left:
                continue
            loss = digit_peers.loss(model, *self._held[place])
            now = judge(before, LOSS, SHARE, number - 1, data, {"loss": loss})
            self.standings[place] = now
            self.refused += bool(now.refused)
            if now.refused >= PATIENCE:
                self.left.add(place)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help=f"one seed and {QUICK_ROUNDS} rounds")
    options = parser.parse_args(arguments)
    rounds, seeds = (QUICK_ROUNDS, QUICK_SEEDS) if options.quick else (ROUNDS, SEEDS)
    figures: dict[str, Any] = {"peers": PEERS, "rounds": rounds, "seeds": len(seeds), "gate": SHARE}
    targets: list[Target] = []
    for name, alpha in ALPHAS.items():
        found = [run(FEDAVG, alpha, seed, rounds, LIARS) for seed in seeds]
        label = f"{name}, mean, {LIARS} lie"
        figures[f"{label}: common model before"] = [rounded(one.before, 4) for one in found]
        figures[f"{label}: common model at the end"] = [rounded(one.end, 4) for one in found]
        figures[f"{label}: kept by gates, worst"] = [rounded(min(one.kept), 4) for one in found]
        figures[f"{label}: honest who left"] = [one.left for one in found]
        figures[f"{label}: kept by gates, mean"] = [rounded(mean(one.kept), 4) for one in found]
        if name != "dirichlet_0.1":
            lost = mean(one.before - mean(one.kept) for one in found)
            targets.append(at_most(f"{label}: accuracy lost by what gates kept", CLOSE, lost))
            fall = min(one.before - one.end for one in found)
            targets.append(at_least(f"{label}: lost by the common model, least", FALL, fall))
        for rule, strategy in RULES.items():
            calm = [run(strategy, alpha, seed, rounds, 0) for seed in seeds]
            figures[f"{name}, {rule}, nobody lies: common model at the end"] = [
                rounded(one.end, 4) for one in calm
            ]
            figures[f"{name}, {rule}, nobody lies: who left"] = [one.left for one in calm]
            shares = [one.refused / (rounds * PEERS) for one in calm]
            figures[f"{name}, {rule}, nobody lies: share of models refused"] = [
                rounded(one) for one in shares
            ]
            if name == "iid":
                targets.append(at_most(f"{name}, {rule}: left for nothing", 0, sum(one.left for one in calm)))
    emit("gate", figures, targets, None if options.quick else RESULTS / "gate.json")
    return 0 if all(target.met for target in targets) else 1


def run(strategy: str, alpha: float, seed: int, rounds: int, liars: int) -> Outcome:
    """The last `liars` of the peers lie from round `FROM` on; who has left sends nothing more."""
    honest = PEERS - liars
    task, gated = digits_task(PEERS, ROUNDS, strategy), Gated(alpha, seed, honest)
    blob = packed(task, digit_peers.new_model(seed))
    before = 0.0
    for number in range(1, rounds + 1):
        model = flat(task, blob)
        gated.judge(model, blob, number)
        rows = gated.peers.train(model, number)
        if number == FROM:
            before = digit_peers.accuracy(model)
        for place, standing in enumerate(gated.standings):
            if standing is not None and standing.refused:
                rows[place] = gated.peers.train(flat(task, standing.model), number)[place]
        if liars and number >= FROM:
            rows[honest:] = LIES["sign"](model, rows[:honest])
        updates = []
        for place, row in enumerate(np.clip(rows, -task.max_abs, task.max_abs)):
            if place not in gated.left:
                update = packed(task, row)
                updates.append((blob_cid(update), update, int(gated.peers.sizes[place])))
        if not updates:
            break
        blob = round_model(task, blob, updates)
    kept = [digit_peers.accuracy(flat(task, one.model)) for one in gated.standings if one is not None]
    return Outcome(before, digit_peers.accuracy(flat(task, blob)), kept, len(gated.left), gated.refused)


if __name__ == "__main__":
    sys.exit(main())
