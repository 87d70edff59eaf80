"""What noised updates cost together: (ε, δ) of a member, from dp-accounting, composed over its rounds.

Who takes part is public (the roster is signed), and every update is seen, so there is no sampling to be
counted on: each round is one Gaussian mechanism at rate 1. Neighbours are two members with any two sets of
data and the same number of examples; clipped updates then differ by up to **two** clips, so noise of z clips
is a mechanism of multiplier z / 2. (The usual figure of DP-FedAvg compares taking part with staying away and
so takes z; there the ε of the same noise looks about half as large.)

Gaussian mechanisms compose exactly into one: the inverse squares of their multipliers add up (Dong et al.
2022), and a limit on that holds also when the noise is chosen anew in view of earlier results (Smith and
Thakurta 2022). The ε of one for a given δ has a closed form (Balle and Wang 2018), which is
`dp_accounting.get_epsilon_gaussian`; tests hold what comes out against the library's privacy loss
distributions. The library takes a second to import: only on use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

from federated.privacy.errors import AccountingMissing, BudgetSpent, PrivacyError
from federated.privacy.noise import Terms

SENSITIVITY: Final = 2.0
"""Clips by which the updates of one member from two sets of data differ at most."""
DEFAULT_DELTA: Final = 1e-5
MAX_NOISES: Final = 64
"""Different amounts of noise that one task's account may hold."""


@dataclass(frozen=True, slots=True)
class Account:
    """A member and one task: its limit (`epsilon` None for none) and what left: (noise in clips, updates)."""

    terms: Terms
    delta: float = DEFAULT_DELTA
    epsilon: float | None = None
    spent: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise PrivacyError(f"delta is {self.delta}, outside 0 … 1")
        if self.epsilon is not None and not 0 < self.epsilon < 1e6:
            raise PrivacyError(f"epsilon is {self.epsilon}, outside 0 … 1e6")

    def cost(self) -> float:
        """ε of what was spent, at `delta`."""
        return epsilon_of(self.spent, self.delta)

    def after(self, updates: int = 1) -> Account:
        """The account once so many more updates were spent, whatever the limit."""
        if not updates:
            return self
        counts = dict(self.spent)
        counts[self.terms.noise] = counts.get(self.terms.noise, 0) + updates
        if len(counts) > MAX_NOISES:
            raise PrivacyError(f"over {MAX_NOISES} different amounts of noise were used in this task")
        return replace(self, spent=tuple(sorted(counts.items())))

    def spend(self) -> Account:
        """The account after one more update; raises `BudgetSpent` when that is beyond the limit."""
        then = self.after()
        if self.epsilon is not None and (cost := then.cost()) > self.epsilon:
            raise BudgetSpent(
                f"one more update would cost ε = {cost:.3g} at δ = {self.delta:g}, and the limit of this "
                f"member is {self.epsilon:g}"
            )
        return then

    def room(self, most: int) -> int:
        """How many more updates the limit allows, up to `most`."""
        if self.epsilon is None:
            return most
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.after(middle).cost() <= self.epsilon:
                low = middle
            else:
                high = middle - 1
        return low


def epsilon_of(spent: Sequence[tuple[float, int]], delta: float) -> float:
    """ε at `delta` of (noise in clips, how often); 0 for nothing. Raises `AccountingMissing`."""
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError as error:
        raise AccountingMissing(
            "dp-accounting, which tells what privacy costs, is missing: pip install 'roseforest[privacy]'"
        ) from error
    loss = sum(count * (SENSITIVITY / noise) ** 2 for noise, count in spent)
    return float(get_epsilon_gaussian(1 / sqrt(loss), delta)) if loss else 0.0
