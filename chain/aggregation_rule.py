"""How a round's updates become one model: a rule as a line of text, such as `clip|nnm|trimmed_mean`.

Two kinds of step. A **transform** changes the updates among each other (`clip`, `nnm`), the **finish**
makes one of them. A rule is any number of transforms and one finish, joined by `|`, and after a colon the
share of members in percent that may lie (25 unless said). The text stands in a task's terms, so it has
one spelling. What the steps compute is in `federated.mixing` and `federated.robust`; `fedavg`, the
weighted mean, is in `federated.aggregation` and no such rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chain.errors import RecordError

CLIP: Final = "clip"
NNM: Final = "nnm"
MEAN: Final = "mean"
MEDIAN: Final = "median"
TRIMMED_MEAN: Final = "trimmed_mean"
GEOMETRIC_MEDIAN: Final = "geometric_median"
CENTRED_CLIP: Final = "centred_clip"
KRUM: Final = "krum"
MULTI_KRUM: Final = "multi_krum"

TRANSFORMS: Final = frozenset({CLIP, NNM})
FINISHES: Final = frozenset({MEAN, MEDIAN, TRIMMED_MEAN, GEOMETRIC_MEDIAN, CENTRED_CLIP, KRUM, MULTI_KRUM})
COORDINATE_WISE: Final = frozenset({MEDIAN, TRIMMED_MEAN})
"""Finishes that look at every element for itself."""
MAX_STEPS: Final = 4
DEFAULT_PERCENT: Final = 25
MAX_PERCENT: Final = 49
"""No rule stands against half of the members or more."""
ROBUST: Final = "clip|nnm|trimmed_mean"
"""The rule that is taken unless a task says another (Allouah et al., 2023, behind a norm clip)."""


@dataclass(frozen=True, slots=True)
class AggregationRule:
    """Transforms in their order, the finish, and the percentage of members that may lie."""

    transforms: tuple[str, ...]
    finish: str
    percent: int = DEFAULT_PERCENT
    bounds_two: bool = False
    """Whether of two, of which either may be anything, neither counts for much more than the other. Follows
    from a task's terms, and is not in the text.
    """

    def liars(self, members: int) -> int:
        """f, how many of so many updates may be anything: always less than half.

        The share rounded down, but one of three or more, unless the rule says that nobody lies.
        """
        least = 1 if self.percent else 0
        return min(max(members * self.percent // 100, least), (members - 1) // 2)

    def __str__(self) -> str:
        text = "|".join((*self.transforms, self.finish))
        return text if self.percent == DEFAULT_PERCENT else f"{text}:{self.percent}"


def parse_rule(text: str) -> AggregationRule:
    """Read a rule; raises `RecordError` naming what is wrong with it."""
    line, colon, share = text.partition(":")
    percent = DEFAULT_PERCENT
    if colon:
        if not (share.isascii() and share.isdecimal()) or len(share) > 2 or int(share) > MAX_PERCENT:
            raise RecordError(f"share {share!r:.40} of an aggregation rule is none of 0 … {MAX_PERCENT}")
        percent = int(share)
    *transforms, finish = line.split("|", MAX_STEPS)
    if len(transforms) >= MAX_STEPS:
        raise RecordError(f"an aggregation rule has over {MAX_STEPS} steps")
    for step in transforms:
        if step not in TRANSFORMS:
            raise RecordError(f"{step!r:.40} is none of the transforms {', '.join(sorted(TRANSFORMS))}")
    if finish not in FINISHES:
        raise RecordError(f"{finish!r:.40} is none of the finishes {', '.join(sorted(FINISHES))}, nor fedavg")
    rule = AggregationRule(tuple(transforms), finish, percent)
    if str(rule) != text:
        raise RecordError(f"aggregation rule {text!r:.80} is spelled {str(rule)!r}")
    return rule
