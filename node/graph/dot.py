"""The graph in DOT, the language of Graphviz, for people who want to see it.

Titles and predicates are strangers' words. They appear in double-quoted strings alone, where a backslash and
a quote are escaped, and so is the ampersand, which labels would read as an entity; whatever is not printable,
line feeds and overrides of the writing direction among it, becomes a space. Nothing of a stranger becomes an
attribute such as a link. Names of nodes are ids and numbers. Equal graphs give equal texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chain.cid import to_text
from chain.reference import Source
from crdt.trust import VOTE
from node.graph.exploration import Graph, Node

WIDTH: Final = 60
"""Characters of a stranger's text in a label."""
_UNREAD: Final = {True: "nobody has shown it", False: "not read any more"}


def dot_of(graph: Graph) -> str:
    """A whole DOT file, ending with a line feed."""
    return "\n".join(_lines(graph)) + "\n"


def quoted(text: str) -> str:
    """`text`, at most `WIDTH` characters of it, as a DOT string in quotes."""
    plain = "".join(char if char.isprintable() else " " for char in text[:WIDTH])
    shown = plain if len(text) <= WIDTH else f"{plain}…"
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") + '"'


def _lines(graph: Graph) -> Iterator[str]:
    yield "digraph roseforest {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style=rounded, fontname="sans-serif"];'
    for why in graph.truncated:
        yield f"  // not complete: {why}"
    for node in graph.nodes:
        yield f'  "{to_text(node.id)}" [label={_label(node)}{_look(node, graph)}];'
    for edge in graph.edges:
        yield f'  "{to_text(edge.subject)}" -> "{to_text(edge.object)}" [label={quoted(edge.predicate)}];'
    cited = [(node, node.seen.sources) for node in graph.nodes if node.seen is not None]
    every = sorted({one for _, sources in cited for one in sources}, key=_order)
    numbers = {one: number for number, one in enumerate(every, 1)}
    for one, number in numbers.items():
        yield f"  s{number} [shape=note, style=solid, label={quoted(one.source)}];"
    for node, sources in cited:
        for one in sources:
            yield f'  "{to_text(node.id)}" -> s{numbers[one]} [style=dashed];'
    yield "}"


def _label(node: Node) -> str:
    """Its title or the beginning of its text; below it the end of its id, and the trust in it."""
    seen = node.seen
    said = _UNREAD[node.read] if seen is None else (seen.title or seen.excerpt or "(erased)")
    below = f"…{to_text(node.id)[-8:]}"
    if seen is not None and seen.trust is not None and seen.trust.rooted + seen.trust.strangers:
        below += f"  trust {seen.trust.score * 100 // VOTE / 100:.2f}"
    if seen is not None and seen.flags:
        below += f"  ({', '.join(seen.flags)})"
    return f'{quoted(said)[:-1]}\\n{below}"'


def _look(node: Node, graph: Graph) -> str:
    if node.seen is None:
        return ", style=dotted"
    return ", penwidth=2" if node.id == graph.start else ""


def _order(one: Source) -> tuple[str, str]:
    return one.source, one.link or ""
