"""How an edit was typed: places of a text that were taken away and written anew.

An edit carries its whole new text (`chain.content`). It may say besides which splices made it out of what it
overwrites, and then two edits of one text that were written apart can be put together (`crdt.shared_text`)
instead of standing side by side. Splices are plain fields, counted in Unicode code points and read by every
node; no blob of a text library travels, so nobody has to decode a stranger's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chain.errors import RecordError
from chain.text import check_text

MAX_SPLICES = 256
"""Splices of one edit."""
MAX_SPLICED = 64 * 1024
"""Code points that a splice skips or deletes, and bytes of UTF-8 that all of an edit insert, at most."""


@dataclass(frozen=True, slots=True)
class Splice:
    """At code point `at` of the text as the splices before left it: delete so many, then insert."""

    at: int
    delete: int
    insert: str


def read_splices(value: object) -> tuple[Splice, ...]:
    """Check and read the splices of a payload: lists of at, delete and insert; raises `RecordError`.

    None at all are allowed: the edit then only puts together what it overwrites.
    """
    if type(value) is not list or len(value) > MAX_SPLICES:
        raise RecordError(f"splices are malformed: expected a list of at most {MAX_SPLICES}")
    splices = tuple(_splice(one) for one in value)
    size = sum(len(one.insert.encode()) for one in splices)
    if size > MAX_SPLICED:
        raise RecordError(f"splices insert {size} bytes, the limit is {MAX_SPLICED}")
    return splices


def splices_to_wire(splices: Iterable[Splice]) -> list[list[Any]]:
    """As a payload carries them."""
    return [[one.at, one.delete, one.insert] for one in splices]


def spliced(text: str, splices: Iterable[Splice]) -> str:
    """`text` after the splices, one after the other; raises `RecordError` for one beyond its end.

    O(splices · text).
    """
    for one in splices:
        end = one.at + one.delete
        if end > len(text):
            raise RecordError(f"a splice reaches to {end}, the text has {len(text)} code points")
        text = text[: one.at] + one.insert + text[end:]
    return text


def touched(splices: Iterable[Splice]) -> int:
    """Code points that the splices insert and delete together: the length of their span."""
    return sum(one.delete + len(one.insert) for one in splices)


def _splice(value: object) -> Splice:
    if type(value) is not list or len(value) != 3:
        raise RecordError("a splice is malformed: expected a list of at, delete and insert")
    at, delete, insert = value
    for name, number in (("at", at), ("delete", delete)):
        if type(number) is not int or not 0 <= number <= MAX_SPLICED:
            raise RecordError(f"{name} of a splice is {number!r:.40}, expected 0 to {MAX_SPLICED}")
    if insert != "" or type(insert) is not str:
        check_text("insert of a splice", insert, MAX_SPLICED)
    elif delete == 0:
        raise RecordError("a splice deletes and inserts nothing")
    return Splice(at, delete, insert)
