"""The nouns of the node's interface: what goes in and comes out of `Node`, whoever asks.

The HTTP API turns these into JSON and the simulator uses them as they are. Everything here is frozen data
with ids in binary form; text forms are the edges' business. Scores and confidences are integers in ppm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from chain.behalf import Behalf
from chain.cid import Cid
from chain.content import Resolution
from chain.identity import AgentId
from chain.metadata import READERS, FieldValue
from chain.receipt import Receipt
from chain.record import Record
from chain.reference import Reference
from chain.splices import Splice
from crdt.trust import Trust
from node.query.filters import ANY, Filters
from node.query.scoring import Words
from sharding.tree import Prefix


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to author. `vector` is for networks whose space takes the caller's vectors.

    `key` makes the call idempotent: an entry with the same key was added at most once by this node.
    """

    text: str
    tags: tuple[str, ...] = ()
    domain: str | None = None
    confidence: int | None = None
    citations: tuple[str, ...] = ()
    vector: Sequence[float] | None = None
    key: bytes | None = None
    backup: bool = False
    """Of a private entry: let others keep the sealed box."""
    format: str | None = None
    generated_by: str | None = None
    references: tuple[Reference, ...] = ()
    fields: tuple[tuple[str, FieldValue], ...] = ()
    """Title, type and so on (`chain.metadata`), ascending by name."""
    behalf: Behalf | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """An entry that is durable on this node; `created` is False when its key was there before."""

    id: Cid
    created: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry of a batch that was not added: its place in the batch, from 0, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Edit:
    """A new value for an entry. What is None stays as it is, but for the fields named by `clear`.

    `clear` may name domain, confidence, citations, format, generated_by and the fields of `chain.metadata`.
    `tags` are added to the entry's. Who changes nothing but `fields` leaves the text, and a conflict about
    it, alone.
    """

    text: str | None = None
    vector: Sequence[float] | None = None
    tags: tuple[str, ...] = ()
    domain: str | None = None
    confidence: int | None = None
    citations: tuple[str, ...] | None = None
    clear: frozenset[str] = frozenset()
    format: str | None = None
    generated_by: str | None = None
    fields: tuple[tuple[str, FieldValue], ...] = ()
    behalf: Behalf | None = None

    @property
    def cleared_fields(self) -> frozenset[str]:
        """Those of `clear` that are fields of the entry, not of its text."""
        return self.clear & READERS.keys()

    @property
    def only_fields(self) -> bool:
        """Whether nothing is said about the text."""
        said = (self.text, self.vector, self.domain, self.confidence, self.citations, self.format)
        more = (self.generated_by, self.behalf, self.tags or None, (self.clear - READERS.keys()) or None)
        return all(one is None for one in (*said, *more))


@dataclass(frozen=True, slots=True)
class Retag:
    """Tags to add to an entry, and tags to remove."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """This agent's vote from now on: 1 for, -1 against, 0 none; `confidence` in ppm."""

    value: int
    reason: str | None = None
    confidence: int | None = None
    behalf: Behalf | None = None
    """For whom the vote is passed on; None: for itself."""


@dataclass(frozen=True, slots=True)
class Relate:
    """References to add to an entry, sources and relations, and references to remove."""

    add: tuple[Reference, ...] = ()
    remove: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Assess:
    """How sure this agent is that the entry is right, from now on, in ppm."""

    confidence: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """End the conflict of an entry's texts: accept or reject a record's value, or merge them to `text`."""

    decision: str
    reason: str
    chosen: Cid | None = None
    text: str | None = None
    vector: Sequence[float] | None = None
    behalf: Behalf | None = None
    """Who decides and says the merged text, if not this agent itself; it has written it, too."""
    format: str | None = None
    generated_by: str | None = None
    """Of the merged text, if not as they were."""


@dataclass(frozen=True, slots=True)
class Write:
    """Splices of the text at a version: the records of the values that it was put together of."""

    version: tuple[Cid, ...]
    splices: tuple[Splice, ...]
    vector: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an entry as it is seen; an edit brings it back."""


@dataclass(frozen=True, slots=True)
class Retract:
    """Take an own entry back for good."""


@dataclass(frozen=True, slots=True)
class Purge:
    """Erase what this agent said in an entry: these own records, None: all of them."""

    records: tuple[Cid, ...] | None = None


Single: TypeAlias = Edit | Retag | Vote | Relate | Assess | Resolve | Delete | Retract | Purge


@dataclass(frozen=True, slots=True)
class Together:
    """Several changes of an entry in this order, each on top of those before it: all of them or none.

    Only the first may say a text; raises `ValueError` for another that does.
    """

    changes: tuple[Single, ...]

    def __post_init__(self) -> None:
        if any(isinstance(change, Edit | Resolve) for change in self.changes[1:]):
            raise ValueError("of several changes at once only the first may say a text")


Change: TypeAlias = Single | Write | Together


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change wrote, durable on this node; no records when there was nothing to do."""

    id: Cid
    records: tuple[Cid, ...]
    version: str
    """The entry's version now."""


@dataclass(frozen=True, slots=True)
class Value:
    """One content value of an entry, by the record that says it."""

    record: Cid
    author: AgentId
    text: str
    format: str | None = None
    generated_by: str | None = None
    behalf: Behalf | None = None
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class WrittenText:
    """A text, the records of the values that it was put together of (ascending), and who wrote those."""

    text: str | None
    version: tuple[Cid, ...]
    authors: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class SharedText:
    """The text of an entry, and texts that could not be put together with it and why; `more` are not
    listed."""

    shown: WrittenText
    apart: tuple[WrittenText, ...]
    more: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class FieldState:
    """A field of an entry: its maximal values with their records and authors, the winner first."""

    name: str
    values: tuple[tuple[Cid, AgentId, FieldValue], ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """An agent's vote on an entry; `behalf`: for whom it passes it on."""

    agent: AgentId
    value: int
    reason: str | None
    confidence: int | None
    behalf: Behalf | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """A record that its author purged, and when by the purge's clock, in µs."""

    record: Cid
    author: AgentId
    at_us: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query, verified by the asker: signature, payload hash, score, author's opening.

    `record` is the content record itself, the proof. `score` orders the hits: cosine similarity in ppm, or
    what the question's mode makes of `cosine` and `lexical` (`node.query.scoring`).
    """

    id: Cid
    score: int
    author: AgentId
    text: str
    tags: tuple[str, ...]
    record: Record
    holder: AgentId
    verified: bool = True
    private: bool = False
    """It is the owner's own, and nobody else finds it."""
    cosine: int = 0
    """Cosine similarity in ppm."""
    lexical: int | None = None
    """The score by words, 0 or more; None where no words were asked for."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What an answer lacks to the recall that was wanted, both in ppm, and the best offer.

    `deadline_ms` is the deadline that would have done, where the deadline is why; `effort` the name of the
    greatest effort that was met.
    """

    wanted_ppm: int
    reached_ppm: int
    shards_missed: int
    deadline_ms: int | None
    effort: str | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost and how complete it is.

    `expected_recall` is the part of the true best that it should hold, None when nobody was asked.
    """

    shards_contacted: int
    shards_total: int
    nodes_contacted: int
    ms: float
    shards_missed: int
    deadline_hit: bool
    hits_refused: int = 0
    hits_outdated: int = 0
    """Hits dropped because another one, or what their entry's holders say, shows that they have ended."""
    heads_checked: int = 0
    """Entries whose state was asked of their own holders, for `fresh`."""
    heads_changed: int = 0
    """Those among them that had operations, and were read whole."""
    suspects_asked: int = 0
    """Requests to holders of whom an answer was lost, in this question or just before, as nobody else was
    left."""
    expected_recall: float | None = None
    shortfall: Shortfall | None = None
    """What it lacks to the recall that was wanted, and the best offer; None when nothing."""
    texts_checked: int = 0
    """Hits whose text was embedded again for this answer, where vectors are not validated."""
    texts_unlike: int = 0
    """Hits left out because their vector is not their text's."""
    cached_s: float | None = None
    """The answer was kept from that many seconds ago; what it cost then stands here, but for `ms`."""
    steps: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Milliseconds by step, see `node.query.steps`."""


@dataclass(frozen=True, slots=True)
class RoutedShard:
    """One shard of the route: what part of the hits was expected there, and what became of it.

    `why` is one of `node.query.trail.REASONS`; `answered_by` the holder that told all of it, if one did.
    """

    shard: Prefix
    expected_ppm: int
    asked: bool
    why: str
    answered_by: AgentId | None


@dataclass(frozen=True, slots=True)
class HolderAsked:
    """One request of the route: `shards` asked for, how many of them were told completely, hits that
    verified, milliseconds from the question to the request, and how long it took (None: no answer came).

    `again`: it was asked because another was slow, failed, or did not have everything. `slow`: it passed its
    own hedge delay.
    `outcome` is `answered`, `failed` or `not waited for`; `problem` says why it failed.
    """

    node: AgentId
    shards: int
    complete: int
    hits: int
    at_ms: float
    ms: float | None
    again: bool
    here: bool
    slow: bool
    outcome: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Route:
    """How an answer came to be: the recall wanted, the shards, most expected first, the requests in order.

    This node is among those asked when it holds shards itself (`here`); that is no request, and takes 0 ms.
    """

    wanted_ppm: int
    shards: tuple[RoutedShard, ...]
    asked: tuple[HolderAsked, ...]


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """What a question may say beside what it is about.

    `filters`: what hits have to be. `effort` names a recall (`node.query.effort.EFFORTS`), `recall_ppm` gives
    one; neither: the default. `explain`: the answer brings its route. `cache`: a kept answer will do. `mode`:
    one of `node.query.scoring.MODES`; None: the default for what is asked.
    """

    filters: Filters = ANY
    effort: str | None = None
    recall_ppm: int | None = None
    explain: bool = False
    cache: bool = True
    mode: str | None = None


PLAIN: Final = QueryOptions()


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits in order of falling score, their cost, and the route taken."""

    hits: tuple[Hit, ...]
    cost: Cost
    route: Route | None = field(default=None, compare=False)
    words: Words | None = field(default=None, compare=False)
    """The question's words as they were weighed."""


MAX_VALUES = 16
"""Conflicting values that an entry's view lists: anybody can make one, of 64 KiB."""
MAX_BALLOTS = 256
MAX_REFERENCES: Final = 256


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry as its operations fold: the shown winner, its conflicts, and where it came from."""

    id: Cid
    author: AgentId
    text: str | None
    tags: tuple[str, ...]
    domain: str | None
    confidence: int | None
    citations: tuple[str, ...]
    deleted: bool
    retracted: bool
    conflict: bool
    version: tuple[tuple[AgentId, int, tuple[Cid, ...]], ...]
    fingerprint: str = ""
    """The version in short: what `if_version` takes."""
    values: tuple[Value, ...] = ()
    """The values shown, the winner first; more than one are in conflict. At most `MAX_VALUES` of them."""
    delete_overruled: bool = False
    """A delete was not heeded, because an edit that it had not seen wins."""
    up: int = 0
    down: int = 0
    """How many agents voted for it, and against it."""
    votes: tuple[Ballot, ...] = ()
    """At most `MAX_BALLOTS` of them, agents ascending."""
    excluded: tuple[tuple[Cid, AgentId, int], ...] = ()
    """Records that do not count, by whom, and from which seq of theirs on nothing counts; `MAX_VALUES`."""
    private: bool = False
    """The owner's alone."""
    erased: tuple[Erased, ...] = ()
    """What was said here and is purged, the latest first; at most `MAX_VALUES` of it."""
    fields: tuple[FieldState, ...] = ()
    """Ascending by name; a field of more than one value is in conflict. At most `MAX_VALUES` values each."""
    references: tuple[Reference, ...] = ()
    """At most `MAX_REFERENCES` of them."""
    assessments: tuple[tuple[AgentId, int], ...] = ()
    """How sure agents are of it, in ppm, agents ascending; at most `MAX_BALLOTS` of them."""
    trust: Trust | None = None
    """What the votes and assessments amount to for this node; None for a private entry."""
    records: tuple[Record, ...] = ()
    """The operations, in the order in which they fold; the provenance."""
    left_out: tuple[tuple[str, int], ...] = ()
    """Of which of the above more is there than is listed, and how much more, ascending by name."""

    @property
    def is_erased(self) -> bool:
        """Whether nothing is left to show, because authors purged what they had said."""
        return self.text is None and bool(self.erased)


@dataclass(frozen=True, slots=True)
class Validated:
    """An own record's receipts, each of which stands alone, and the distinct holders who signed them.

    `full`: they judged and hold it with its payload; `header`: only its header. Both ascending, disjoint.
    """

    id: Cid
    receipts: tuple[Receipt, ...]
    full: tuple[AgentId, ...]
    header: tuple[AgentId, ...]


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer of the routing table."""

    agent: AgentId
    addresses: tuple[str, ...]
    connected: bool
    responsive: bool
    capacity: int
    full: bool
    latency_ms: float | None
    standing: str = "good"
    """`good`, `slowed` or `banned`, for what it sent."""


@dataclass(frozen=True, slots=True)
class Status:
    """The node at a glance."""

    agent: AgentId
    network: Cid
    network_name: str
    space: str
    addresses: tuple[str, ...]
    peers: int
    records: int
    held: int
    pending: int
    shards_held: int
    under_replicated: int
    """Bases held here (subjects, authors, shards) that some of their R nearest lack, as last seen."""
    repairing: int
    """Those among them of which copies are being sent now."""
    replication: int
    """R: holders of every basis."""
    unconfirmed: int
    """Own records for which fewer than min(R, storing nodes) holders have signed in full."""
    reachable: bool
    read_only: str | None
    """Why the node accepts no writes, or None."""
    uptime_s: float
    chain: str = ""
    """How the own chain stands with the holders of its activity, in one line."""
    chains: dict[str, int] = field(default_factory=dict)
    """Chains of authors whose activity is held here: `whole`, with `gaps`, `broken`."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Records of others that cannot be judged yet (`pending`) or come from the future (`parked`)."""
    refused: dict[str, int] = field(default_factory=dict)
    """Records of others not taken since the start: by the rule broken, or why they did not wait on."""
    counters: dict[str, int] = field(default_factory=dict)
    """Monotonic counts for `/metrics`, by name."""
    store_bytes: int = 0
    """Bytes of disk that what is held takes up."""
    store_max_bytes: int | None = None
    health: dict[str, int] = field(default_factory=dict)
    """How busy the node is, as it tells its peers (`dht.overlay.health`): name and number."""
    full: bool = False
    """Whether the node holds nothing more for others, for want of room."""
