"""The graph around an entry: what belongs to it, what is read for it, and DOT that strangers cannot break."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.cid import Cid, record_cid, to_text
from chain.reference import Relation, Source
from node.graph.dot import dot_of, quoted
from node.graph.exploration import BOTH, DIRECTIONS, IN, OUT, TIME, Edge, Exploration, Graph, Seen

IDS = sorted(record_cid(bytes([number])) for number in range(7))
RELATIONS = st.lists(st.sampled_from(IDS), max_size=3)
WORLDS = st.fixed_dictionaries({cid: st.none() | RELATIONS for cid in IDS[1:]} | {IDS[0]: RELATIONS})
"""Of each entry what it relates to; None: nobody has it."""
World = Mapping[Cid, Sequence[Cid] | None]
few = settings(max_examples=60)


def seen(targets: Sequence[Cid], title: str = "a title", sources: Sequence[Source] = ()) -> Seen:
    relations = tuple(Relation("supports", target) for target in targets)
    return Seen(bytes(32), title, None, (), None, relations, tuple(sources), len(sources), all_shown=True)


def explored(
    world: World, depth: int, limit: int = 99, direction: str = BOTH, patience: int = 99
) -> tuple[Graph, set[Cid]]:
    """The graph from the first entry, and what was read; only `patience` entries are."""
    walk = Exploration(IDS[0], depth, limit, direction)
    found: dict[Cid, Seen | None] = {}
    while walk.wave:
        for cid in walk.wave:
            if len(found) == patience:
                walk.give_up(found)
                return walk.graph(), set(found)
            targets = world[cid]
            found[cid] = None if targets is None else seen(targets)
        asked = walk.take(found)
        # The records that are here may say more than holds: every entry is named as one that may relate.
        walk.follow(dict.fromkeys(asked, IDS))
    return walk.graph(), set(found)


def distances(world: World, depth: int, direction: str) -> dict[Cid, int]:
    """By the definition: repeat, for each level, whoever is one relation away."""
    found = {IDS[0]: 0}
    for level in range(1, depth + 1):
        at = [cid for cid in found if found[cid] == level - 1]
        out = {target for cid in at for target in world[cid] or ()}
        into = {cid for cid in IDS if set(world[cid] or ()) & set(at)}
        reached = (out if direction != IN else set()) | (into if direction != OUT else set())
        found |= {cid: level for cid in reached if cid not in found}
    return found


@few
@given(world=WORLDS, depth=st.integers(0, 4), direction=st.sampled_from(DIRECTIONS))
def test_the_graph_is_all_within_reach_and_every_relation_among_it(
    world: World, depth: int, direction: str
) -> None:
    graph, _ = explored(world, depth, direction=direction)
    expected = distances(world, depth, direction)
    assert [(node.distance, node.id) for node in graph.nodes] == sorted(
        (distance, cid) for cid, distance in expected.items()
    )
    assert {node.id for node in graph.nodes if node.seen is None} == {
        cid for cid in expected if world[cid] is None
    }
    assert list(graph.edges) == sorted(
        {Edge(a, "supports", b) for a in expected for b in world[a] or () if b in expected}
    )
    assert {node.id: node.beyond for node in graph.nodes} == {
        cid: sum(target not in expected for target in world[cid] or ()) for cid in expected
    }
    assert not graph.truncated


@few
@given(world=WORLDS, limit=st.integers(1, 4), patience=st.integers(1, 7))
def test_what_limits_cut_off_is_said_and_what_is_shown_is_true(
    world: World, limit: int, patience: int
) -> None:
    whole = {node.id: node for node in explored(world, 3)[0].nodes}
    graph, read = explored(world, 3, limit, patience=patience)
    shown = {node.id for node in graph.nodes}
    assert len(shown) <= limit
    assert shown <= whole.keys()
    assert all(whole[node.id].distance <= node.distance <= 3 for node in graph.nodes)
    assert graph.nodes[0].id == IDS[0]
    assert {node.id for node in graph.nodes if node.read} <= read
    assert set(graph.edges) <= set(explored(world, 3)[0].edges)
    assert (shown == whole.keys() and all(node.read for node in graph.nodes)) or graph.truncated
    assert (TIME in graph.truncated) or all(node.read for node in graph.nodes)


STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
HOSTILE = ['"]; evil [URL="javascript:x"', "\\", '\\"', "line\nfeed\r", "\u202eback", "&quot;", "]", "x" * 99]


@few
@given(st.text(st.sampled_from('"\\\n\u202e&];{}aé'), max_size=70) | st.sampled_from(HOSTILE))
def test_a_strangers_words_stay_inside_their_quotes(words: str) -> None:
    assert STRING.fullmatch(quoted(words))
    world = {IDS[0]: seen(IDS[1:2], words, [Source(words, words)]), IDS[1]: None}
    walk = Exploration(IDS[0], 1, 9, OUT)
    walk.take(world)
    walk.follow({})
    walk.take(world)
    dot = dot_of(walk.graph())
    first, second = (to_text(cid) for cid in IDS[:2])
    assert STRING.sub("_", dot).splitlines() == [
        "digraph roseforest {",
        "  rankdir=LR;",
        "  node [shape=box, style=rounded, fontname=_];",
        "  _ [label=_, penwidth=2];",
        "  _ [label=_, style=dotted];",
        "  _ -> _ [label=_];",
        "  s1 [shape=note, style=solid, label=_];",
        "  _ -> s1 [style=dashed];",
        "}",
    ]
    assert f'  "{first}" -> "{second}" [label="supports"];' in dot
    assert all(char.isprintable() or char == "\n" for char in dot)
    assert "&" not in dot.replace("&amp;", "")
