"""Whether three small groups would be better than two large ones, and what two are worth.

A roster of 17 to 32 members is divided into two groups (`federated.grouping`). **Chances** are exact: of all
ways to draw so many liars into groups of the sizes that there are, the share in which they are

- *silent*: enough of some group to keep it from an outcome, more than a third of it;
- *many*: in some group more than a robust rule over its updates bears, a quarter;
- *half*: half of some group, which can sign what it likes, and refuse who is honest;
- *through*: such that a far-away model gets past the second step, though a group be silenced for it. The step
  bears one of three models. Of two it bears none: before rule version 7 their mean went as far as the lie,
  from then on a lie counts for twice the other model at most (`federated.mixing.bound_two`), and it takes a
  group that is silent and one that lies.

**Training** is that of `benchmarks.attacks`, by the default rule: with a tenth of liars in two groups; with
none and a fifth (sign) in two and in three, also on unequal parts; and with a group that signs, in every
fifth round, the model moved ten times as far against the honest mean. Where nobody lies the lengths of the
two groups' steps are compared, since the longer one is drawn in to twice the shorter.

    python -m benchmarks.groups [--quick]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from math import comb, prod
from statistics import median
from typing import Any

import numpy as np

from benchmarks.attacks import FAR, UNDER_ATTACK, Divide, Models, Round, run
from benchmarks.digit_peers import unpack
from benchmarks.report import RESULTS, Target, at_least, emit, rounded
from chain.aggregation_rule import ROBUST, parse_rule
from chain.cid import blob_cid
from chain.kinds import RULE_VERSION
from chain.learning_outcome import quorum
from chain.learning_task import GROUPS, Task
from federated.grouping import Groups, groups_of
from federated.update import decode, encode

ROSTERS = (17, 18, 20, 24, 28, 32)
SHARES = (10, 20, 25, 30)
PEERS = 24
FIFTH = 5
SEEDS = (1, 2)
ROUNDS = 20
KINDS = ("silent", "many", "half", "through before 7", "through")
SEIZED = 5
"""A group lies in every so many rounds."""
FLOOR = 0.92
ALPHAS = (0.0, 0.5)

bears = parse_rule(ROBUST).liars


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.groups", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one seed and ten rounds")
    quick = parser.parse_args(arguments).quick
    seeds, rounds = (SEEDS[:1], 10) if quick else (SEEDS, ROUNDS)
    figures: dict[str, Any] = {"chances": chances(), "each lies": independent(), "least": least()}
    targets: list[Target] = []
    learn = partial(trained, seeds, rounds, figures)
    for attack in ("none", *UNDER_ATTACK):
        liars = 0 if attack == "none" else PEERS // 10
        ends = learn(attack, liars, 0.0)
        if not quick:
            targets.append(at_least(f"{liars} of {PEERS}, two groups, {attack}: least", FLOOR, min(ends)))
    for alpha, liars, groups in product(ALPHAS, (0, FIFTH), (2, 3)):
        if (alpha, liars, groups) != (0.0, 0, 2):  # trained above
            learn("sign" if liars else "none", liars, alpha, groups)
    for alpha in ALPHAS:
        learn("none", 0, alpha, seized=True, rules=None)
        ends = learn("none", 0, alpha, seized=True)
        if not quick and not alpha:
            targets.append(at_least("one group lies in every fifth round: least", FLOOR, min(ends)))
    emit("groups", figures, targets, None if quick else RESULTS / "groups.json")
    return 0 if all(target.met for target in targets) else 1


def trained(
    seeds: Sequence[int],
    rounds: int,
    figures: dict[str, Any],
    attack: str,
    liars: int,
    alpha: float,
    groups: int = 2,
    seized: bool = False,
    rules: int | None = RULE_VERSION,
) -> list[float]:
    """Accuracy of each seed's model after the last round, which goes into the figures as well."""
    parts = f"dirichlet_{alpha}" if alpha else "iid"
    label = f"{parts}, {liars} of {PEERS} in {groups} groups, {attack}"
    if seized:
        label += ", one group lies in every fifth round" + (", before version 7" if rules is None else "")
    ratios: list[float] = []
    speak = lying_group if seized else partial(compared, ratios)
    divide: Divide = groups_of if groups == 2 else partial(divided, groups)
    ends = [
        run(attack, liars, alpha, seed, rounds, ROBUST, PEERS, GROUPS, rules, divide, speak).accuracy
        for seed in seeds
    ]
    figures[label] = [rounded(end, 4) for end in ends]
    if not liars and groups == 2 and not seized:
        pair = {"median": rounded(median(ratios), 3), "most": rounded(max(ratios), 3)}
        figures[f"{parts}, no liars, the longer of two steps by the shorter"] = pair
    print(label, figures[label], flush=True)
    return ends


def divided(count: int, _task: Task, drawn: bytes, agents: tuple[bytes, ...]) -> Groups:
    """So many groups of nearly equal size, by chance."""
    order = np.random.default_rng(list(drawn)).permutation(len(agents))
    return tuple(tuple(sorted(agents[place] for place in part)) for part in np.array_split(order, count))


def lying_group(known: Round, _groups: Groups, models: Models) -> Models:
    """In every fifth round the first group's model is far away, against where honest members went."""
    if known.number % SEIZED:
        return models
    lie = encode(known.task.arrays, unpack((known.model - FAR * known.step).astype(np.float32)))
    return [(blob_cid(lie), lie, models[0][2]), *models[1:]]


def compared(ratios: list[float], known: Round, _groups: Groups, models: Models) -> Models:
    """Notes how much further than the other one of two models lies from what the round began with."""
    if len(models) == 2:
        task = known.task
        rows = [decode(task.arrays, data, task.max_abs) for _, data, _ in models]
        moved = [np.concatenate([one.reshape(-1) for one in row]) - known.model for row in rows]
        lengths = sorted(float(np.linalg.norm(step)) for step in moved)
        ratios.append(lengths[1] / lengths[0])
    return models


def chances() -> list[dict[str, Any]]:
    """A row for each roster, share of liars and number of groups."""
    rows: list[dict[str, Any]] = []
    for members, share, groups in product(ROSTERS, SHARES, (2, 3)):
        liars = round(members * share / 100)
        rows.append({"members": members, "liars": liars, "groups": groups})
        rows[-1] |= {name: rounded(found, 6) for name, found in chance(members, liars, groups).items()}
    return rows


def independent() -> list[dict[str, Any]]:
    """The same where each member lies with so many per cent, so that there may be any number of liars."""
    rows: list[dict[str, Any]] = []
    for members, share, groups in product(ROSTERS, SHARES[:2], (2, 3)):
        total = dict.fromkeys(KINDS, 0.0)
        for liars in range(1, members + 1):
            ways = comb(members, liars) * (share / 100) ** liars * (1 - share / 100) ** (members - liars)
            for name, found in chance(members, liars, groups).items():
                total[name] += ways * found
        rows.append({"members": members, "percent": share, "groups": groups})
        rows[-1] |= {name: rounded(found, 6) for name, found in total.items()}
    return rows


def least() -> list[dict[str, Any]]:
    """The fewest liars by whom each can come about at all."""
    rows: list[dict[str, Any]] = []
    for members, groups in product(ROSTERS, (2, 3)):
        found = {liars: chance(members, liars, groups) for liars in range(1, members + 1)}
        rows.append({"members": members, "groups": groups})
        rows[-1] |= {name: min(liars for liars in found if found[liars][name] > 0) for name in KINDS}
    return rows


def chance(members: int, liars: int, groups: int) -> dict[str, float]:
    """The chances that the module's text names, for one roster."""
    sizes = [members * (at + 1) // groups - members * at // groups for at in range(groups)]
    found = dict.fromkeys(KINDS, 0.0)
    for drawn, share in draws(sizes, liars):
        pairs = list(zip(drawn, sizes, strict=True))
        silent = [liar > size - quorum(size) for liar, size in pairs]
        half = [2 * liar >= size for liar, size in pairs]
        found["silent"] += share * any(silent)
        found["many"] += share * any(liar > bears(size) for liar, size in pairs)
        found["half"] += share * any(half)
        found["through before 7"] += share * through(groups, sum(half), sum(silent), 0)
        found["through"] += share * through(groups, sum(half), sum(silent), 1)
    return found


def draws(sizes: Sequence[int], liars: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """How many liars each group may get, and how likely that is: multivariate hypergeometric."""
    for drawn in product(*(range(min(size, liars) + 1) for size in sizes)):
        if sum(drawn) == liars:
            ways = prod(comb(size, liar) for size, liar in zip(sizes, drawn, strict=True))
            yield drawn, ways / comb(sum(sizes), liars)


def through(groups: int, lying: int, silent: int, of_two: int) -> bool:
    """Whether liars who have half of so many groups, and can silence so many (those too), can carry their
    model however far away it is, where the second step bears `of_two` of two models."""
    left = range(groups - (silent - lying), groups + 1)
    return lying > 0 and any(lying > (of_two if count == 2 else bears(count)) for count in left)


if __name__ == "__main__":
    sys.exit(main())
