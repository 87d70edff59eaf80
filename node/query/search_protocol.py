"""The wire form of `shard.search`: one question to a holder, and its answer with proof.

A request names the shards, the query's code, k, the tags that a hit must carry, what else it has to be
(`node.query.filters`), and the question's words where they count (`node.query.scoring`): its terms, each with
the weight that the asker gives it, and how long a text is on average. The answer says for which of those
shards the holder is complete, lists its best postings as (content record's CID, cosine in ppm, CIDs of the
records that show its tags where those are not all its own, the score by words where they count), and
brings the records themselves in a bundle with their authors' openings, so that one hop answers with proof.
When records do not fit into the reply the list still names them and the asker fetches what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chain import canonical
from chain.cid import Cid, is_record_cid
from chain.content import MAX_TAG, MAX_TAGS
from chain.errors import ChainError, RecordError
from chain.text import check_text
from chain.vector import PPM, Codes, codes_from_bytes
from crdt.postings import MAX_PROOFS
from dht.errors import FrameError, RefusalCode, RequestRefused
from dht.network import MAX_BODY
from dht.records.bundle import Bundle, BundleError, open_bundle
from dht.shards.messages import MAX_REDIRECTS, decode_proofs
from node.query.filters import ANY, Filters, read_filters
from node.query.scoring import Words
from sharding.bm25 import MAX_SCORE, MAX_TERMS, Wanted
from sharding.errors import TermError
from sharding.tree import MAX_GENERATION, Prefix

METHOD = "shard.search"
MAX_K = 100
COPIES = "shard.copy"
"""The same question to somebody who may only have a copy (`dht.repair.guests`), for which that is enough."""
MAX_SHARDS = 1024
MAX_DEPTH = 48
MAX_REQUEST = 32 * 1024
"""Bytes of a request, which is decoded on the event loop: 1,024 shards, the largest code, 64 tags and all
filters fit."""


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """Ask for the `k` best postings of `shards` for `codes`, carrying all of `tags` and passing `filters`."""

    shards: tuple[Prefix, ...]
    codes: Codes
    k: int
    tags: tuple[str, ...] = ()
    filters: Filters = ANY
    words: Words | None = None

    def encode(self) -> bytes:
        """Canonical request body; without words and filters those are left out."""
        shards = [
            [shard.length, shard.bits, *([shard.generation] if shard.generation else [])]
            for shard in self.shards
        ]
        plain: list[Any] = [shards, self.codes.tobytes(), self.k, list(self.tags)]
        if self.words is not None:
            terms = [[term, weight] for term, weight in self.words.wanted.terms]
            plain += [self.filters.to_wire(), [self.words.only, self.words.wanted.mean, terms]]
        elif self.filters:
            plain.append(self.filters.to_wire())
        return canonical.encode(plain)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A posting that a holder proposes: its content record, its cosine in ppm, the proofs of its tags, and
    its score by words where they count."""

    record: Cid
    score: int
    proofs: tuple[Cid, ...] = ()
    lexical: int | None = None


@dataclass(frozen=True, slots=True)
class SearchReply:
    """`complete`: shards of which the holder has everything. `ranking`: best first."""

    complete: tuple[Prefix, ...]
    ranking: tuple[Ranked, ...]
    bundle: Bundle
    moved: tuple[bytes, ...] = ()
    """Proofs, not verified, that shards asked for are none any more."""


def decode_request(body: bytes, dim: int) -> SearchRequest:
    """Read a request; raises `RequestRefused` (bad request) naming what is wrong."""
    try:
        value = canonical.decode(body, MAX_REQUEST)
        if type(value) is not list or not 4 <= len(value) <= 6:
            raise RecordError(f"{METHOD} takes [shards, codes, k, tags] or with filters, or with words too")
        raw_shards, raw_codes, k, tags = value[:4]
        if type(raw_shards) is not list or not 0 < len(raw_shards) <= MAX_SHARDS:
            raise RecordError(f"1 to {MAX_SHARDS} shards can be asked for")
        shards = tuple(_prefix(raw) for raw in raw_shards)
        if len(set(shards)) < len(shards):
            raise RecordError("a shard is asked for twice")
        if type(raw_codes) is not bytes:
            raise RecordError("codes are not a byte string")
        codes = codes_from_bytes(raw_codes, dim)
        if type(k) is not int or not 1 <= k <= MAX_K:
            raise RecordError(f"k is an integer from 1 to {MAX_K}")
        if type(tags) is not list or len(tags) > MAX_TAGS:
            raise RecordError(f"at most {MAX_TAGS} tags")
        for tag in tags:
            check_text("tag", tag, MAX_TAG)
        words = _words(value[5]) if len(value) == 6 else None
        filters = ANY if len(value) == 4 or (words and value[4] == {}) else _filters(value[4])
    except (ChainError, TermError) as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, str(error)) from error
    return SearchRequest(shards, codes, k, tuple(tags), filters, words)


def encode_reply(
    complete: list[int], ranking: list[Ranked], bundle: list[Any], moved: Sequence[bytes] = ()
) -> bytes:
    """`complete` are indexes into the request's shards; `moved` proves which of them are none any more."""
    rows: list[list[Any]] = []
    for one in ranking:
        row: list[Any] = [one.record, one.score]
        if one.lexical is not None:
            row += [list(one.proofs), one.lexical]
        elif one.proofs:
            row.append(list(one.proofs))
        rows.append(row)
    return canonical.encode([complete, rows, bundle, *([list(moved)] if moved else [])])


def decode_reply(reply: bytes, request: SearchRequest) -> SearchReply:
    """Read a holder's answer to `request`; raises `FrameError` for anything out of bounds."""
    try:
        value = canonical.decode(reply, MAX_BODY)
        if type(value) is not list or len(value) not in (3, 4):
            raise FrameError("a search reply is the array [complete, ranking, bundle] or with proofs")
        complete, ranking, bundle, *moved = value
        if type(complete) is not list or not all(
            type(place) is int and 0 <= place < len(request.shards) for place in complete
        ):
            raise FrameError("a search reply names shards that were not asked for")
        if type(ranking) is not list or len(ranking) > request.k:
            raise FrameError(f"a search reply holds more than the {request.k} hits asked for")
        return SearchReply(
            tuple(request.shards[place] for place in sorted(set(complete))),
            tuple(_ranked(one, request.words is not None) for one in ranking),
            open_bundle(bundle),
            decode_proofs(moved[0], MAX_REDIRECTS) if moved else (),
        )
    except (ChainError, BundleError) as error:
        raise FrameError(f"search reply is malformed: {error}") from error


def _filters(raw: object) -> Filters:
    if type(raw) is not dict or not raw:
        raise RecordError("filters are a map of at least one")
    return read_filters(raw)


def _words(raw: object) -> Words:
    match raw:
        case [bool(only), int(mean), list(terms)] if type(mean) is int and len(terms) <= MAX_TERMS:
            for term in terms:
                if type(term) is not list or [type(one) for one in term] != [int, int]:
                    raise RecordError("a term is the array [id, weight]")
            return Words(Wanted(tuple((term, weight) for term, weight in terms), mean), only)
    raise RecordError(f"words are the array [alone, mean length, up to {MAX_TERMS} terms]")


def _ranked(raw: object, with_words: bool) -> Ranked:
    if (
        type(raw) is not list
        or len(raw) not in ((4,) if with_words else (2, 3))
        or not is_record_cid(raw[0])
        or type(raw[1]) is not int
        or abs(raw[1]) > PPM
        or (with_words and (type(raw[3]) is not int or not 0 <= raw[3] <= MAX_SCORE))
    ):
        raise FrameError(
            "a ranked hit is the array [record CID, cosine in ppm] or with proofs, or with proofs and the "
            "score by words where words were asked for"
        )
    proofs = raw[2] if len(raw) > 2 else []
    if type(proofs) is not list or len(proofs) > MAX_PROOFS or not all(map(is_record_cid, proofs)):
        raise FrameError(f"the proofs of a ranked hit are at most {MAX_PROOFS} record CIDs")
    return Ranked(raw[0], raw[1], tuple(proofs), raw[3] if with_words else None)


def _prefix(raw: object) -> Prefix:
    if (
        type(raw) is not list
        or len(raw) not in (2, 3)
        or not all(type(part) is int for part in raw)
        or not 0 <= raw[0] <= MAX_DEPTH
        or not 0 <= raw[1] < 1 << raw[0]
        or (len(raw) == 3 and not 0 < raw[2] <= MAX_GENERATION)
    ):
        raise RecordError(
            "a shard is the array [length, bits] of a prefix of at most 48 bits, or with a later generation"
        )
    return Prefix(raw[1], *raw[::2])
