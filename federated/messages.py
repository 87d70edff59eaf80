"""The bodies of `learning.sign`: a proposer shows what it saw, a member signs what follows or says why not;
and of `learning.alive`, by which a coordinator says that its app is at work.

A question carries no model and no list of decisions: only which records the proposer's decision rests on,
and the digest that it came to. The member merges that with what it has seen itself and decides on its own.
All bodies are canonical arrays; sizes are bounded before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from chain import canonical
from chain.cid import DIGEST_SIZE, Cid, is_record_cid
from chain.errors import EncodingError
from chain.identity import AGENT_ID_SIZE, SIGNATURE_SIZE, AgentId
from chain.learning_task import MAX_MEMBERS, MAX_SEATS
from dht.errors import FrameError

SIGN = "learning.sign"
DELIVER = "learning.deliver"
ALIVE = "learning.alive"

MAX_VIEW = 512
"""Records of a view: four of each member who exchange updates, a group's each, and the standings."""
MAX_QUESTION = 64 + (MAX_VIEW + 2 * MAX_MEMBERS + 1) * 48 + MAX_SEATS * 40
MAX_REPLY = 128 + MAX_VIEW * 48
MAX_ALIVE = 128


class Word(IntEnum):
    """A member's answer."""

    SIGNED = 0
    BUSY = 1
    """Not yet: something has still to be fetched or computed; ask again."""
    MISSING = 2
    """The proposer has not seen `cids`; they are here to be fetched."""
    OBTAINABLE = 3
    """The blobs of the reveals `cids`, which the proposer could not get, are here."""
    ELSEWHERE = 4
    """This member is at another round; `cids` are the records that led it on, if it is ahead."""
    DISAGREE = 5
    """The same records lead here to something else; that is a defect or a lie."""


@dataclass(frozen=True, slots=True)
class Question:
    """Will you sign? All lists ascend."""

    task: Cid
    previous: bytes
    members: tuple[AgentId, ...]
    view: tuple[Cid, ...]
    unavailable: tuple[Cid, ...]
    digest: bytes

    def encode(self) -> bytes:
        """The request body."""
        lists = [list(self.members), list(self.view), list(self.unavailable)]
        return canonical.encode([self.task, self.previous, *lists, self.digest])


@dataclass(frozen=True, slots=True)
class Reply:
    """What the member says, and its signature or what it refers to."""

    word: Word
    signature: bytes = b""
    cids: tuple[Cid, ...] = ()

    def encode(self) -> bytes:
        """The reply body."""
        return canonical.encode([int(self.word), self.signature, list(self.cids[:MAX_VIEW])])


def decode_question(body: bytes) -> Question:
    """Read a question; raises `FrameError`."""
    fields = _array(body, MAX_QUESTION, 6)
    task, previous, members, view, unavailable, digest = fields
    if not is_record_cid(task) or not _is_bytes(previous, DIGEST_SIZE) or not _is_bytes(digest, DIGEST_SIZE):
        raise FrameError("a question names a task and two digests")
    if type(members) is not list or not 0 < len(members) <= MAX_SEATS:
        raise FrameError(f"a question names 1 to {MAX_SEATS} members")
    if not all(_is_bytes(agent, AGENT_ID_SIZE) for agent in members):
        raise FrameError("the members of a question are agents")
    return Question(
        task, previous, tuple(members), _cids(view, MAX_VIEW), _cids(unavailable, 2 * MAX_MEMBERS), digest
    )


def decode_reply(body: bytes) -> Reply:
    """Read a reply; raises `FrameError`. The signature is not verified here."""
    word, signature, cids = _array(body, MAX_REPLY, 3)
    if type(word) is not int or word not in list(Word):
        raise FrameError(f"a reply of kind {word!r:.40}")
    if type(signature) is not bytes or len(signature) not in (0, SIGNATURE_SIZE):
        raise FrameError("a reply's signature is malformed")
    return Reply(Word(word), signature, _cids(cids, MAX_VIEW))


def encode_alive(task: Cid, call: Cid) -> bytes:
    """A sign of life after a call, or after the task while there is none."""
    return canonical.encode([task, call])


def decode_alive(body: bytes) -> tuple[Cid, Cid]:
    """Read a sign of life: (task, call). Raises `FrameError`."""
    task, call = _array(body, MAX_ALIVE, 2, ALIVE)
    if not is_record_cid(task) or not is_record_cid(call):
        raise FrameError("a sign of life names a task and a call")
    return task, call


def _array(body: bytes, limit: int, size: int, method: str = SIGN) -> list[Any]:
    try:
        value = canonical.decode(body, limit)
    except EncodingError as error:
        raise FrameError(f"body of {method!r} is malformed: {error}") from error
    if type(value) is not list or len(value) != size:
        raise FrameError(f"body of {method!r} is not an array of {size}")
    return value


def _is_bytes(value: object, size: int) -> bool:
    return type(value) is bytes and len(value) == size


def _cids(value: object, most: int) -> tuple[Cid, ...]:
    if type(value) is not list or len(value) > most or not all(map(is_record_cid, value)):
        raise FrameError(f"expected at most {most} record CIDs")
    return tuple(value)


def ascending(cids: Sequence[Cid] | frozenset[Cid]) -> tuple[Cid, ...]:
    """CIDs in the order in which bodies list them."""
    return tuple(sorted(cids))
