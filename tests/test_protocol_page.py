"""docs/protocol.md names every method, kind, rule, statement, status and refusal code that the code has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from chain.kinds import KINDS_BY_RULE_VERSION, RULE_VERSION
from dht.errors import RefusalCode
from dht.records.replies import StoreStatus
from validation.rules import RULES
from validation.warrant_rules import PROVABLE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "protocol.md").read_text()
FLOORS = ("chain", "validation", "dht", "federated", "node")


REGISTERS = re.compile(r"\.register\(|\bsign_statement\(|\"record\.")
CONSTANT = re.compile(r"^(\w+)(?:: [\w\[\]]+)? = \"([^\"\n]*)\"$", re.MULTILINE)


@cache
def texts() -> tuple[str, ...]:
    """The product's modules."""
    return tuple(path.read_text() for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py")))


@cache
def modules() -> tuple[ast.Module, ...]:
    """Those that may name a method or a statement, parsed."""
    return tuple(ast.parse(text) for text in texts() if REGISTERS.search(text))


@cache
def calls() -> dict[str, list[tuple[ast.Module, ast.Call]]]:
    """Every call of a function or method in those modules, by its name, with its module."""
    return walked()[0]


@cache
def walked() -> tuple[dict[str, list[tuple[ast.Module, ast.Call]]], set[str]]:
    """Calls, see `calls`, and every string in those modules."""
    found: dict[str, list[tuple[ast.Module, ast.Call]]] = {}
    said: set[str] = set()
    for tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Attribute):
                    found.setdefault(node.func.attr, []).append((tree, node))
                elif isinstance(node.func, ast.Name):
                    found.setdefault(node.func.id, []).append((tree, node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    return found, said


def strings(tree: ast.Module) -> dict[str, str]:
    """The string constants that a module assigns at its top."""
    return {
        target.id: statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    }


@cache
def constants() -> dict[str, str]:
    """The string constants of all modules."""
    return {name: value for text in texts() for name, value in CONSTANT.findall(text)}


def named(argument: ast.expr, tree: ast.Module) -> str | None:
    """What a first argument says, if it is a string or a constant that is one."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    if isinstance(argument, ast.Name):
        return strings(tree).get(argument.id) or constants().get(argument.id)
    return None


def methods() -> set[str]:
    found = set()
    for tree, call in calls()["register"]:
        if len(call.args) == 2 and (name := named(call.args[0], tree)):
            found.add(name)
    for text in walked()[1]:  # those that are registered in a loop over a table
        family, _, rest = text.partition(".")
        if family == "record" and rest.isalpha():
            found.add(text)
    return found


def test_every_method_is_on_the_page() -> None:
    found = methods()
    assert {"hello", "peer.find", "record.store", "shard.search", "blob.chunk", "learning.sign"} <= found
    assert {name for name in found if f"`{name}`" not in PAGE} == set()


def test_every_kind_statement_status_and_code_is_on_the_page() -> None:
    kinds = KINDS_BY_RULE_VERSION[RULE_VERSION]
    assert {kind for kind in kinds if f"`{kind}`" not in PAGE} == set()
    statements = {named(call.args[1], tree) for tree, call in calls()["sign_statement"]} - {None}
    assert statements
    assert {name for name in statements if f"| `{name}` |" not in PAGE} == set()
    for listed in (StoreStatus, RefusalCode):
        for one in listed:
            assert f"| {one.value} | {one.name} |" in PAGE


def test_the_rules_are_on_the_page_in_their_order() -> None:
    """Which rule is broken first is part of the protocol: warrants name it."""
    section = PAGE.partition("\n### Rules\n")[2].partition("\n### ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| `")]
    found = [(name.strip(" `"), row[2].strip()) for row in rows for name in row[1].split(",")]
    assert found == [
        (rule.name, " ".join("P" * rule.needs_payload + "W" * (rule.name in PROVABLE))) for rule in RULES
    ]
