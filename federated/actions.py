"""What the machine of a round asks the node to do, and what the user's process hands in. Frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning import Commit, Reveal, update_hash
from chain.learning_outcome import GroupResult, Result
from chain.secure_part import Part
from federated.messages import Question
from federated.sum_chain import Closed


@dataclass(frozen=True, slots=True)
class Offer:
    """The user's own update of a round; `salt` is secret until it is revealed. `metrics` in ppm."""

    blob: Cid
    size: int
    examples: int
    metrics: dict[str, int]
    salt: bytes

    def hash(self, author: AgentId | None) -> bytes:
        """What its commit says (`Task.promiser`)."""
        return update_hash(author, self.salt, self.blob, self.size, self.examples)


@dataclass(frozen=True, slots=True)
class Promise:
    """Append this commit to the own chain, and deliver it."""

    commit: Commit


@dataclass(frozen=True, slots=True)
class Show:
    """Append this reveal to the own chain, and deliver it."""

    reveal: Reveal


@dataclass(frozen=True, slots=True)
class Look:
    """Fetch a reveal's blob (and its commit's record, if that is not in the ledger), and call `looked`.

    It is at `agents`, the likeliest first.
    """

    reveal: Cid
    commit: Cid
    blob: Cid
    size: int
    agents: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class LookModel:
    """Fetch the model of a group's outcome (by its name), which `agents` have, and call `looked`."""

    outcome: Cid
    blob: Cid
    agents: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """Make the new model of these (blob, examples) and of the one that the round began with, `base`, by the
    task's strategy; keep it as a blob, and call `averaged`.
    """

    key: tuple[Cid, ...]
    base: Cid
    parts: tuple[tuple[Cid, int], ...]


@dataclass(frozen=True, slots=True)
class Combine:
    """Make the round's model of those of its groups, (model, examples), likewise."""

    key: tuple[Cid, ...]
    base: Cid
    parts: tuple[tuple[Cid, int], ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Append this part of a secure sum to the own chain, and deliver it."""

    part: Part


@dataclass(frozen=True, slots=True)
class Mask:
    """Make the vector of this update, call `mask` with it off the event loop, keep what comes out as a blob,
    and call `masked`.
    """

    offer: Offer


@dataclass(frozen=True, slots=True)
class LookVector:
    """Fetch the masked vector that a part names, and call `looked`."""

    part: Cid
    blob: Cid
    size: int
    agents: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """Add up these groups' vectors, make the round's model of the sums and of `base`, keep it as a blob, and
    call `summed`.
    """

    key: tuple[Cid, ...]
    base: Cid
    groups: tuple[Closed, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a member to sign, and call `answered` with its reply."""

    agent: AgentId
    question: Question


@dataclass(frozen=True, slots=True)
class Publish:
    """Append this result, of the round or of a group, to the own chain, and deliver it."""

    result: Result | GroupResult


Action: TypeAlias = (
    Promise | Show | Look | LookModel | Average | Combine | Tell | Mask | LookVector | Sum | Ask | Publish
)
