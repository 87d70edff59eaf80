"""The embedder behind HTTP: the interface as it is spoken, and every way in which a server may fail it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from chain.manifest import Limits
from node.api.problems import problem_of
from node.authoring import binding_codes, draft_entries
from node.commands.exit_codes import ExitCode, exit_code_of
from node.embedding.embedder import Embedder
from node.embedding.endpoint import MOST_PAUSE_S, EndpointEmbedder
from node.embedding.errors import (
    EmbedderFailed,
    EmbedderMissing,
    EmbeddingError,
    TextRefused,
    ZeroVector,
)
from node.embedding.external import EmbedderSettings, Unavailable, external_embedder, is_external
from node.embedding.quantise import quantise_floats
from node.models import NewEntry
from tests.node.stub_endpoint import (
    DIM,
    MODEL,
    PATH,
    Step,
    Stub,
    answer,
    drip,
    embedding,
    hang_up,
    raw,
    silent,
    status,
    stub_endpoint,
    vectors,
)

SPACE = f"openai:{MODEL}"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_endpoint() as server:
        yield server


class Pauses(list[float]):
    """Notes how long it was to wait instead of waiting."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def embedder(stub: Stub, **more: object) -> EndpointEmbedder:
    settings = replace(EmbedderSettings(url=stub.url, timeout_s=10, retries=2), **more)  # type: ignore[arg-type]
    return EndpointEmbedder(SPACE, DIM, MODEL, settings, pause=Pauses())


def pauses(one: EndpointEmbedder) -> Pauses:
    assert isinstance(one._pause, Pauses)
    return one._pause


def test_texts_come_back_as_the_codes_of_their_embeddings_in_order(stub: Stub) -> None:
    texts = [f"word{n} and word{n + 1}" for n in range(10)]
    one: Embedder = embedder(stub, batch=4, key="secret")
    codes = one.embed(texts)
    assert np.array_equal(codes, quantise_floats([embedding(text) for text in texts], DIM))
    assert [len(body["input"]) for _, _, body in stub.asked] == [4, 4, 2]
    path, authorisation, body = stub.asked[0]
    assert (path, authorisation) == (PATH, "Bearer secret")
    assert body == {"model": MODEL, "input": texts[:4], "encoding_format": "float"}
    assert one.embed([]).shape == (0, DIM)


def test_a_server_knows_the_model_by_the_name_that_is_set(stub: Stub) -> None:
    embedder(stub, model="its/own-name", key=None).embed(["a"])
    assert stub.asked[0][1:] == (None, {"model": "its/own-name", "input": ["a"], "encoding_format": "float"})


@pytest.mark.parametrize(
    "step", [status(429), status(500), status(503), status(408), hang_up], ids=lambda step: step.__name__
)
def test_what_may_pass_is_tried_again_with_growing_pauses(stub: Stub, step: Step) -> None:
    stub.script.extend([step, step])
    one = embedder(stub)
    assert one.embed(["a b"]).shape == (1, DIM)
    assert pauses(one) == [0.5, 1.0]
    stub.script.extend([step] * 3)
    with pytest.raises(EmbedderFailed) as caught:
        one.embed(["a b"])
    assert stub.url.removesuffix("/v1") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert exit_code_of(caught.value) is ExitCode.NETWORK
    assert (problem_of(caught.value).status, problem_of(caught.value).code) == (503, "embedder")


def test_a_server_may_ask_for_patience_within_bounds(stub: Stub) -> None:
    stub.script.extend([status(429, retry_after="7"), status(429, retry_after="86400")])
    one = embedder(stub)
    one.embed(["a"])
    assert pauses(one) == [7.0, MOST_PAUSE_S]


@pytest.mark.parametrize("step", [silent, drip])
def test_a_slow_server_costs_its_timeout_and_no_more(stub: Stub, step: Step) -> None:
    stub.script.append(step)
    with pytest.raises(EmbedderFailed, match=r"does not answer within 0\.2 s"):
        embedder(stub, timeout_s=0.2, retries=0).embed(["a"])


@pytest.mark.parametrize(("code", "words"), [(401, "ROSEFOREST_EMBEDDER_KEY"), (404, "url and model")])
def test_a_refusal_that_will_not_pass_is_said_at_once(stub: Stub, code: int, words: str) -> None:
    stub.script.append(status(code, "the server's\nown words"))
    one = embedder(stub)
    with pytest.raises(EmbedderFailed, match=words) as caught:
        one.embed(["a"])
    assert f"says {code} the server's own words" in str(caught.value)
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    "step",
    [
        raw(b"no json"),
        raw(b"[" * 50_000),
        raw(b'{"data": 7}'),
        raw(b"{}"),
        raw(b'{"data": [{"embedding": "AAAA", "index": 0}]}'),
        raw(b'{"data": [{"index": 0}]}'),
        raw(b'{"data": [[1]]}'),
        raw(b"x" * (DIM * 32 + 64 * 1024 + 1)),
        raw(b'{"data": [{"index": true, "embedding": []}]}'),
        vectors(lambda texts: []),
        vectors(lambda texts: [embedding("a")] * 2),
        vectors(lambda texts: [embedding("a", DIM - 1)]),
        vectors(lambda texts: [[float("nan")] * DIM]),
        vectors(lambda texts: [[10**400] * DIM]),
        vectors(lambda texts: [[True] * DIM]),
        vectors(lambda texts: [["1"] * DIM]),
        raw(b'{"data": [{"index": 3, "embedding": []}]}'),
    ],
)
def test_nonsense_is_refused_in_one_line_and_not_asked_for_again(stub: Stub, step: Step) -> None:
    stub.script.append(step)
    with pytest.raises(EmbedderFailed) as caught:
        embedder(stub).embed(["a"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert len(stub.asked) == 1


def test_wrong_dimensions_name_both_and_what_to_set(stub: Stub) -> None:
    stub.script.append(vectors(lambda texts: [embedding("a", 7)]))
    with pytest.raises(EmbedderFailed, match=rf"7 dimensions.*{SPACE}.*{DIM}.*set model"):
        embedder(stub).embed(["a"])


def test_a_text_without_a_direction_is_refused_by_itself(stub: Stub) -> None:
    with pytest.raises(ZeroVector):
        embedder(stub).embed(["", "a"])


def refuses_long(handler: object, texts: list[str]) -> None:
    step = status(400, "too long") if any(len(text) > 100 for text in texts) else answer
    step(handler, texts)  # type: ignore[arg-type]


def test_one_bad_entry_in_a_batch_is_rejected_by_itself_at_the_cost_of_a_few_requests(stub: Stub) -> None:
    stub.script.extend([refuses_long] * 100)
    entries = [NewEntry(f"entry {n}" if n != 13 else "long " * 50) for n in range(64)]
    drafted = draft_entries(embedder(stub), Limits(), entries)
    assert [one.index for one in drafted.rejected] == [13]
    assert "too long" in drafted.rejected[0].reason
    assert drafted.places == [n for n in range(64) if n != 13]
    assert len(stub.asked) <= 2 * 6 + 1


def test_a_server_that_is_gone_rejects_no_entries_but_fails_the_batch_once(stub: Stub) -> None:
    stub.script.extend([status(503)] * 3)
    with pytest.raises(EmbedderFailed):
        draft_entries(embedder(stub), Limits(), [NewEntry(f"entry {n}") for n in range(64)])
    assert len(stub.asked) == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "ftp://host/v1",
        "http://",
        "http://host:99999/v1",
        "http://u:p@host/v1",
        "http://h/v1?x=1",
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(EmbedderMissing, match="base address"):
        external_embedder(SPACE, DIM, EmbedderSettings(url=url))


def test_a_key_goes_over_https_or_stays_on_this_machine() -> None:
    for url in ("https://host.example/v1", "http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]/v1"):
        external_embedder(SPACE, DIM, EmbedderSettings(url=url, key="secret"))
    external_embedder(SPACE, DIM, EmbedderSettings(url="http://host.example/v1"))
    with pytest.raises(EmbedderMissing, match="not https") as caught:
        external_embedder(SPACE, DIM, EmbedderSettings(url="http://host.example/v1", key="secret"))
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(EmbedderSettings(key="secret"))


def test_a_missing_embedder_is_an_embedder_that_says_what_is_missing() -> None:
    one = external_embedder(SPACE, DIM, EmbedderSettings())
    assert isinstance(one, Unavailable)
    assert one.embed([]).shape == (0, DIM)
    with pytest.raises(EmbedderMissing, match=r"\[embedder\] of config\.toml") as caught:
        one.embed(["a"])
    assert exit_code_of(caught.value) is ExitCode.REFUSED
    assert isinstance(caught.value, EmbeddingError)
    assert problem_of(caught.value).status == 422


def test_vectors_of_an_embedder_that_is_not_exact_bind_nobody(stub: Stub) -> None:
    assert binding_codes(embedder(stub)) is None
    assert binding_codes(external_embedder(SPACE, DIM, EmbedderSettings())) is None


def test_what_counts_as_an_embedder_that_is_not_ours() -> None:
    assert is_external("openai:m")
    assert is_external("sentence-transformers:m")
    for space in ("openai:", "sentence-transformers:", "openai", "roseforest-static-256-v1", "x:y", ""):
        assert not is_external(space)


def test_a_refused_text_is_no_failure_of_the_embedder(stub: Stub) -> None:
    with pytest.raises(TextRefused, match="Unicode"):
        embedder(stub).embed(["half a pair: \ud800"])
