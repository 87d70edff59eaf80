"""The wire form of what nodes tell each other about the shard tree.

`shard.tree` compares: the asker's digest of all decisions that it knows, and after which prefix to go on; the
answer is the other's digest and, where they differ, a page of the decisions that it knows, without proofs.
`shard.proofs` fetches proofs by prefix. `shard.sign` asks a fellow holder for its signature. `shard.left`
asks how much lies at shards that are none any more; who has not heard so says nil. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from chain import canonical
from chain.errors import ChainError
from dht.errors import FrameError
from dht.network import MAX_BODY
from sharding.errors import TreeError
from sharding.growth import Decision, Growth
from sharding.shard_statement import MAX_PROOF
from sharding.tree import Prefix

TREE = "shard.tree"
PROOFS = "shard.proofs"
SIGN = "shard.sign"
LEFT = "shard.left"
DIGEST_BYTES = 32
PAGE = 2000
"""Decisions in one answer: below 100 kB."""
MAX_PREFIXES = 128
"""Prefixes in one request; the proofs of as many are below 128 kB."""
MAX_REQUEST = 8192
MAX_REDIRECTS = 16
"""Proofs that an answer to a search brings along."""


def digest_of(growth: Growth) -> bytes:
    """Equal for two who know the same decisions. O(n log n)."""
    rows = [_row(growth.decisions[prefix]) for prefix in sorted(growth.decisions)]
    return sha256(canonical.encode(rows)).digest()


def encode_compare(digest: bytes, after: Prefix | None) -> bytes:
    """A request to compare."""
    return canonical.encode([digest, None if after is None else _place(after)])


def decode_compare(body: bytes) -> tuple[bytes, Prefix | None]:
    """Raises `FrameError`."""
    match _decoded(body, MAX_REQUEST):
        case [bytes(digest), after] if len(digest) == DIGEST_BYTES:
            return digest, None if after is None else _prefix(after)
    raise FrameError(f"{TREE} takes [digest, prefix or nil]")


def encode_page(digest: bytes, decisions: Sequence[Decision]) -> bytes:
    """The answer to a request to compare."""
    return canonical.encode([digest, [_row(one) for one in decisions]])


def decode_page(reply: bytes) -> tuple[bytes, list[Decision]]:
    """Raises `FrameError`; decisions come in the order of their prefixes."""
    match _decoded(reply, MAX_BODY):
        case [bytes(digest), list(rows)] if len(digest) == DIGEST_BYTES and len(rows) <= PAGE:
            decisions = [read_decision(row) for row in rows]
            prefixes = [one.prefix for one in decisions]
            if all(a < b for a, b in zip(prefixes, prefixes[1:], strict=False)):
                return digest, decisions
    raise FrameError(f"the answer to {TREE} is [digest, at most {PAGE} decisions in order]")


def encode_prefixes(prefixes: Iterable[Prefix]) -> bytes:
    """A request that names prefixes."""
    return canonical.encode([_place(one) for one in prefixes])


def decode_prefixes(body: bytes) -> list[Prefix]:
    """Raises `FrameError`."""
    match _decoded(body, MAX_REQUEST):
        case list(rows) if 0 < len(rows) <= MAX_PREFIXES:
            return [_prefix(row) for row in rows]
    raise FrameError(f"1 to {MAX_PREFIXES} prefixes can be asked for")


def decode_proofs(value: object, most: int) -> tuple[bytes, ...]:
    """Proofs as they came, none of them verified. Raises `FrameError`."""
    if (
        type(value) is not list
        or len(value) > most
        or not all(type(one) is bytes and len(one) <= MAX_PROOF for one in value)
    ):
        raise FrameError(f"proofs about shards are at most {most} byte strings of up to {MAX_PROOF}")
    return tuple(value)


def decode_counts(reply: bytes, asked: int) -> list[int | None]:
    """What lies at each of `asked` shards; None: the other has not heard that it is none. `FrameError`."""
    match _decoded(reply, MAX_REQUEST):
        case list(counts) if len(counts) == asked and all(
            one is None or (type(one) is int and one >= 0) for one in counts
        ):
            return counts
    raise FrameError(f"the answer to {LEFT} is one number or nil for each shard asked about")


def encode_decision(decision: Decision) -> bytes:
    """A request to sign."""
    return canonical.encode(_row(decision))


def read_decision(value: object) -> Decision:
    """A decision from a decoded row. Raises `FrameError`."""
    try:
        match value:
            case [length, bits, generation, int(version), bool(divided), int(at_us)]:
                return Decision(_prefix([length, bits, generation]), version, divided, at_us)
    except TreeError as error:
        raise FrameError(str(error)) from error
    raise FrameError("a decision is [length, bits, generation, version, divided, time]")


def decode(body: bytes, limit: int = MAX_REQUEST) -> Any:
    """A canonical value. Raises `FrameError`."""
    return _decoded(body, limit)


def _row(decision: Decision) -> list[Any]:
    return [*_place(decision.prefix), decision.version, decision.divided, decision.at_us]


def _place(prefix: Prefix) -> list[int]:
    return [prefix.length, prefix.bits, prefix.generation]


def _prefix(value: object) -> Prefix:
    try:
        match value:
            case [int(length), int(bits), int(generation)]:
                return Prefix(bits, length, generation)
    except TreeError as error:
        raise FrameError(str(error)) from error
    raise FrameError("a prefix is [length, bits, generation]")


def _decoded(body: bytes, limit: int) -> Any:
    try:
        return canonical.decode(body, limit)
    except ChainError as error:
        raise FrameError(f"a message about shards is malformed: {error}") from error
