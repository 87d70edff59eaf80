"""What each tool asks of the daemon, over the same HTTP interface as the command line.

Every call finds the daemon anew, so a daemon that was restarted is found again, and one that is not there is
one line. What the daemon answers is reduced to what an agent can use: signed bytes, addresses and
counters stay behind. Private entries are the owner's alone: unless that is allowed, no call shows one or its
existence, since what an agent reads here may have been written to make it tell others.

Blocking; raises what `ApiClient` raises, and `NotFound`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from node.api.shapes import instant
from node.api_client import ApiClient, path_segment
from node.errors import NotFound
from node.home import Home
from node.mcp.tools import (
    AddIn,
    CiteIn,
    EditIn,
    GetIn,
    ProvenanceIn,
    RelationIn,
    SearchIn,
    SourceIn,
    StatusIn,
    VoteIn,
)

ASK_ANEW = 100
"""Hits to ask for when some of the first answer are private: as many as the daemon gives."""
FIELDS = (
    "title",
    "type",
    "domain",
    "subdomains",
    "confidence",
    "format",
    "generated_by",
    "reasoning",
    "statements",
)
SHOWN_STATUS = (
    "agent_id",
    "network",
    "network_name",
    "space",
    "peers",
    "records",
    "held",
    "reachable",
    "unconfirmed",
    "full",
    "read_only",
    "chain",
    "uptime_s",
    "version",
)


@dataclass(frozen=True, slots=True)
class Told:
    """What a call gives: `data`, what of it is cut, its longest text, and whether others wrote it."""

    data: dict[str, Any]
    cuts: tuple[str, ...] = ()
    max_chars: int = 2_000
    untrusted: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """The daemon of a home folder, as far as an agent may see it."""

    home: Home
    allow_private: bool = False

    def call(self, asked: Any) -> Told:
        """Do what is asked, an instance of a tool's shape."""
        return _CALLS[type(asked)](self, ApiClient(self.home), asked)

    def entry(self, client: ApiClient, id: str, provenance: bool = False) -> Any:
        """An entry as the daemon shows it; raises `NotFound` for a private one that is not to be shown."""
        entry = client.get(f"/v1/entries/{path_segment(id)}", provenance=str(provenance).lower())
        if entry["private"] and not self.allow_private:
            raise NotFound(f"no entry {id} is known here or to its holders")
        return entry


def search(source: Source, client: ApiClient, asked: SearchIn) -> Told:
    """Hits with cut texts, and how complete they are."""
    body = asked.model_dump(exclude_defaults=True, exclude={"question", "max_chars"})
    body |= {"text": asked.question, "k": asked.k}
    answer = client.post("/v1/query", body)
    if not source.allow_private and any(hit["private"] for hit in answer["hits"]):
        answer = client.post("/v1/query", body | {"k": ASK_ANEW})
    hits = [hit for hit in answer["hits"] if source.allow_private or not hit["private"]]
    cost = answer["cost"]
    told = {name: cost[name] for name in ("expected_recall", "shards_missed", "deadline_hit")}
    if cost["shortfall"] is not None:
        told["advice"] = cost["shortfall"]["advice"]
    shown = ("id", "score", "author", "text", "tags", *(("private",) if source.allow_private else ()))
    return Told(
        {"hits": [{name: hit[name] for name in shown} for hit in hits[: asked.k]], **told},
        max_chars=asked.max_chars,
    )


def get(source: Source, client: ApiClient, asked: GetIn) -> Told:
    """An entry; its text from `offset` on."""
    entry = source.entry(client, asked.id)
    whole = entry["text"] or ""
    piece = whole[asked.offset : asked.offset + asked.max_chars]
    end = asked.offset + len(piece)
    data = {"id": entry["id"], "version_id": entry["version_id"], "author": entry["author"]}
    data["text"] = piece if entry["text"] is not None else None
    data |= {name: entry[name] for name in FIELDS if entry[name] not in (None, [])}
    data |= {name: entry[name] for name in ("tags", "citations", "references") if entry[name]}
    data["votes"] = {"up": entry["votes"]["up"], "down": entry["votes"]["down"]}
    ballots = [one for one in entry["votes"]["ballots"] if one["reason"]]
    if ballots:
        data["votes"]["reasons"] = ballots
    data |= {name: entry[name] for name in ("trust", "assessments", "erased") if entry[name]}
    flags = ("deleted", "retracted", "conflict", "delete_overruled", "private")
    data |= {name: True for name in flags if entry[name]}
    if entry["conflict"]:
        data["values"] = [
            {name: one[name] for name in ("record", "author", "text")} for one in entry["values"]
        ]
        data |= {"field_values": entry["field_values"]} if entry["field_values"] else {}
    cuts = []
    if asked.offset or end < len(whole):
        more = f"; go on with offset {end}" if end < len(whole) else ""
        cuts.append(f"text: characters {asked.offset} to {end} of {len(whole)}{more}")
    return Told(_without_nulls(data), tuple(cuts), asked.max_chars)


def provenance(source: Source, client: ApiClient, asked: ProvenanceIn) -> Told:
    """Who made the entry: its records in the order in which the node gives them, and what does not count."""
    entry = source.entry(client, asked.id, provenance=True)
    records = entry["records"]
    end = min(asked.offset + asked.limit, len(records))
    shown = ("id", "kind", "author", "seq", "validated_by")
    data = {
        "id": entry["id"],
        "author": entry["author"],
        "records_total": len(records),
        "records": [
            {name: one[name] for name in shown if one[name]} | {"at": instant(one["hlc"])}
            for one in records[asked.offset : end]
        ],
        "values": [
            {name: one[name] for name in ("record", "author", "resolution")} for one in entry["values"]
        ],
        "references": entry["references"],
        "excluded": entry["excluded"],
        "erased": entry["erased"],
        "version": entry["version"],
    }
    cuts = []
    if asked.offset or end < len(records):
        more = f"; go on with offset {end}" if end < len(records) else ""
        cuts.append(f"records: {min(asked.offset, end)} to {end} of {len(records)}{more}")
    return Told(_without_nulls(data), tuple(cuts))


def status(source: Source, client: ApiClient, asked: StatusIn) -> Told:
    """The node at a glance."""
    answer = client.get("/v1/status")
    return Told({name: answer[name] for name in SHOWN_STATUS})


def add(source: Source, client: ApiClient, asked: AddIn) -> Told:
    """Add a public entry."""
    body = asked.model_dump(exclude_none=True, exclude={"sources", "relations"})
    return _done(
        client.post("/v1/entries", body | {"references": _references(asked.sources, asked.relations)})
    )


def edit(source: Source, client: ApiClient, asked: EditIn) -> Told:
    """Change an entry that is at the version that the agent has seen."""
    source.entry(client, asked.id)
    body = asked.model_dump(exclude_none=True, exclude={"id", "if_version", "clear"})
    if not body["tags"]:
        del body["tags"]
    body |= dict.fromkeys(asked.clear)
    path = f"/v1/entries/{path_segment(asked.id)}"
    return _done(client.send("PATCH", path, body, asked.if_version))


def vote(source: Source, client: ApiClient, asked: VoteIn) -> Told:
    """Vote on an entry."""
    source.entry(client, asked.id)
    body = asked.model_dump(exclude_none=True, exclude={"id"})
    return _done(client.send("PUT", f"/v1/entries/{path_segment(asked.id)}/vote", body))


def cite(source: Source, client: ApiClient, asked: CiteIn) -> Told:
    """Add references to an entry."""
    source.entry(client, asked.id)
    body = {"add": _references(asked.sources, asked.relations)}
    return _done(client.send("POST", f"/v1/entries/{path_segment(asked.id)}/references", body))


_CALLS: dict[type, Callable[[Source, ApiClient, Any], Told]] = {
    SearchIn: search,
    GetIn: get,
    ProvenanceIn: provenance,
    StatusIn: status,
    AddIn: add,
    EditIn: edit,
    VoteIn: vote,
    CiteIn: cite,
}


def _done(answer: dict[str, Any]) -> Told:
    return Told(answer, untrusted=False)


def _references(sources: list[SourceIn], relations: list[RelationIn]) -> list[dict[str, str]]:
    return [one.model_dump(exclude_none=True) for one in (*sources, *relations)]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
