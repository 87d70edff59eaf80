"""How much of the answer a question wants, and what is said when it did not get that much.

A question wants a recall: the part of the true k best that its answer should hold. `low`, `medium` and `high`
are names for three of them, and a number can be given instead. The recall decides how many shards are asked,
the deadline how long they are waited for. When the deadline comes first, or shards have no holder that
answers, the answer says what it reached and the best offer: the deadline that would have done, by what the
holders' answers usually take, and the greatest effort that was met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from chain.vector import PPM
from node.errors import InvalidInput
from node.models import QueryOptions, Shortfall

EFFORTS: Final[Mapping[str, int]] = {"low": 800_000, "medium": 950_000, "high": 990_000}
"""Recall wanted by name, in ppm, least first."""
DEFAULT_EFFORT: Final = "medium"
TOLERANCE_PPM: Final = 1_000
"""So much less than what was wanted is not worth a word: masses are rounded down."""
ROOM: Final = 1.5
"""The deadline offered is what the answer would usually have taken, times this."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How a question ended: the recall to expect, in ppm, whether the deadline cut it, shards without an
    answer, and the milliseconds after which everything asked for would usually have been there (None when
    that is not known)."""

    recall_ppm: int
    deadline_hit: bool
    missed: int
    would_take_ms: float | None = None


def wanted_ppm(options: QueryOptions) -> int:
    """The recall that a question wants; raises `InvalidInput` for an effort without a meaning."""
    if options.recall_ppm is not None and options.effort is not None:
        raise InvalidInput("give either an effort or a recall")
    if options.recall_ppm is not None:
        if not 0 <= options.recall_ppm <= PPM:
            raise InvalidInput(f"a recall of {options.recall_ppm / PPM:g}: choose 0 to 1")
        return options.recall_ppm
    effort = DEFAULT_EFFORT if options.effort is None else options.effort
    if effort not in EFFORTS:
        raise InvalidInput(f"the effort {effort!r:.40} is none of {', '.join(EFFORTS)}")
    return EFFORTS[effort]


def shortfall(wanted_ppm: int, deadline_ms: int, most_ms: int, reached: Reached) -> Shortfall | None:
    """What an answer lacks to what was wanted, and the best offer; None when it lacks nothing.

    `most_ms` is the longest deadline that can be asked for.
    """
    if reached.recall_ppm >= wanted_ppm - TOLERANCE_PPM:
        return None
    met = [name for name, recall_ppm in EFFORTS.items() if recall_ppm <= reached.recall_ppm + TOLERANCE_PPM]
    offered: int | None = None
    if reached.deadline_hit:
        usual = 2.0 * deadline_ms if reached.would_take_ms is None else reached.would_take_ms
        offered = min(most_ms, max(deadline_ms + 1, _round_up(usual * ROOM)))
        offered = offered if offered > deadline_ms else None
    return Shortfall(
        wanted_ppm=wanted_ppm,
        reached_ppm=reached.recall_ppm,
        shards_missed=reached.missed,
        deadline_ms=offered,
        effort=met[-1] if met else None,
    )


def advice(short: Shortfall) -> str:
    """A shortfall in one line, with the options of the command line that would do."""
    said = f"reached {_share(short.reached_ppm)} of {_share(short.wanted_ppm)} asked for"
    offers = []
    if short.deadline_ms is not None:
        offers.append(f"--deadline-ms {short.deadline_ms} would do")
    if short.effort is not None:
        offers.append(f"--effort {short.effort} is met")
    if not offers:
        offers.append("ask again when more of its nodes are back")
    shards = f"{short.shards_missed} shard{'' if short.shards_missed == 1 else 's'}"
    why = f" ({shards} without an answer)" if short.shards_missed else ""
    return f"{said}{why}: {', or '.join(offers)}"


def _share(ppm: int) -> str:
    """As a share of 1 with as many digits as it takes, at most three, rounded down."""
    thousandths = ppm * 1_000 // PPM
    return f"{thousandths / 1_000:.3f}".rstrip("0").rstrip(".") if thousandths % 1_000 else str(ppm // PPM)


def _round_up(ms: float) -> int:
    """To the next ten."""
    return -int(-ms // 10) * 10
