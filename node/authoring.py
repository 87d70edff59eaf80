"""From what a user hands in to what is signed or asked: texts become codes, entries become drafts.

A batch is embedded in one call; when a text in it has no code, it is halved until the bad entries are
rejected by themselves, and the others go on. Everything here blocks and is called off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain.content import SINCE_5, Content
from chain.errors import ChainError
from chain.kinds import CARRIES_CONTENT, CREATE, FIELDS_FROM, KINDS_BY_RULE_VERSION, RULE_VERSION, VOTE
from chain.manifest import Limits
from chain.record import SALT_SIZE, encode_payload
from chain.source_chain import Draft
from chain.vector import Codes
from crdt.errors import CrdtError
from crdt.operations import read_operation
from node.embedding.caller import CallerVectors
from node.embedding.embedder import Embedder
from node.embedding.errors import EmbedderFailed, EmbedderMissing, EmbeddingError, WrongSize
from node.models import NewEntry, Rejected
from validation.payload_rules import unsigned, untimed


@dataclass(frozen=True, slots=True)
class Drafted:
    """Drafts with the places of their entries in the batch, ascending; and what was rejected."""

    drafts: list[Draft]
    places: list[int]
    rejected: list[Rejected]


def draft_entries(
    embedder: Embedder | CallerVectors,
    limits: Limits,
    entries: Sequence[NewEntry],
    rules: int = RULE_VERSION,
) -> Drafted:
    """Draft an `entry.create` for every entry that can be one in a network of these limits and rules.

    Raises `EmbedderMissing` or `EmbedderFailed` when no text could be embedded, whichever.
    """
    drafted = Drafted([], [], [])
    codes: dict[int, bytes] = {}
    texts: list[int] = []
    for place, entry in enumerate(entries):
        try:
            if entry.vector is not None:
                codes[place] = vector_codes(embedder, entry.vector).tobytes()
            else:
                texts.append(place)
        except EmbeddingError as error:
            drafted.rejected.append(Rejected(place, str(error)))
    codes.update(_embed(embedder, entries, texts, drafted.rejected))
    for place in sorted(codes):
        try:
            content = _content(entries[place], codes[place])
            draft = Draft(CREATE, content.to_body())
            fault = refusal(draft, limits, rules)
        except ChainError as error:
            drafted.rejected.append(Rejected(place, str(error)))
            continue
        if fault is None:
            drafted.drafts.append(draft)
            drafted.places.append(place)
        else:
            drafted.rejected.append(Rejected(place, fault))
    return drafted


def text_codes(embedder: Embedder | CallerVectors, text: str) -> Codes:
    """The codes of one text; raises `EmbeddingError`."""
    codes: Codes = embedder.embed([text])[0]
    return codes


def binding_codes(embedder: Embedder | CallerVectors) -> Callable[[str], bytes | None] | None:
    """What validation holds vectors against: a text's codes, or None where it has none.

    There is nothing to hold a caller's vectors against, nor those of an embedder that gives another machine
    other codes: for them the function itself is None.
    """
    if not embedder.exact:
        return None

    def codes_of(text: str) -> bytes | None:
        try:
            return text_codes(embedder, text).tobytes()
        except EmbeddingError:
            return None  # the rule `binding` refuses the record

    return codes_of


def vector_codes(embedder: Embedder | CallerVectors, vector: Sequence[float]) -> Codes:
    """The codes of a caller's vector; raises `EmbeddingError`, also where the network embeds texts itself."""
    if not isinstance(embedder, CallerVectors):
        raise WrongSize(f"the network embeds texts itself ({embedder.space}); leave the vector out")
    return embedder.quantise(vector)


def _embed(
    embedder: Embedder | CallerVectors,
    entries: Sequence[NewEntry],
    places: Sequence[int],
    rejected: list[Rejected],
) -> dict[int, bytes]:
    try:
        rows = embedder.embed([entries[place].text for place in places])
        return {place: row.tobytes() for place, row in zip(places, rows, strict=True)}
    except (EmbedderMissing, EmbedderFailed):
        raise
    except EmbeddingError as error:
        if len(places) == 1:
            rejected.append(Rejected(places[0], str(error)))
            return {}
    # Halves, because a call may be a request to somewhere: one bad text in n costs 2 log n of them.
    middle = len(places) // 2
    first = _embed(embedder, entries, places[:middle], rejected)
    return first | _embed(embedder, entries, places[middle:], rejected)


def refusal(draft: Draft, limits: Limits, rules: int) -> str | None:
    """Why the draft breaks the network's limits or rules, None if not: signing it excludes its author.

    What it names is not looked at. Raises nothing for what can be read in no way: that is a reason, too.
    """
    if draft.kind not in KINDS_BY_RULE_VERSION[rules]:
        return f"this network's rules (version {rules}) do not know {draft.kind}"
    newer = min(SINCE_5 & draft.body.keys(), default=None) if rules < FIELDS_FROM else None
    if newer is not None and draft.kind in CARRIES_CONTENT | {VOTE}:
        return f"this network's rules (version {rules}) do not know {newer}"
    size = len(encode_payload(bytes(SALT_SIZE), draft.body))
    if size > limits.payload:
        return f"the entry takes {size} bytes in all, this network's limit is {limits.payload}"
    try:
        said = read_operation(draft.kind, draft.body)
    except (ChainError, CrdtError) as error:
        return str(error)
    fault = limits.fault(said) if isinstance(said, Content) else None
    return fault or untimed(said, rules) or unsigned(said, draft.subject or b"")


def _content(entry: NewEntry, codes: bytes) -> Content:
    return Content(
        text=entry.text,
        codes=codes,
        tags=tuple(sorted(set(entry.tags))),
        domain=entry.domain,
        confidence=entry.confidence,
        citations=entry.citations,
        format=entry.format,
        generated_by=entry.generated_by,
        references=entry.references,
        fields=entry.fields,
        behalf=entry.behalf,
    )
