"""Every decoder that sees a peer's bytes: arbitrary bytes, and arbitrary well-formed values, are read, or
refused with the floor's own errors, in one line. `tests/fuzz.py` does so for longer, guided by coverage.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from tests.node.decoders import DECODERS, KEYS, NOT_OF_PEERS, PARTS, READ_BY, REFUSED, WHOLE

ROOT = Path(__file__).parents[2]
FLOORS = ("chain", "crdt", "sharding", "validation", "dht", "federated", "node")


def decoding_functions() -> set[str]:
    """The functions that call `canonical.decode`, as MODULE:FUNCTION."""
    found: set[str] = set()
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            text = path.read_text("utf-8")
            if "canonical.decode" not in text:
                continue
            for function in ast.walk(ast.parse(text)):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                    if "canonical.decode" in map(ast.unparse, calls):
                        found.add(f"{module}:{function.name}")
    return found


def test_no_decoder_is_forgotten() -> None:
    """Whoever reads bytes in a new place says which decoder of `tests/node/decoders.py` reaches it."""
    assert decoding_functions() == READ_BY.keys()
    assert set(READ_BY.values()) - {NOT_OF_PEERS} <= DECODERS.keys()


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(0, 9)
    | st.binary(max_size=40)
    | st.text(max_size=10)
    | st.sampled_from(PARTS)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """Something valid with a few bytes changed, cut or doubled."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))]) if draw(st.booleans()) else bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
@given(data=st.binary(max_size=200) | VALUES.map(canonical.encode) | altered())
def test_whatever_comes_is_read_or_refused(name: str, data: bytes) -> None:
    reason = ""
    try:
        DECODERS[name](data)
    except REFUSED as error:
        reason = str(error)
    assert "\n" not in reason
