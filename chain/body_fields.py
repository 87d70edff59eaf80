"""Checks that readers of payload bodies share: which fields there are, whether a value is in its range."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from chain.errors import RecordError


def expect_fields(body: Mapping[str, Any], required: str, optional: Collection[str] = ()) -> None:
    """Raise `RecordError` unless a body has all of the fields `required` (names with spaces between them) and
    no others but `optional` ones.
    """
    names = set(required.split())
    if not names <= body.keys() <= names | set(optional):
        raise RecordError(f"expected exactly the fields [{required}], found {sorted(body)!r:.160}")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise `RecordError` unless a value is an integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{name} {value!r:.40} is outside {low} … {high}")


def check_bytes(name: str, value: object, size: int) -> None:
    """Raise `RecordError` unless a value is so many bytes."""
    if type(value) is not bytes or len(value) != size:
        raise RecordError(f"{name} is not {size} bytes")
