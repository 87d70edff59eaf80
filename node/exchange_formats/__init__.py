"""Formats in which knowledge leaves and enters: JSON lines, JSON-LD; archives: `chain.archive_parts`."""

from __future__ import annotations

from typing import Final

CAR: Final = "car"
JSON_LD: Final = "jsonld"
JSON_LINES: Final = "jsonl"
MEDIA_TYPES: Final = {
    CAR: "application/vnd.ipld.car",
    JSON_LD: "application/ld+json",
    JSON_LINES: "application/x-ndjson",
}
