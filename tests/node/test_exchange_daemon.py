"""The exchange of a real daemon, driven with plain HTTP requests as its contract has them."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chain.behalf import content_statement, vote_statement
from chain.cid import from_text
from chain.identity import Identity
from node.exchange.rate_limit import LIMIT
from tests.node.real_daemons import SECONDS, Daemon, Daemons, eventually

pytestmark = pytest.mark.slow

CLAUDE = Identity.from_seed(b"c" * 32)
SIGNED_MS = 1_764_000_000_000
COFFEE = "Coffee reduces the risk of type 2 diabetes."
MORE = "Coffee increases the risk of type 2 diabetes."
Answer = tuple[int, dict[str, str], Any]
Ask = Callable[..., Answer]


def asking(daemon: Daemon, key: str) -> Ask:
    """Requests to the daemon's exchange, by this key."""
    where = urlsplit(daemon.info["exchange"])

    def ask(method: str, path: str, body: Any = None, authorization: str | None = key) -> Answer:
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=SECONDS)
        try:
            headers = {} if authorization is None else {"Authorization": authorization}
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), json.loads(response.read())
        finally:
            connection.close()

    return ask


def package(text: str, node: str, **metadata: Any) -> dict[str, Any]:
    return {
        "content": {"text": text, "format": "markdown", "generated_by": node},
        "confidence": {"overall": 0.8, "statements": {"It is a cohort study.": 0.9}},
        "reasoning_trace": {
            "method": "review",
            "steps": ["read three cohorts", "compared them"],
            "alternatives": [{"text": "Who drinks coffee moves more.", "confidence": 0.2, "reasoning": "?"}],
        },
        "metadata": {
            "domain": "medicine",
            "subdomains": ["nutrition"],
            "type_": "finding",
            "tags": ["coffee", "diabetes"],
            "source_citations": [
                {"source": "Cohorts", "link": "https://example.org", "citation_text": "RR .7"}
            ],
            "related_knowledge": [],
            **metadata,
        },
    }


def signed(statement: bytes) -> str:
    return base64.b64encode(CLAUDE.sign(statement)).decode()


def success(answer: Answer) -> Any:
    status, _, value = answer
    assert (status, value["status"]) == (200, "success"), answer
    return value


def refused(answer: Answer, status: int, field: str) -> str:
    got, _, value = answer
    assert (got, value["status"], value["errors"][0]["field"]) == (status, "error", field), answer
    message: str = value["message"]
    return message


def test_a_system_of_another_maker_uses_a_node_over_plain_http(daemons: Daemons) -> None:
    ann, bob = daemons.home("ann"), None
    keys = [daemons.command(ann, "exchange", "key", "add", name).out.strip() for name in ("lab", "field")]
    listed = daemons.command(ann, "exchange", "key", "list", "--json").value["keys"]
    assert [one["name"] for one in listed] == ["lab", "field"]
    daemon = daemons.run(ann, "--exchange-listen", "127.0.0.1:0")
    bob = daemons.run(daemons.home("bob", "--join", daemon.address))
    assert daemons.command(ann, "exchange", "url").out.strip() == daemon.info["exchange"]
    lab, field = asking(daemon, keys[0]), asking(daemon, f"Bearer {keys[1]}")

    assert lab("GET", "/health", authorization=None)[0] == 200
    assert lab("GET", "/knowledge", authorization=None)[0] == 401
    assert lab("GET", "/knowledge", authorization=daemon.token)[0] == 401  # the owner's is no key here
    assert daemon.ask("GET", "/v1/status", token=keys[0]).status == 401  # nor the other way round

    public_key = base64.b64encode(CLAUDE.agent).decode()
    register = f"/register?node_id=claude&public_key={public_key}"
    assert success(lab("POST", register.replace("+", "%2B")))["public_key"] == CLAUDE.agent.hex()

    first = package(COFFEE, "claude")
    first["trust"] = {"signature": signed(content_statement("claude", COFFEE)), "score": 1, "votes": {}}
    published = success(lab("POST", "/knowledge", first))
    coffee = published["knowledge_id"]
    assert "conflicts" not in published
    against = success(field("POST", "/knowledge", package(MORE, "other")))
    assert against["conflicts"] == [coffee]
    settled = package(
        MORE.upper(), "other", related_knowledge=[{"knowledge_id": coffee, "relation": "cites"}]
    )
    knows = success(field("POST", "/knowledge", settled))
    assert "conflicts" not in knows  # it cites the one and says the same as the other

    status, _, found = lab(
        "GET",
        "/knowledge?domain=medicine&type=finding&tags=coffee,diabetes&ai_node=claude&min_confidence=0.5&limit=10",
    )
    assert (status, found["count"], found["results"][0]["knowledge_id"]) == (200, 1, coffee)
    assert lab("GET", "/knowledge?ai_node=other&tags=coffee")[2]["count"] == 2
    assert lab("GET", "/knowledge?q=does+coffee+cause+diabetes&limit=2")[2]["count"] == 2

    shown = field("GET", f"/knowledge/{coffee}")[2]
    assert shown["content"] == first["content"]
    assert shown["confidence"] == first["confidence"]
    assert shown["reasoning_trace"] == first["reasoning_trace"]
    assert shown["trust"]["signature"] == first["trust"]["signature"]
    said = eventually(lambda: bob.ask("GET", f"/v1/entries/{coffee}").value, "bob to see the entry")
    assert said["values"][0]["on_behalf_of"] == {
        "name": "claude",
        "key": public_key,
        "signature": first["trust"]["signature"],
    }

    shown["metadata"]["tags"] = ["coffee"]
    shown["content"]["text"] = f"{COFFEE} It is an association."
    updated = success(lab("PUT", f"/knowledge/{coffee}", shown))
    assert updated["conflicts"] == [against["knowledge_id"]]
    assert "entry.edit" in refused(lab("PUT", f"/knowledge/{coffee}", shown), 409, "version_id")
    now = lab("GET", f"/knowledge/{coffee}")[2]
    assert (now["version_id"], now["metadata"]["tags"]) == (updated["version_id"], ["coffee"])
    assert now["trust"]["signature"] is None  # it was over the text before

    vote = {"evaluating_node": "claude", "vote": "upvote", "reason": "replicated", "confidence": 1}
    statement = vote_statement("claude", from_text(coffee), 1, 1_000_000, "replicated", SIGNED_MS)
    vote |= {"signed_ms": SIGNED_MS, "signature": signed(statement)}
    one = success(lab("POST", f"/knowledge/{coffee}/evaluate", vote))
    assert (one["knowledge_id"], one["votes"]) == (coffee, {"upvotes": 1, "downvotes": 0})
    down = {"evaluating_node": "other", "vote": "downvote", "reason": "confounded", "confidence": 0.5}
    two = success(field("POST", f"/knowledge/{coffee}/evaluate", down))
    assert two["votes"] == {"upvotes": 1, "downvotes": 1}
    assert 0 < two["new_score"] < one["new_score"] < 1
    refused(field("POST", f"/knowledge/{coffee}/evaluate", vote), 403, "evaluating_node")

    decided = {
        "resolving_node": "claude",
        "resolution_type": "reject",
        "reasoning": "three cohorts say the contrary",
        "merged_content": None,
    }
    against_id = against["knowledge_id"]
    assert success(lab("POST", f"/conflict/{against_id}/resolve", decided))["knowledge_id"] == against_id
    rejected = lab("GET", f"/knowledge/{against_id}")[2]
    assert {"knowledge_id": coffee, "relation": "superseded by"} in rejected["metadata"]["related_knowledge"]
    assert rejected["trust"]["votes"] == {"upvotes": 0, "downvotes": 1}
    refused(lab("POST", f"/conflict/{against_id}/resolve", decided), 422, "id")

    secret = daemons.command(ann, "add", "--private", "The owner's own.", "--json").value["id"]
    assert daemon.ask("GET", f"/v1/entries/{secret}").value["private"] is True
    for method, path, body in (
        ("GET", f"/knowledge/{secret}", None),
        ("PUT", f"/knowledge/{secret}", package("Mine.", "claude")),
        ("POST", f"/knowledge/{secret}/evaluate", vote),
        ("POST", f"/conflict/{secret}/resolve", decided),
    ):
        refused(lab(method, path, body), 404, "id")
    for path in ("/knowledge", "/knowledge?q=the+owner's+own"):
        ids = [one["knowledge_id"] for one in lab("GET", path)[2]["results"]]
        assert coffee in ids
        assert secret not in ids

    daemon.terminate()
    daemon = daemons.run(ann, "--exchange-listen", "127.0.0.1:0")
    lab, field = asking(daemon, keys[0]), asking(daemon, keys[1])
    refused(field("POST", register.replace("+", "%2B")), 403, "node_id")
    for _ in range(LIMIT - 1):
        assert field("GET", "/health")[0] == 200
    status, headers, value = field("GET", "/health")
    assert (status, value["status"], 1 <= int(headers["retry-after"]) <= 60) == (429, "error", True)
    assert lab("GET", f"/knowledge/{coffee}")[0] == 200
    assert daemons.command(ann, "exchange", "key", "revoke", "lab").code == 0
    refused(lab("GET", f"/knowledge/{coffee}"), 401, "Authorization")


def test_a_port_in_use_and_files_that_are_none_are_told_in_one_line(daemons: Daemons, tmp_path: Path) -> None:
    home = daemons.home("ann")
    none = daemons.command(home, "exchange", "url")
    assert (none.code != 0, "no daemon runs" in none.complaint) == (True, True)
    (home / "exchange-keys.json").write_text("[]")
    (home / "exchange-keys.json").chmod(0o644)
    done = daemons.command(home, "run", "--exchange-listen", "127.0.0.1:0")
    assert (done.code != 0, "chmod 600" in done.complaint) == (True, True)
    (home / "exchange-keys.json").unlink()
    done = daemons.command(home, "run", "--exchange-listen", "nowhere")
    assert "--exchange-listen" in done.complaint
