"""Trust: what the votes on an entry and the assessments of it amount to, and how sure one can be of that.

**Formula.** What was said is evidence for (r) and against (s), in votes, and n = r + s. The score is the
expectation of beta reputation (Jøsang & Ismail, "The Beta Reputation System", 2002) with a prior of two votes
for and two against, the bounds are Wilson's interval (1927) for z = 2, about 95 %:

    score = (r + 2) / (n + 4)        low, high = score ∓ 2 √(r s / n + 1) / (n + 4)

Both are one formula: Wilson's interval has its middle at (r + z²/2) / (n + z²), which for z = 2 is just that
prior (Agresti & Coull, 1998, "add two successes and two failures"). It was chosen over the bounds of
subjective logic, which only say how much was heard, because ten agents who are split are less sure than ten
who agree; and over the mean, because one vote is not certainty. Nobody heard: 0.5 between 0 and 1.

**Voices.** One agent, one voice, whatever it says in how many ways: an agent is a key, keys that one goes on
under are one, and a key whose votes others pass on is its own voice only where it signed them. A vote of
confidence c is evidence of c votes (an unsure vote says less, not the contrary), an assessment q is evidence
of q for and 1 - q against, and the voice's evidence is the mean of the two. A voice's own records come first;
else what it signed and others passed on: of votes with their times (from rule version 7 on) the newest alone,
of older ones each statement once, so that repeating one outweighs no other; else what it passes on for others
who signed nothing, which it answers for, but for which nobody lends it the root's weight.

**Root.** A key costs next to nothing, and its age proves nothing that a patient liar could not have prepared.
So nothing in the records makes a voice count in full, only the *trust root* does: agents with weights, which
the reader declares. All other voices, strangers, count half a vote each and one vote together, however many
they are. With R the evidence of the root, strangers therefore

- never move the score by more than 1 / (R + 5): a fifth where nobody of the root spoke;
- never make the interval narrower than 4 / (R + 5): without the root it is at least 0.8 wide.

The score is a function of the entry's records, of who is in good standing and of the root, in integers alone:
equal on every machine, whatever the order and the repetitions. Two readers with different roots see different
scores; that is the point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from types import MappingProxyType
from typing import Final

from chain.identity import AgentId
from crdt.entry_view import Entry
from crdt.operations import Vote
from crdt.standing import CLEAR, Standing

VOTE = 1_000_000
"""One vote in the unit of all that is counted here, and 1 in ppm."""
STRANGER = VOTE // 2
"""What one voice that the root does not name counts at most,"""
STRANGERS = VOTE
"""and all of them together."""
PRIOR = 4 * VOTE
"""z² votes that nobody cast, half of them for and half against."""


NO_ROOT: Final[Mapping[AgentId, int]] = MappingProxyType({})
"""The root of a reader who trusts nobody more than others."""


@dataclass(frozen=True, slots=True)
class Voice:
    """What one agent, known by its last key, says of an entry: evidence for and against, at most one vote.

    `firsthand`: it said or signed it itself, so the root's weight for it counts.
    """

    key: AgentId
    firsthand: bool
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Trust:
    """`score` with its bounds, in ppm, and the evidence: voices by kind, weighed votes in millionths."""

    score: int
    low: int
    high: int
    rooted: int
    strangers: int
    up: int
    down: int


Evidence = tuple[int, int]


def trust_of(entry: Entry, root: Mapping[AgentId, int], standing: Standing = CLEAR) -> Trust:
    """The trust in an entry of a reader with this root, which gives agents weights of 0 to `VOTE`.

    `standing` has to be the one that the entry was folded with. A weight follows its agent to later keys;
    whom the root gives 0 is not heard at all. O(ballots · log ballots).
    """
    return weigh(voices(entry, standing), _last_keys(root, standing))


def voices(entry: Entry, standing: Standing = CLEAR) -> tuple[Voice, ...]:
    """What each agent says of the entry, ascending by key."""
    own: dict[AgentId, list[Evidence]] = {}
    signed: dict[AgentId, set[Evidence]] = {}
    for_others: dict[AgentId, list[Evidence]] = {}
    for ballot in entry.votes:
        behalf = ballot.vote.behalf
        agent = standing.line_of(ballot.agent)[-1]
        if behalf is None:
            own.setdefault(agent, []).append(_of_vote(ballot.vote))
        elif behalf.key is None or behalf.signature is None:
            for_others.setdefault(agent, []).append(_of_vote(ballot.vote))
        elif standing.since(behalf.key) is None:  # when an offender signed it nobody can tell
            signed.setdefault(standing.line_of(behalf.key)[-1], set()).add(_of_vote(ballot.vote))
    for one in entry.assessments:
        agent = standing.line_of(one.agent)[-1]
        own.setdefault(agent, []).append((one.confidence, VOTE - one.confidence))
    heard: dict[AgentId, Voice] = {}
    for key in sorted({*own, *signed, *for_others}):
        said = own.get(key) or signed.get(key) or for_others[key]
        up, down = (sum(side) // len(said) for side in zip(*said, strict=True))
        heard[key] = Voice(key, key in own or key in signed, up, down)
    return tuple(heard.values())


def weigh(heard: Iterable[Voice], root: Mapping[AgentId, int]) -> Trust:
    """The trust that these voices, each of another key, amount to under this root."""
    rooted: list[tuple[int, Voice]] = []
    strangers: list[tuple[int, Voice]] = []
    for voice in heard:
        weight = root.get(voice.key)
        if weight is not None and voice.firsthand and weight:
            rooted.append((weight, voice))
        elif weight != 0:
            strangers.append((STRANGER if weight is None else min(weight, STRANGER), voice))
    share = STRANGERS // max(1, len(strangers))
    weighed = rooted + [(min(weight, share), voice) for weight, voice in strangers]
    up = sum(weight * voice.up for weight, voice in weighed) // VOTE
    down = sum(weight * voice.down for weight, voice in weighed) // VOTE
    score, low, high = interval(up, down)
    return Trust(score, low, high, len(rooted), len(strangers), up, down)


def interval(up: int, down: int) -> tuple[int, int, int]:
    """Score, low and high in ppm of evidence for and against, in millionths of votes."""
    heard = up + down
    score = (up + PRIOR // 2) * VOTE // (heard + PRIOR)
    spread = isqrt((up * down * VOTE // heard if heard else 0) + VOTE * VOTE)
    half = -(-2 * VOTE * spread // (heard + PRIOR))
    return score, max(0, score - half), min(VOTE, score + half)


def _of_vote(vote: Vote) -> Evidence:
    sure = VOTE if vote.confidence is None else vote.confidence
    return (sure, 0) if vote.value > 0 else (0, sure)


def _last_keys(root: Mapping[AgentId, int], standing: Standing) -> dict[AgentId, int]:
    """The root's weights by last keys; of several keys of one agent that of the latest counts."""
    found: dict[AgentId, tuple[int, int]] = {}
    for agent, weight in root.items():
        line = standing.line_of(agent)
        mine = (-len(line), weight)
        found[line[-1]] = max(mine, found.get(line[-1], mine))
    return {agent: weight for agent, (_, weight) in found.items()}
