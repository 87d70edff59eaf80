"""What an entry points to: a source outside the network, or another entry in a stated relation.

Both are members of one observed-remove set; a relation's target need not exist here, or anywhere yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from chain import canonical
from chain.cid import Cid, is_record_cid
from chain.errors import RecordError
from chain.metadata import read_map
from chain.text import check_text

MAX_REFERENCES = 64
"""References that one record adds."""
MAX_SOURCE = 1000
"""Bytes of UTF-8, like the limits below."""
MAX_QUOTE = 4096
MAX_PREDICATE = 100


@dataclass(frozen=True, slots=True)
class Source:
    """Where something stands: what it is called, maybe a link, maybe what it says there."""

    source: str
    link: str | None = None
    quote: str | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """Another entry, and how this one relates to it: "supports", "contradicts", "extends", …"""

    predicate: str
    target: Cid


Reference: TypeAlias = Source | Relation


def reference_to_wire(reference: Reference) -> dict[str, Any]:
    """The reference as a payload carries it."""
    if isinstance(reference, Relation):
        return {"predicate": reference.predicate, "target": reference.target}
    optional = {"link": reference.link, "quote": reference.quote}
    return {"source": reference.source, **{name: text for name, text in optional.items() if text is not None}}


def read_reference(value: object) -> Reference:
    """Check and read one; raises `RecordError`."""
    if type(value) is dict and "predicate" in value:
        wire = read_map("reference", value, ("predicate", "target"))
        predicate = check_text("predicate", wire["predicate"], MAX_PREDICATE)
        target = wire["target"]
        if not is_record_cid(target):
            raise RecordError("the target of a relation is not the CID of a record")
        return Relation(predicate, target)
    wire = read_map("reference", value, ("source",), ("link", "quote"))
    return Source(
        check_text("source", wire["source"], MAX_SOURCE),
        check_text("link", wire["link"], MAX_SOURCE) if "link" in wire else None,
        check_text("quote", wire["quote"], MAX_QUOTE) if "quote" in wire else None,
    )


def order_of(reference: Reference) -> bytes:
    """What references are sorted by: their canonical bytes."""
    return canonical.encode(reference_to_wire(reference))


def references_to_wire(references: Iterable[Reference]) -> list[dict[str, Any]]:
    """As a payload carries several: ascending, each once."""
    return [reference_to_wire(one) for one in sorted(set(references), key=order_of)]


def read_references(value: object) -> tuple[Reference, ...]:
    """Check and read several; raises `RecordError`."""
    if type(value) is not list or not 0 < len(value) <= MAX_REFERENCES:
        raise RecordError(f"references is malformed: expected 1 to {MAX_REFERENCES}")
    found = tuple(read_reference(one) for one in value)
    keys = [order_of(one) for one in found]
    if any(a >= b for a, b in zip(keys, keys[1:], strict=False)):
        raise RecordError("references are not ascending and unique")
    return found
