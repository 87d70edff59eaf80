"""Strings in payloads: checked for their kind and their size in bytes before anything is done with them."""

from __future__ import annotations

from chain.errors import RecordError


def check_text(name: str, value: object, limit: int) -> str:
    """`value`, a non-empty string of at most `limit` bytes of UTF-8; else raises `RecordError`."""
    if type(value) is not str or not value:
        raise RecordError(f"{name} is empty or not a string")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError(f"{name} is not valid Unicode: {error.reason}") from error
    if size > limit:
        raise RecordError(f"{name} has {size} bytes, the limit is {limit}")
    return value


def check_strings(
    name: str, value: object, most: int, limit: int, *, ascending: bool = False
) -> tuple[str, ...]:
    """1 to `most` strings of at most `limit` bytes each, `ascending` also unique; raises `RecordError`."""
    if type(value) is not list or not 0 < len(value) <= most:
        raise RecordError(f"{name} is malformed: expected 1 to {most} strings")
    items = tuple(check_text(f"one of {name}", item, limit) for item in value)
    if ascending and any(a >= b for a, b in zip(items, items[1:], strict=False)):
        raise RecordError(f"{name} are not ascending and unique")
    return items
