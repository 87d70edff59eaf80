"""What an importer hands to the node: one entry of a corpus, before it becomes a signed record.

The import key is a hash over the entry's content alone, so an import that was interrupted, or is run
again, recognises what it has already added, whatever file, line or run it came from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

IMPORT_KEY_DOMAIN = b"roseforest/import/1\0"
ORIGIN_KEY_DOMAIN = b"roseforest/import-origin/1\0"


@dataclass(frozen=True, slots=True)
class Origin:
    """The entry of a network from which this one was exported: its ids, and its author's."""

    network: str
    id: str
    author: str


@dataclass(frozen=True, slots=True)
class CorpusEntry:
    """One piece of knowledge: text, and what its source says about it.

    ``name`` is what the source calls it (empty if nothing); ``confidence`` is in ppm; ``vector`` is for
    networks whose space takes the caller's vectors. ``more`` are further fields, ascending by name, as the
    HTTP interface takes them; ``origin`` says which network's entry it was.
    """

    text: str
    name: str = ""
    tags: tuple[str, ...] = ()
    domain: str | None = None
    confidence: int | None = None
    citations: tuple[str, ...] = ()
    vector: tuple[float, ...] | None = None
    more: tuple[tuple[str, Any], ...] = ()
    origin: Origin | None = None

    @property
    def import_key(self) -> bytes:
        """sha256, 32 bytes, over the content; tags and citations count as sets, the name not at all.

        Of an exported entry over its origin alone: it is not added again when it has been changed there.

        The content is written as JSON with sorted keys and escapes outside ASCII; floats as their
        shortest decimal form, which Python defines independently of the machine.
        """
        if self.origin is not None:
            place = f"{self.origin.network} {self.origin.id}"
            return hashlib.sha256(ORIGIN_KEY_DOMAIN + place.encode()).digest()
        content: dict[str, Any] = {
            "text": self.text,
            "tags": sorted(set(self.tags)),
            "domain": self.domain,
            "confidence": self.confidence,
            "citations": sorted(set(self.citations)),
            "vector": None if self.vector is None else [float(component) for component in self.vector],
        }
        if self.more:
            content["more"] = dict(self.more)
        canonical = json.dumps(
            content, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
        )
        return hashlib.sha256(IMPORT_KEY_DOMAIN + canonical.encode("ascii")).digest()
