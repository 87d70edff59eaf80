"""Checks that readers of payload bodies share: which fields there are, whether a value is in its range."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from chain.cid import Cid, is_record_cid
from chain.errors import RecordError
from chain.identity import AGENT_ID_SIZE


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


def check_agents(name: str, agents: list[Any]) -> None:
    """Raise `RecordError` unless these are agents, ascending, each once."""
    for agent in agents:
        check_bytes(f"an agent of {name}", agent, AGENT_ID_SIZE)
    if any(a >= b for a, b in zip(agents, agents[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")


def read_record_cids(name: str, value: object, least: int, most: int) -> tuple[Cid, ...]:
    """Check and read a list of so many record CIDs, ascending; raises `RecordError`."""
    if type(value) is not list or not least <= len(value) <= most or not all(map(is_record_cid, value)):
        raise RecordError(f"{name} is malformed: expected {least} to {most} record CIDs")
    if any(a >= b for a, b in zip(value, value[1:], strict=False)):
        raise RecordError(f"{name} is not ascending and unique")
    return tuple(value)
