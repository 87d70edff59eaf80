"""The JSON of entries, records and errors, as pydantic models, and its making from the node's nouns.

Ids are CIDs in base32 text, agents are libp2p peer ids, signed bytes are base64, and scores and confidences
are numbers from 0 to 1 (cosine scores from -1), which the node keeps as integer ppm.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from chain.cid import Cid, to_text
from chain.content import MAX_CITATIONS, MAX_TAGS
from chain.identity import peer_id
from chain.record import Record
from chain.vector import MAX_DIM, PPM
from node.api.knowledge import (
    BehalfShape,
    FieldsIn,
    ReasoningShape,
    References,
    ReferenceShape,
    StatementShape,
    VoterShape,
    behalf_out,
    field_out,
    ppm,
    reference_out,
    references_of,
    voter_out,
)
from node.api.shape import Shape, Text
from node.api.trust import TrustOut, trust_out
from node.models import EntryView, NewEntry, Value

MAX_BATCH = 500
"""Entries of one batch."""
MAX_LOG = 1000
"""Records that one page of the chain's log may hold."""
_LAST_SECOND = 253_402_300_799
KEY_DIGITS = 128
"""Hexadecimal digits of an idempotency key, at most."""


class EntryIn(FieldsIn):
    """A new entry."""

    text: Text = Field(description="what is known; at most 64 KiB of UTF-8")
    tags: list[str] = Field(default=[], max_length=MAX_TAGS)
    domain: str | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    citations: list[str] = Field(default=[], max_length=MAX_CITATIONS)
    format: str | None = Field(default=None, description='of the text: "markdown", "plain", …')
    generated_by: str | None = Field(default=None, description="the model or person that wrote the text")
    references: References = Field(default=[])
    on_behalf_of: BehalfShape | None = None
    vector: Annotated[list[float], Field(max_length=MAX_DIM)] | None = Field(
        default=None, description="only in networks whose space takes the caller's vectors"
    )
    key: Annotated[str, Field(pattern=r"^([0-9a-f]{2})+$", max_length=KEY_DIGITS)] | None = Field(
        default=None, description="hexadecimal; an entry with this key is added by this node at most once"
    )

    private: bool = Field(default=False, description="for this node's owner alone, encrypted")
    backup: bool = Field(default=False, description="of a private entry: let others keep the sealed box")

    def to_entry(self) -> NewEntry:
        """The node's noun; raises `InvalidInput` for a field over its limit."""
        return NewEntry(
            text=self.text,
            tags=tuple(self.tags),
            domain=self.domain,
            confidence=ppm(self.confidence),
            citations=tuple(self.citations),
            vector=self.vector,
            key=None if self.key is None else bytes.fromhex(self.key),
            backup=self.backup,
            format=self.format,
            generated_by=self.generated_by,
            references=references_of(self.references),
            fields=self.fields(),
            behalf=None if self.on_behalf_of is None else self.on_behalf_of.to_behalf(),
        )


class BatchIn(Shape):
    """Up to 500 entries; each is judged by itself."""

    entries: list[Any] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        description="objects shaped like EntryIn; a malformed one is reported and does not stop the others",
    )


class AddedOut(BaseModel):
    """An entry that is durable on this node; `created` is false when its key was there before."""

    id: str
    created: bool


class BatchItemOut(BaseModel):
    """The result for one entry of a batch: `id` and `created`, or `error`."""

    index: int
    id: str | None = None
    created: bool | None = None
    error: str | None = None


class BatchOut(BaseModel):
    """One result per entry, in order, and their sums."""

    results: list[BatchItemOut]
    added: int
    known: int
    rejected: int


class RecordOut(BaseModel):
    """A signed record. `data` is its canonical wire form in base64: the proof that anyone can check."""

    id: str
    author: str
    seq: int
    kind: str
    prev: str | None
    subject: str
    hlc: int
    payload_size: int
    data: str | None = None
    validated_by: list[str] | None = Field(
        default=None, description="holders whose receipts say that they judged and hold it; own records only"
    )
    headers_at: list[str] | None = Field(
        default=None, description="holders whose receipts say so of its header alone"
    )


class VersionOut(BaseModel):
    """One author's slot of an entry's version vector."""

    author: str
    seq: int
    heads: list[str]


class EntryOut(BaseModel):
    """An entry as its operations fold; `records` is its provenance, when asked for."""

    id: str
    author: str
    text: str | None
    tags: list[str]
    domain: str | None
    confidence: float | None
    citations: list[str]
    format: str | None = None
    generated_by: str | None = None
    title: str | None = None
    type: str | None = None
    subdomains: list[str] = []
    reasoning: ReasoningShape | None = None
    statements: list[StatementShape] = []
    references: list[ReferenceShape] = []
    assessments: list[AssessmentOut] = []
    field_values: dict[str, list[FieldValueOut]] = Field(
        default={}, description="of the fields in conflict: all values, the one shown first"
    )
    deleted: bool
    retracted: bool
    conflict: bool
    delete_overruled: bool
    values: list[ValueOut]
    private: bool = False
    erased: list[ErasedOut] = []
    votes: VotesOut
    trust: TrustOut | None = None
    version: list[VersionOut]
    version_id: str
    excluded: list[ExcludedOut] = []
    left_out: dict[str, int] = Field(
        default={}, description="what of the entry is not listed here for its number, and how much of it"
    )
    records: list[RecordOut] | None = None


class ExcludedOut(BaseModel):
    """A record that does not count: nothing of its author does from seq `since` on, by a warrant."""

    record: str
    author: str
    since: int


class PrivateOut(BaseModel):
    """A page of the owner's private entries."""

    entries: list[EntryOut]


class ResolutionOut(BaseModel):
    """How a value ended a conflict: accept, reject or merge, of which record's value, and why."""

    decision: str
    chosen: str | None
    reason: str
    on_behalf_of: BehalfShape | None = None


class ValueOut(BaseModel):
    """One of an entry's values, and the record that says it."""

    record: str
    author: str
    text: str
    format: str | None = None
    generated_by: str | None = None
    on_behalf_of: BehalfShape | None = None
    resolution: ResolutionOut | None = None


class FieldValueOut(BaseModel):
    """One value of a field, and the record that says it."""

    record: str
    author: str
    value: Any


class AssessmentOut(BaseModel):
    """How sure an agent is that the entry is right, from 0 to 1."""

    agent: str
    confidence: float


class ErasedOut(BaseModel):
    """Something that its author has purged, and when by the author's clock."""

    record: str
    author: str
    at: str


class BallotOut(BaseModel):
    """An agent's vote: 1 for, -1 against."""

    agent: str
    value: int
    reason: str | None
    confidence: float | None
    on_behalf_of: VoterShape | None = None


class VotesOut(BaseModel):
    """The votes as they count, one an agent; the first 256 ballots by agent."""

    up: int
    down: int
    ballots: list[BallotOut]


class LogOut(BaseModel):
    """A page of the node's own chain; `next` is the seq to go on from, null at the end."""

    records: list[RecordOut]
    next: int | None


class ErrorDetail(BaseModel):
    """A code for programs and a line for people."""

    code: str
    message: str


class ErrorOut(BaseModel):
    """Every response with a status of 400 or above."""

    error: ErrorDetail


def record_out(record: Record, data: bool) -> RecordOut:
    """A record as JSON, with its whole wire form when `data`."""
    header = record.header
    return RecordOut(
        id=to_text(record.cid),
        author=peer_id(header.author),
        seq=header.seq,
        kind=header.kind,
        prev=_cid(header.prev),
        subject=to_text(record.subject),
        hlc=header.hlc,
        payload_size=header.payload_size,
        data=base64.b64encode(record.encode()).decode("ascii") if data else None,
    )


def entry_out(view: EntryView, provenance: bool) -> EntryOut:
    """An entry as JSON."""
    fields = {one.name: field_out(one.values[0][2]) for one in view.fields}
    shown = view.values[0] if view.values else None
    return EntryOut(
        id=to_text(view.id),
        author=peer_id(view.author),
        text=view.text,
        tags=list(view.tags),
        domain=view.domain,
        confidence=None if view.confidence is None else view.confidence / PPM,
        citations=list(view.citations),
        format=None if shown is None else shown.format,
        generated_by=None if shown is None else shown.generated_by,
        **fields,
        references=[reference_out(one) for one in view.references],
        assessments=[
            AssessmentOut(agent=peer_id(agent), confidence=confidence / PPM)
            for agent, confidence in view.assessments
        ],
        field_values={
            one.name: [
                FieldValueOut(record=to_text(cid), author=peer_id(author), value=field_out(value))
                for cid, author, value in one.values
            ]
            for one in view.fields
            if len(one.values) > 1
        },
        deleted=view.deleted,
        retracted=view.retracted,
        conflict=view.conflict,
        delete_overruled=view.delete_overruled,
        values=[value_out(one) for one in view.values],
        private=view.private,
        erased=[
            ErasedOut(record=to_text(one.record), author=peer_id(one.author), at=instant(one.at_us))
            for one in view.erased
        ],
        votes=VotesOut(
            up=view.up,
            down=view.down,
            ballots=[
                BallotOut(
                    agent=peer_id(one.agent),
                    value=one.value,
                    reason=one.reason,
                    confidence=None if one.confidence is None else one.confidence / PPM,
                    on_behalf_of=voter_out(one.behalf),
                )
                for one in view.votes
            ],
        ),
        trust=trust_out(view.trust),
        version_id=view.fingerprint,
        version=[
            VersionOut(author=peer_id(author), seq=seq, heads=[to_text(head) for head in heads])
            for author, seq, heads in view.version
        ],
        excluded=[
            ExcludedOut(record=to_text(cid), author=peer_id(author), since=since)
            for cid, author, since in view.excluded
        ],
        left_out=dict(view.left_out),
        records=[record_out(record, data=True) for record in view.records] if provenance else None,
    )


def value_out(value: Value) -> ValueOut:
    """One of an entry's values as JSON."""
    resolution = value.resolution
    return ValueOut(
        record=to_text(value.record),
        author=peer_id(value.author),
        text=value.text,
        format=value.format,
        generated_by=value.generated_by,
        on_behalf_of=behalf_out(value.behalf),
        resolution=None
        if resolution is None
        else ResolutionOut(
            decision=resolution.decision,
            chosen=_cid(resolution.chosen),
            reason=resolution.reason,
            on_behalf_of=behalf_out(resolution.behalf),
        ),
    )


def instant(us: int) -> str:
    """A record's clock as people write it, to the second, UTC; of what is beyond the year 9999 its end."""
    return datetime.fromtimestamp(min(us // 1_000_000, _LAST_SECOND), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cid(cid: Cid | None) -> str | None:
    return None if cid is None else to_text(cid)
