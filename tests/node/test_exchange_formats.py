"""JSON-LD and JSON lines: what is exported is read again, by us and by others, and what is bent is named."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chain.cid import record_cid, to_text
from chain.content import Content
from chain.identity import Identity, did_key, peer_id
from chain.reference import Source
from chain.source_chain import Draft, head_of, next_record
from crdt.drafts import draft_create, draft_link, draft_vote
from crdt.entry import EntryState
from node.corpus.json_lines import BadLine, GoodLine, entry_of, read_json_lines
from node.entry_reader import view_of
from node.exchange_formats.json_ld import BEGIN, CONTEXT, END, joined, nodes_of
from node.exchange_formats.json_ld_reading import MAX_NODE, read_json_ld
from node.exchange_formats.json_lines import entry_object, line_of
from node.models import MAX_BALLOTS, MAX_REFERENCES, EntryView
from tests.validation.archive_samples import RULES, authors, work

NETWORK = RULES.network_id
TEXTS = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() != "")
SHARES = st.integers(0, 100).map(lambda percent: percent / 100)
REFERENCES = st.fixed_dictionaries(
    {"source": TEXTS}, optional={"link": TEXTS, "quote": TEXTS}
) | st.fixed_dictionaries({"predicate": TEXTS, "target": st.just(to_text(record_cid(b"other")))})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "title": TEXTS,
    "type": TEXTS,
    "domain": TEXTS,
    "format": TEXTS,
    "generated_by": TEXTS,
    "confidence": SHARES,
    "tags": st.lists(TEXTS, min_size=1, max_size=3),
    "citations": st.lists(TEXTS, min_size=1, max_size=2),
    "subdomains": st.lists(TEXTS, min_size=1, max_size=2),
    "statements": st.lists(
        st.fixed_dictionaries({"text": TEXTS, "confidence": SHARES}), min_size=1, max_size=2
    ),
    "reasoning": st.fixed_dictionaries(
        {"method": TEXTS},
        optional={
            "steps": st.lists(TEXTS, min_size=1, max_size=2),
            "alternatives": st.lists(
                st.fixed_dictionaries({"text": TEXTS}, optional={"confidence": SHARES}),
                min_size=1,
                max_size=2,
            ),
        },
    ),
    "references": st.lists(REFERENCES, min_size=1, max_size=2),
}
ENTRIES = st.fixed_dictionaries({"text": TEXTS}, optional=FIELDS)


def exported() -> dict[str, Any]:
    """A real entry, edited, voted on and with an erased first text."""
    records, _ = work()
    view = view_of(records[0].cid, records)
    assert view is not None
    return entry_object(NETWORK, view)


def whole(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as an export has it, with fields of our choice."""
    empty = {"references": [], "assessments": [], "values": [], "votes": {"ballots": []}, "left_out": {}}
    origin = {name: exported()[name] for name in ("id", "author", "network")}
    return {**empty, **origin, **entry}


def document(*entries: dict[str, Any]) -> bytes:
    parts = [joined(nodes_of(one, ()), first=not place) for place, one in enumerate(entries)]
    return BEGIN + b"".join(parts) + END


@settings(max_examples=30, deadline=None)
@given(st.lists(ENTRIES, max_size=2))
@example([{"text": "sure of nothing", "confidence": 0.0}])
def test_json_ld_and_json_lines_bring_the_same_entries_back(entries: list[dict[str, Any]]) -> None:
    there = [whole(one) for one in entries]
    wanted = [entry_of(one) for one in there]
    by_graph = [one for one in read_json_ld(io.BytesIO(document(*there))) if isinstance(one, GoodLine)]
    by_line = [
        one for one in read_json_lines(io.BytesIO(b"".join(map(line_of, there)))) if isinstance(one, GoodLine)
    ]
    assert [one.entry for one in by_graph] == wanted
    assert [one.entry for one in by_line] == wanted


def crowded(voters: int, references: int) -> EntryView:
    """An entry that so many voted on, and with so many sources, 50 a record."""
    agents = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, voters + 1)]
    records = [
        next_record(agents[0], NETWORK, NETWORK, None, draft_create(Content("t", b"\1")), 1, bytes(16))
    ]
    state = EntryState(records[0].cid).add_all(records)

    def write(agent: Identity, draft: Draft) -> None:
        before = head_of(records[-1]) if agent == agents[0] else None
        records.append(next_record(agent, NETWORK, NETWORK, before, draft, 1, bytes(16)))

    for start in range(0, references, 50):
        seen = state.add_all(records).view()
        assert seen is not None
        sources = [Source(f"book {number}") for number in range(start, min(start + 50, references))]
        write(agents[0], draft_link(seen, agents[0].agent, sources))
    seen = state.add_all(records).view()
    assert seen is not None
    for agent in agents:
        write(agent, draft_vote(seen, agent.agent, 1))
    view = view_of(records[0].cid, records)
    assert view is not None
    return view


def test_an_export_says_of_what_there_is_more_than_it_has() -> None:
    view = crowded(260, 300)
    entry = entry_object(NETWORK, view)
    assert (len(entry["votes"]["ballots"]), len(entry["references"])) == (MAX_BALLOTS, MAX_REFERENCES)
    assert entry["left_out"] == {"references": 300 - MAX_REFERENCES, "votes": 260 - MAX_BALLOTS}
    node = nodes_of(entry, view.records)[0]
    assert node["left_out"] == [{"part": "references", "number": 44}, {"part": "votes", "number": 4}]
    for found in (
        read_json_lines(io.BytesIO(line_of(entry))),
        read_json_ld(io.BytesIO(document(entry))),
    ):
        (good,) = found
        assert isinstance(good, GoodLine), good
    fits = crowded(MAX_BALLOTS, MAX_REFERENCES)
    assert fits.left_out == ()
    assert "left_out" not in nodes_of(entry_object(NETWORK, fits), fits.records)[0]


def test_an_entry_of_another_network_is_cited_and_known_again_however_it_has_changed() -> None:
    before = exported()
    entry = entry_of(before)
    assert entry.origin is not None
    (source,) = dict(entry.more)["references"]
    assert peer_id(authors()[0].agent) in source["source"]
    assert source["link"] == f"urn:roseforest:entry:{before['id']}"
    assert source["quote"] == "it is of rock"
    assert entry_of({**before, "text": "it was of cheese"}).import_key == entry.import_key
    assert entry_of({"text": entry.text}).import_key != entry.import_key


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")
@pytest.mark.slow  # importing rdflib takes as long as a hundred of the fast tests
def test_others_read_the_graph_of_what_was_done_by_whom() -> None:
    import rdflib

    records, _ = work()
    ann, bob = authors()
    data = BEGIN + joined(nodes_of(exported(), records), first=True) + END
    graph = rdflib.Graph().parse(data=data.decode(), format="json-ld")
    prov = rdflib.Namespace("http://www.w3.org/ns/prov#")
    terms = rdflib.Namespace("urn:roseforest:terms:")
    entry = rdflib.URIRef(f"urn:roseforest:entry:{to_text(records[0].cid)}")

    assert (entry, rdflib.RDF.type, prov.Entity) in graph
    assert (entry, terms.text, rdflib.Literal("it is of rock")) in graph
    assert set(graph.objects(entry, terms.tag)) == {rdflib.Literal("geology")}
    done = {
        (str(graph.value(one, terms.operation)), str(graph.value(one, prov.wasAssociatedWith)))
        for one in graph.subjects(rdflib.RDF.type, prov.Activity)
    }
    assert done == {(one.header.kind, did_key(one.header.author)) for one in records}
    started = graph.value(
        rdflib.URIRef(f"urn:roseforest:record:{to_text(records[1].cid)}"), prov.startedAtTime
    )
    assert isinstance(started, rdflib.Literal)
    assert started.datatype == rdflib.XSD.dateTime
    values = {one.cid: rdflib.URIRef(f"urn:roseforest:value:{to_text(one.cid)}") for one in records}
    assert (values[records[1].cid], prov.wasRevisionOf, values[records[0].cid]) in graph
    assert (values[records[1].cid], prov.specializationOf, entry) in graph
    agents = set(graph.subjects(rdflib.RDF.type, prov.Agent))
    assert agents == {rdflib.URIRef(did_key(one.agent)) for one in (ann, bob)}
    assert (graph.value(graph.value(entry, terms.vote), terms.agent)) == rdflib.URIRef(did_key(bob.agent))


def test_other_names_for_the_same_properties_are_understood() -> None:
    value = {
        "@context": {"r": "urn:roseforest:terms:", "body": "r:text", "dc": "http://purl.org/dc/terms/"},
        "@type": "http://www.w3.org/ns/prov#Entity",
        "body": {"@value": "it is of rock"},
        "dc:title": "Moon",
        "r:tag": ["moon"],
        "http://schema.org/license": "any",
    }
    for written in (value, [value]):
        (found,) = read_json_ld(io.BytesIO(json.dumps(written).encode()))
        assert isinstance(found, GoodLine)
        assert (found.entry.text, found.entry.tags) == ("it is of rock", ("moon",))
        assert dict(found.entry.more) == {"title": "Moon"}
        assert found.entry.origin is None


CONTEXT_LINE = json.dumps({"@context": CONTEXT})[:-1].encode()


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b"", 1, "not JSON-LD"),
        (b"\n\n7", 3, "not JSON-LD"),
        (b'{"@context": "https://example.org/c.jsonld", "text": "x"}', 1, "none is fetched"),
        (b'{"text": "x"}', 1, "none is fetched"),
        (b'{"@graph": []}', 1, "stands before the @graph"),
        (CONTEXT_LINE + b',"@graph":[\n{"text":"x"},\n{"text":', 3, "not JSON"),
        (CONTEXT_LINE + b',"@graph":[\n{"text":"x"}\n{', 3, "expected ','"),
        (CONTEXT_LINE + b',"@graph":[\n{"text":"x","text":"y"}]}', 2, "given twice"),
        (CONTEXT_LINE + b',"@graph":[\n{"text":NaN}]}', 2, "not a JSON number"),
        (CONTEXT_LINE + b',"@graph":[\n' + b"[" * 100_000, 2, "nested too deeply"),
        (CONTEXT_LINE + b',"@graph":[\n\xff', 1, "codec can't decode"),
        (CONTEXT_LINE + b',"@graph":[\n{"text":"' + b"x" * 2 * MAX_NODE, 2, "longer than"),
        (CONTEXT_LINE + b',"@graph":[]} 7', 1, "something follows"),
    ],
)
def test_what_breaks_a_document_is_named_with_its_line(data: bytes, line: int, why: str) -> None:
    *_, last = read_json_ld(io.BytesIO(data))
    assert isinstance(last, BadLine)
    assert (last.number, why in last.reason) == (line, True), last
    assert "\n" not in last.reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"text": None}, "erased where it comes from"),
        ({"text": None, "erased": []}, "'text' is missing"),
        ({"deleted": True}, "deleted where it comes from"),
        ({"private": True}, "private where it comes from"),
        ({"author": None}, "has all of author, id, network"),
        ({"tag": "moon"}, "unknown field 'tag'"),
        ({"references": 7}, "a number, not a list"),
    ],
)
def test_an_entry_that_cannot_be_taken_says_why(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        entry_of({**exported(), **change})
