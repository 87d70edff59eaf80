"""Why a member's update does not count in a round: the codes that members sign into a result.

They are a closed set, computed alike by everyone from the same records and blobs, so that refusing somebody
is a fact that can be checked again (`federated.audit`), not an opinion.
"""

from __future__ import annotations

from typing import Final

from federated.update import Fault

DOUBLE: Final = "double"
EXCLUDED: Final = "excluded"
GROUP: Final = "group"
HASH: Final = "hash"
LATE: Final = "late"
SUM: Final = "sum"
UNAVAILABLE: Final = "unavailable"
WEIGHT: Final = "weight"
WITHHELD: Final = "withheld"

REASONS: Final[dict[str, str]] = {
    Fault.FORMAT: "the update is not the task's arrays, as NPY streams or in the task's compression",
    Fault.SIZE: "the update's size is not the one that it was announced with, or beyond all measure",
    Fault.DTYPE: "an array of the update has another dtype than the task says",
    Fault.SHAPE: "an array of the update has another shape than the task says",
    Fault.NOT_FINITE: "the update holds a value that is not finite",
    Fault.BOUND: "the update holds a value beyond the task's max_abs",
    Fault.NORM: "the update lies further from the round's model than the task's max_norm",
    WEIGHT: "the number of examples is outside what the task allows",
    HASH: "the update is not the one that was committed to",
    DOUBLE: "there are two different updates, or two promises, for one round",
    EXCLUDED: "the network does not hear the agent: a warrant, its revocation or the stewards keep it out",
    LATE: "most members had not seen the commit when they revealed",
    SUM: "a message in the secure sum is none, or opens what was not dealt",
    GROUP: "its group came to no sum, or to one that updates within the bounds cannot have",
    UNAVAILABLE: "nobody could get the update's bytes in time",
    WITHHELD: "an update was promised in time and not shown",
}
"""Every code, and what it means."""

PENALISED: Final = frozenset(REASONS) - {EXCLUDED, GROUP, LATE, UNAVAILABLE, WITHHELD}
"""The codes that only a wrong member earns; the others may happen to anybody on a bad line."""
