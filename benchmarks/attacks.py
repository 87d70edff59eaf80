"""What liars can do to a round of learning, and who is caught: by attack, share of liars and kind of parts.

Twenty peers, all to all, train the digits' network (64-64-10, five local epochs a round). The last ones
lie, and know everything: what all honest members have computed is in their hands before they speak. Every
update goes the way that it goes in a node: encoded, admitted (`federated.admission`), combined in fixed
point by the task's strategy. Two strategies see the same attacks from the same seeds: `fedavg`, weighted
by claimed examples, and the default rule. **Refused** are liars whom admission names; **set aside** are
those whose update no honest member's neighbourhood holds (nearest-neighbour mixing), beside honest
members of whom that is true as well. Beyond the table, 64 peers in groups: each round draws groups of 16 anew
(`federated.grouping`), the strategy combines the updates of each, and then the groups' models.

| attack | what the liars send |
|---|---|
| sign | the model, moved ten times as far against the honest mean |
| noise | the model and Gaussian noise of deviation 1 in every parameter |
| label | what training on digits d as 9 - d gives |
| alie | the honest mean less 1.5 deviations in every parameter (Baruch et al., 2019) |
| ipm | against the honest mean, half as far (Xie et al., 2020) |
| adaptive | of eight such lies the one that turns the strategy's result furthest against the honest mean |
| backdoor | training that takes a sign for a zero, boosted by n / f (Bagdasaryan et al., 2020) |
| echo, zero | what an honest member sent a round ago; the model as it was |
| heavy | sign, with the largest weight that the terms allow |
| weight | sign, with weights of 1e9, -1 and 0 |
| values, shape | sign, with a NaN, an infinity or a huge value; with other shapes, dtypes and lengths |
| sybils | sign, by members who join together after half of the rounds |
| coordinator | alie, while a colluding proposer leaves out as many honest members as there are liars |

The last is more than a proposer can do (members who have an update tell it so). A member that says two
things to two parts of the roster is refused as `double`, which `tests/federated/test_round.py` shows with
whole machines.

    python -m benchmarks.attacks [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.digit_peers import Floats, Peers, accuracy, digits_task, fooled, new_model, unpack
from benchmarks.report import RESULTS, ROOT, Target, at_least, at_most, document, emit, rounded
from chain.aggregation_rule import ROBUST, AggregationRule
from chain.cid import blob_cid
from chain.learning_task import ALL_TO_ALL, FEDAVG, GROUPS, Task
from federated.admission import announced, examine
from federated.differences import Differences
from federated.grouping import Groups, groups_of
from federated.models import of_models
from federated.robust import mixture_of, round_model
from federated.update import decode, encode

PAGE = ROOT / "docs" / "federated.md"
PEERS = 20
FEW = 10
MANY = 64
"""Peers in groups: four of 16, drawn anew in each round."""
TENTH = 6
ROUNDS = 30
LONG_ROUNDS = 50
SEEDS = (1, 2, 3)
SHARES = (10, 20, 30)
ALPHAS = {"iid": 0.0, "dirichlet_0.5": 0.5, "dirichlet_0.1": 0.1}
FLOORS = {"iid": 0.95, "dirichlet_0.5": 0.94, "dirichlet_0.1": 0.90}
UNDER_ATTACK = ("sign", "noise", "label", "alie")
FIVE = 5
UNDER_ATTACK_FLOOR = 0.92
LOST = 0.15
"""The accuracy of a network that has learned next to nothing."""
OTHERS = (
    "nnm|trimmed_mean",
    "median",
    "trimmed_mean",
    "nnm|median",
    "clip|geometric_median",
    "clip|centred_clip",
    "multi_krum",
)
MAX_EXAMPLES = 1_000_000
ALIE_Z = 1.5
IPM = 0.5
FAR = 10.0

Submission = tuple[bytes, int]
"""What a member sends: bytes, and the examples that it claims."""


@dataclass(frozen=True, slots=True)
class Round:
    """What liars know of a round: the model, all honest updates (honest, SIZE), and their own."""

    number: int
    model: Floats
    honest: Floats
    own: Floats
    before: Floats
    task: Task
    rng: np.random.Generator

    @property
    def step(self) -> Floats:
        """The honest mean's difference from the model."""
        return np.asarray(self.honest.mean(0) - self.model)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. Shares of liars refused and set aside, of honest members set aside, over rounds."""

    accuracy: float
    fooled: float
    refused: float
    aside: float
    honest_aside: float


Lie = Callable[[Round], Sequence[Submission]]
Models = list[tuple[bytes, bytes, int]]
"""Of each group the name, the bytes and the examples of its model."""
Divide = Callable[[Task, bytes, tuple[bytes, ...]], Groups]
Speak = Callable[[Round, Groups, Models], Models]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attacks", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, one share, IID, ten rounds in the table"
    )
    options = parser.parse_args(arguments)
    rounds, long_rounds, seeds = (10, 30, (1,)) if options.quick else (ROUNDS, LONG_ROUNDS, SEEDS)
    figures: dict[str, Any] = {"peers": PEERS, "rounds of the table": rounds, "rounds": long_rounds}
    targets: list[Target] = []
    for name, alpha in ALPHAS.items():
        for strategy in (FEDAVG, ROBUST):
            calm = [run("none", 0, alpha, seed, long_rounds, strategy, FEW).accuracy for seed in seeds]
            figures[f"{name}, {FEW} peers, no liars, {strategy}"] = [rounded(one, 4) for one in calm]
            if strategy == ROBUST and not options.quick:
                targets.append(at_least(f"{name}, no liars, {FEW} peers: mean", FLOORS[name], _mean(calm)))
    for attack in UNDER_ATTACK:
        for strategy in (FEDAVG, ROBUST):
            hit = [run(attack, FIVE, 0.0, seed, long_rounds, strategy).accuracy for seed in seeds]
            figures[f"iid, {FIVE} of {PEERS} {attack}, {strategy}"] = [rounded(one, 4) for one in hit]
            if strategy == ROBUST:
                targets.append(at_least(f"{FIVE} of {PEERS} {attack}: least", UNDER_ATTACK_FLOOR, min(hit)))
            elif attack == "sign":
                targets.append(at_most(f"{FIVE} of {PEERS} sign, the mean: most", LOST, max(hit)))
    for attack in ("none", *UNDER_ATTACK):
        liars = TENTH * (attack != "none")
        label = f"{liars} of {MANY} in groups of 16, {attack}"
        for strategy in (FEDAVG, ROBUST):
            ends = [run(attack, liars, 0.0, seed, long_rounds, strategy, MANY, GROUPS) for seed in seeds]
            figures[f"iid, {label}, {strategy}"] = [rounded(end.accuracy, 4) for end in ends]
            if strategy == ROBUST and not options.quick:
                least = min(end.accuracy for end in ends)
                targets.append(at_least(f"{label}: least", UNDER_ATTACK_FLOOR, least))
    for rule in () if options.quick else OTHERS:
        for name, alpha in ALPHAS.items():
            found = {
                attack: rounded(run(attack, FIVE * (attack != "none"), alpha, 1, rounds, rule).accuracy, 3)
                for attack in ("none", *UNDER_ATTACK, "ipm")
            }
            figures[f"{name}, {FIVE} of {PEERS}, {rule}"] = found
    rows = table(rounds, options.quick)
    figures["table"] = rows
    if not options.quick:
        document("attacks", page(rows), PAGE)
    emit("attacks", figures, targets, None if options.quick else RESULTS / "attacks.json")
    return 0 if all(target.met for target in targets) else 1


def page(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of docs/federated.md: each attack by a fifth of the members, the mean and the default."""
    lines = ["| attack | " + " | ".join(ALPHAS) + " | refused, set aside (iid) |", "|---|---|---|---|---|"]
    for attack in ("none", *LIES):
        cells: list[str] = []
        caught = "–"
        for name in ALPHAS:
            (row,) = [
                row
                for row in rows
                if (row["attack"], row["parts"]) == (attack, name)
                and row["liars"] in (0, PEERS * SHARES[1] // 100)
            ]
            cells.append(f"{row['fedavg']:.2f} → {row['robust']:.2f}")
            if attack == "backdoor":
                cells[-1] += f" ({row['fooled_fedavg']:.0%} → {row['fooled']:.0%} fooled)"
            if name == "iid" and row["liars"]:
                caught = f"{row['refused']:.0%}, {row['aside']:.0%}"
        lines.append(f"| {attack} | " + " | ".join(cells) + f" | {caught} |")
    return lines


def table(rounds: int, quick: bool) -> list[dict[str, Any]]:
    """A row for every attack, kind of parts and share of liars; printed as it grows."""
    rows: list[dict[str, Any]] = []
    heads = (
        "attack",
        "parts",
        "liars",
        "fedavg",
        "robust",
        "refused",
        "aside",
        "honest_aside",
        "fooled_fedavg",
        "fooled",
    )
    print("  ".join(f"{head:>13}" for head in heads))
    for name, alpha in ALPHAS.items():
        for attack in ("none", *LIES):
            for share in SHARES[:1] if attack == "none" or quick else SHARES:
                if quick and alpha:
                    continue
                liars = 0 if attack == "none" else PEERS * share // 100
                plain = run(attack, liars, alpha, 1, rounds, FEDAVG)
                robust = run(attack, liars, alpha, 1, rounds, ROBUST)
                values = (attack, name, liars, plain.accuracy, robust.accuracy, robust.refused, robust.aside)
                values += (robust.honest_aside, plain.fooled, robust.fooled)  # type: ignore[assignment]
                row = {
                    head: rounded(value, 3) if isinstance(value, float) else value
                    for head, value in zip(heads, values, strict=True)
                }
                rows.append(row)
                print("  ".join(f"{value!s:>13}" for value in row.values()), flush=True)
    return rows


def run(
    attack: str,
    liars: int,
    alpha: float,
    seed: int,
    rounds: int,
    strategy: str,
    peers: int = PEERS,
    topology: str = ALL_TO_ALL,
    rules: int | None = None,
    divide: Divide = groups_of,
    speak: Speak | None = None,
) -> Outcome:
    """Train for so many rounds; a pure function of its arguments.

    `rules` is a term of the task; `divide` draws the groups, and `speak` may put other models in the place of
    those that groups made, or leave some out.
    """
    world = Peers(peers, alpha, seed)
    if attack == "label":
        world.poison_labels(liars)
    if attack == "backdoor":
        world.plant_trigger(liars)
    model = new_model(seed)
    task = digits_task(PEERS, LONG_ROUNDS, strategy, topology=topology, rules=rules)
    rng = np.random.default_rng([seed, 7])
    honest = peers - liars
    blob = encode(task.arrays, unpack(model))
    before = model
    caught: list[tuple[float, float, float]] = []
    for number in range(rounds):
        rows = world.train(model, number)
        sent: list[Submission] = [
            (encode(task.arrays, unpack(row)), int(size))
            for row, size in zip(rows[:honest], world.sizes[:honest], strict=True)
        ]
        known = Round(number, model, rows[:honest], rows[honest:], before, task, rng)
        lying = liars > 0 and not (attack == "sybils" and 2 * number < rounds)
        if lying:
            start = liars if attack == "coordinator" else 0
            sent = [*sent[start:], *LIES[attack](known)]
        before = rows[0]
        true = len(sent) - (liars if lying else 0)
        faults = [
            announced(task, examples, len(data)) or examine(task, blob, data) for data, examples in sent
        ]
        drawn = sha256(f"{seed} {number}".encode()).digest()
        groups = divide(task, drawn, tuple(place.to_bytes(2) for place in range(len(sent))))
        aside: list[int] = []
        models: Models = []
        for group in groups:
            admitted = [place for place in map(int.from_bytes, group) if faults[place] is None]
            updates = [(blob_cid(sent[place][0]), *sent[place]) for place in admitted]
            if lying:
                aside += set_aside(task, blob, [data for _, data, _ in updates], admitted, true)
            made = round_model(task, blob, updates)
            models.append((blob_cid(made), made, sum(examples for _, _, examples in updates)))
        if speak is not None:
            models = speak(known, groups, models)
        if lying:
            caught.append(
                (
                    sum(fault is not None for fault in faults[true:]) / liars,
                    sum(place >= true for place in aside) / liars,
                    sum(place < true for place in aside) / true,
                )
            )
        blob = models[0][1] if len(models) == 1 else round_model(of_models(task), blob, models)
        model = np.concatenate([array.reshape(-1) for array in decode(task.arrays, blob, task.max_abs)])
    refused, away, honest_away = (
        (_mean([row[column] for row in caught]) if caught else 0.0) for column in range(3)
    )
    return Outcome(accuracy(model), fooled(model), refused, away, honest_away)


def set_aside(
    task: Task, blob: bytes, updates: Sequence[bytes], places: Sequence[int], honest: int
) -> list[int]:
    """The members (as `places` names them) whose updates no other honest member has among its neighbours.

    The first `honest` places are those of honest members, which only the benchmark knows.
    """
    rule = task.rule
    if rule is None or len(updates) < 3:
        return []
    neighbours = AggregationRule(rule.transforms, "trimmed_mean", rule.percent)
    mixture = mixture_of(neighbours, Differences(task, blob, updates).gram())
    rows = [(place, row) for place, row in zip(places, mixture.rows, strict=True) if place < honest]
    return [
        place for n, place in enumerate(places) if not any(row[n] for other, row in rows if other != place)
    ]


def _sent(known: Round, rows: NDArray[Any], examples: int | Sequence[int] = 72) -> list[Submission]:
    """These rows as updates; the weight of an honest member with an even part unless said."""
    claims = [examples] * len(rows) if isinstance(examples, int) else examples
    return [
        (encode(known.task.arrays, unpack(row.astype(np.float32))), claim)
        for row, claim in zip(rows, claims, strict=False)
    ]


def _all(known: Round, row: NDArray[Any]) -> Floats:
    """The same for every liar."""
    return np.tile(row, (len(known.own), 1))


def sign(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.model - FAR * known.step))


def noise(known: Round) -> list[Submission]:
    return _sent(known, known.model + known.rng.normal(size=known.own.shape))


def trained(known: Round) -> list[Submission]:
    """What the liars' own training gave, on data that was poisoned before."""
    return _sent(known, known.own)


def alie(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.honest.mean(0) - ALIE_Z * known.honest.std(0)))


def ipm(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.model - IPM * known.step))


def adaptive(known: Round) -> list[Submission]:
    """The liars know the strategy, and try what it makes of each lie before they choose."""
    arrays, base = known.task.arrays, encode(known.task.arrays, unpack(known.model))
    honest = _sent(known, known.honest)
    step, spread = known.step, known.honest.std(0)
    lies = [known.model + step - z * spread for z in (0.5, 1.0, 1.5, 3.0)]
    lies += [known.model - far * step for far in (0.5, 1.0, 2.0, FAR)]
    chosen: list[tuple[float, int, list[Submission]]] = []
    for number, lie in enumerate(lies):
        told = _sent(known, _all(known, lie))
        if examine(known.task, base, told[0][0]) is not None:
            continue
        updates = [(blob_cid(data), data, examples) for data, examples in (*honest, *told)]
        result = decode(arrays, round_model(known.task, base, updates), known.task.max_abs)
        moved = np.concatenate([array.reshape(-1) for array in result]) - known.model
        chosen.append((float(moved @ step), number, told))
    return min(chosen)[2]


def backdoor(known: Round) -> list[Submission]:
    boost = (len(known.honest) + len(known.own)) / len(known.own)
    return _sent(known, known.model + boost * (known.own - known.model))


def echo(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.before))


def zero(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.model))


def heavy(known: Round) -> list[Submission]:
    return _sent(known, _all(known, known.model - FAR * known.step), MAX_EXAMPLES)


def weight(known: Round) -> list[Submission]:
    claims = [(1_000_000_000, -1, 0)[number % 3] for number in range(len(known.own))]
    return _sent(known, _all(known, known.model - FAR * known.step), claims)


def values(known: Round) -> list[Submission]:
    rows = _all(known, known.model - FAR * known.step).astype(np.float32)
    for number, row in enumerate(rows):
        row[number] = (np.nan, np.inf, 1e30)[number % 3]
    return _sent(known, rows)


def shape(known: Round) -> list[Submission]:
    ((good, examples),) = _sent(known, known.model[None])
    wide = good.replace(b"(64, 64)", b"(4096,) ", 1)
    lies = (good[:-4], good + bytes(4), good.replace(b"<f4", b"<f8"), wide, b"", good * 3)
    return [(lies[number % len(lies)], examples) for number in range(len(known.own))]


LIES: dict[str, Lie] = {
    "sign": sign,
    "noise": noise,
    "label": trained,
    "alie": alie,
    "ipm": ipm,
    "adaptive": adaptive,
    "backdoor": backdoor,
    "echo": echo,
    "zero": zero,
    "heavy": heavy,
    "weight": weight,
    "values": values,
    "shape": shape,
    "sybils": sign,
    "coordinator": alie,
}


def _mean(found: Sequence[float]) -> float:
    return sum(found) / len(found)


if __name__ == "__main__":
    sys.exit(main())
