"""A small network to judge: two agents with whole chains, every kind of record in them, and a forger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from chain.agent_life import (
    continuation_body,
    revocation_body,
    rotation_body,
    sign_consent,
    sign_revocation,
)
from chain.cid import Cid, blob_cid, raw_cid, record_cid
from chain.content import Content
from chain.epoch import Epoch, epoch_body
from chain.identity import Identity
from chain.kinds import (
    CLOSE,
    COMMIT,
    CONTINUE,
    EPOCH,
    FORK_WARRANT,
    GENESIS,
    INVALID_WARRANT,
    JOIN,
    LEAVE,
    MEMBRANE,
    PRIVATE,
    PROFILE,
    RESULT,
    REVEAL,
    REVOKE,
    ROTATE,
    RULE_VERSION,
    SEALED,
    START,
    TASK,
)
from chain.learning import Commit, Reveal, Start, commit_body, draft_on_task, reveal_body, start_body
from chain.learning_outcome import Outcome, Result, result_body
from chain.learning_task import Array, Task
from chain.manifest import Manifest, Space
from chain.membrane import find_nonce, work_bits
from chain.private import NONCE_SIZE, Private, seal
from chain.record import Header, Record, encode_payload, sign_record
from chain.reference import Relation, Source
from chain.source_chain import Draft, head_of, next_record
from chain.warrant import fork_body, invalid_body
from crdt import drafts
from crdt.entry import Entry, EntryState
from validation.context import Context

ALICE, BOB, STEWARD = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 9))
RECOVERY = Identity.from_seed(bytes([11]) * 32)
DIM = 4
SALT = bytes(16)
MANIFEST = Manifest(
    name="a bench",
    space=Space("lengths", DIM),
    founder=STEWARD.agent,
    stewards=(STEWARD.agent,),
    threshold=1,
    join_bits=4,
    replication=3,
    shard_target=512,
    atlas=None,
    rules=RULE_VERSION,
    founded=0,
)
NETWORK = MANIFEST.network_id
UNKNOWN = record_cid(b"a record that nobody has")


def embed(text: str) -> bytes | None:
    """An embedder for tests: none for texts without letters, else something about the letters."""
    letters = [ord(char) % 100 for char in text if char.isalpha()]
    return bytes([127, *(letters * 3)[:3]]) if letters else None


def content(text: str, *tags: str) -> Content:
    return Content(text, embed(text) or b"\x7f\0\0\0", tuple(sorted(tags)))


@dataclass
class Author:
    identity: Identity
    records: list[Record] = field(default_factory=list)

    def write(self, draft: Draft, now_us: int = 1_000) -> Record:
        head = head_of(self.records[-1]) if self.records else None
        record = next_record(self.identity, NETWORK, NETWORK, head, draft, now_us, SALT)
        self.records.append(record)
        return record

    def join(self) -> None:
        agent = self.identity.agent
        self.write(Draft(GENESIS, {"network": NETWORK, "recovery": RECOVERY.agent}))
        self.write(Draft(MEMBRANE, {"nonce": find_nonce(NETWORK, agent, MANIFEST.join_bits)}))
        self.write(Draft(PROFILE, {"name": "an agent", "software": "bench 1"}))

    @property
    def opening(self) -> tuple[Record, Record]:
        return self.records[0], self.records[1]


@dataclass(frozen=True)
class Bench:
    """`by_name` has one valid record of every kind, `alice` and `bob` the chains that they stand in."""

    alice: Author
    bob: Author
    by_name: dict[str, Record]

    def named(self) -> dict[Cid, Record]:
        return {record.cid: record for record in (*self.alice.records, *self.bob.records)}

    def context(self, record: Record, *others: Record, **changes: Any) -> Context:
        author = self.alice if record.header.author == ALICE.agent else self.bob
        named = self.named() | {other.cid: other for other in others}
        opening = None if record.header.seq < 2 else author.opening
        return replace(Context(MANIFEST, NETWORK, named=named, opening=opening, embed=embed), **changes)


def view(records: Iterable[Record]) -> Entry:
    records = list(records)
    entry = EntryState(records[0].subject).add_all(records).view()
    assert entry is not None
    return entry


def next_epoch(number: int = 1, previous: Cid = NETWORK, rules: int = RULE_VERSION) -> Epoch:
    return Epoch(NETWORK, previous, number, None, rules)


@cache
def bench() -> Bench:
    """Built once; tests never change it."""
    alice, bob = Author(ALICE), Author(BOB)
    for author in (alice, bob):
        author.join()
    a, b = ALICE.agent, BOB.agent
    create = alice.write(drafts.draft_create(content("roses climb", "rose")), 2_000)
    edit = bob.write(drafts.draft_edit(view([create]), b, content("roses ramble")), 3_000)
    said = [create, edit]
    tag = alice.write(drafts.draft_tag(view(said), a, "garden"))
    untag = bob.write(drafts.draft_untag(view([*said, tag]), b, "garden"))
    delete = bob.write(drafts.draft_delete(view([*said, tag, untag]), b))
    retract = alice.write(drafts.draft_retract(view([*said, tag, untag, delete]), a))
    vote = bob.write(drafts.draft_vote(view([*said, tag, untag, delete, retract]), b, -1, "wilted", 7))
    said = [*said, tag, untag, delete, retract, vote]
    source, relation = (
        Source("A book of roses", "https://example.org", "they climb"),
        Relation("extends", UNKNOWN),
    )
    describe = bob.write(drafts.draft_describe(view(said), b, {"title": "Roses", "type": "fact"}))
    link = alice.write(drafts.draft_link(view([*said, describe]), a, [source, relation]))
    unlink = bob.write(drafts.draft_unlink(view([*said, describe, link]), b, source))
    assess = alice.write(drafts.draft_assess(view([*said, describe, link, unlink]), a, 700_000))
    said = [*said, describe, link, unlink, assess]
    purge = bob.write(drafts.draft_purge(view(said), b, [edit.cid]))
    private = alice.write(
        Draft(PRIVATE, seal(ALICE, NETWORK, Private(None, content("mine", "rose")), bytes(NONCE_SIZE)))
    )
    sealed = alice.write(
        Draft(SEALED, seal(ALICE, NETWORK, Private(None, content("kept", "rose")), bytes(NONCE_SIZE)))
    )
    epoch = next_epoch()
    published = alice.write(Draft(EPOCH, epoch_body(epoch, [epoch.sign(STEWARD)])))
    learning = _learning(alice, bob)
    warrants = _warrants(alice, bob, create)
    life = _agent_life(alice, bob)
    close = bob.write(Draft(CLOSE, {}))
    kinds = ("genesis", "membrane", "profile")
    by_name = {**dict(zip(kinds, alice.records, strict=False)), "create": create, "edit": edit, "tag": tag}
    by_name |= {"untag": untag, "delete": delete, "retract": retract, "vote": vote, "purge": purge}
    by_name |= {"describe": describe, "link": link, "unlink": unlink, "assess": assess}
    by_name |= {"private": private, "sealed": sealed, "epoch": published}
    by_name |= {**learning, **warrants, **life, "close": close}
    return Bench(alice, bob, by_name)


def _warrants(alice: Author, bob: Author, create: Record) -> dict[str, Record]:
    """Bob proves that Alice forked her chain, and Alice that Bob signed a record with a wrong clock."""
    twin = forge(create, body=content("roses creep").to_body())
    fork = bob.write(Draft(FORK_WARRANT, fork_body(alice.opening, create, twin)))
    before, last = bob.records[-2:]
    late = forge(last, lamport=last.header.lamport + 1)
    invalid = alice.write(Draft(INVALID_WARRANT, invalid_body(bob.opening, late, "lamport", [before])))
    return {"fork-warrant": fork, "invalid-warrant": invalid}


def _agent_life(alice: Author, bob: Author) -> dict[str, Record]:
    """Alice names Bob's key her successor, Bob continues her, and publishes that her old key is revoked."""
    rotate = alice.write(Draft(ROTATE, rotation_body(BOB.agent, sign_consent(BOB, NETWORK, ALICE.agent))))
    continued = bob.write(Draft(CONTINUE, continuation_body(rotate)))
    statement = sign_revocation(RECOVERY, NETWORK, ALICE.agent, 4, alice.records[4].cid)
    revoke = bob.write(Draft(REVOKE, revocation_body(statement, alice.opening)))
    return {"rotate": rotate, "continue": continued, "revoke": revoke}


def terms() -> Task:
    """A task of three numbers."""
    return Task(
        name="a line",
        arrays=(Array("w", "<f4", (2,)), Array("b", "<f8", ())),
        parameters=blob_cid(b"initial"),
        rounds=3,
        min_members=2,
        max_members=4,
        commit_ms=1_000,
        reveal_ms=1_000,
        result_ms=1_000,
        max_examples=100,
        max_abs=10,
        config={"lr": "0.1", "steps": 3},
    )


def _learning(alice: Author, bob: Author) -> dict[str, Record]:
    """Alice publishes a task, she and Bob run a round of it, and Bob leaves."""
    task = alice.write(Draft(TASK, terms().to_body()))
    joins = [
        alice.write(draft_on_task(task, task, JOIN, {})),
        bob.write(draft_on_task(task, None, JOIN, {}), 4_000),
    ]
    roster = tuple(sorted((join.header.author, join.cid) for join in joins))
    start = Start(roster)
    started = alice.write(draft_on_task(task, joins[0], START, start_body(start)))
    begun = start.digest(task.cid)
    blob, salt = blob_cid(b"an update"), bytes(32)
    reveal = Reveal(1, begun, UNKNOWN, salt, blob, 9, 10, {"loss": -1}, ())
    committed = bob.write(
        draft_on_task(task, joins[1], COMMIT, commit_body(Commit(1, begun, reveal.hash(None))))
    )
    reveal = replace(reveal, commit=committed.cid, commits=(committed.cid,))
    revealed = bob.write(draft_on_task(task, committed, REVEAL, reveal_body(reveal)))
    members = tuple(agent for agent, _ in roster)
    outcome = Outcome(1, begun, members, (revealed.cid,), (), blob, roster)
    signatures = tuple(
        (agent, outcome.sign(task.cid, ALICE if agent == ALICE.agent else BOB)) for agent in members
    )
    result = alice.write(draft_on_task(task, started, RESULT, result_body(Result(outcome, signatures))))
    left = bob.write(draft_on_task(task, revealed, LEAVE, {}))
    names = ("task", "join", "other-join", "start", "commit", "reveal", "result", "leave")
    return dict(
        zip(names, (task, joins[1], joins[0], started, committed, revealed, result, left), strict=True)
    )


def forge(
    record: Record, *, body: dict[str, Any] | None = None, raw: bytes | None = None, **changes: Any
) -> Record:
    """The record with some header fields or its payload changed, and signed again by its author."""
    payload = raw if raw is not None else record.payload if body is None else encode_payload(SALT, body)
    assert payload is not None
    header: Header = replace(record.header, payload=raw_cid(payload), payload_size=len(payload))
    header = replace(header, **changes)
    identity = next(one for one in (ALICE, BOB, STEWARD) if one.agent == header.author)
    return sign_record(identity, header, payload)


def unsigned(record: Record) -> Record:
    return replace(record, signature=bytes(64))


def poor_nonce() -> int:
    """A nonce that does not pay for Alice."""
    return next(n for n in range(1000) if work_bits(NETWORK, ALICE.agent, n) < MANIFEST.join_bits)
