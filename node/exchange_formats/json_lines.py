"""An entry as one line of JSON: every field that the HTTP interface shows, and where it came from.

`network` says whose entry it is, `records` by which operations it came to be, in the order in which they
fold. `node.corpus.json_lines` reads these lines again, and cites what it cannot sign for.
"""

from __future__ import annotations

import json
from typing import Any

from chain.cid import Cid, to_text
from chain.identity import peer_id
from node.api.shapes import entry_out, instant
from node.models import EntryView


def entry_object(network: Cid, view: EntryView) -> dict[str, Any]:
    """The entry as JSON; O(its records)."""
    shown = entry_out(view, provenance=False).model_dump(mode="json", exclude={"records"})
    return {
        "network": to_text(network),
        **shown,
        "records": [
            {
                "record": to_text(one.cid),
                "kind": one.header.kind,
                "author": peer_id(one.header.author),
                "at": instant(one.header.hlc),
            }
            for one in view.records
        ],
    }


def line_of(value: dict[str, Any]) -> bytes:
    """One line, in UTF-8, with its line feed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
