"""Judging an archive of records on its own: no daemon, no home folder, no network.

`ArchiveJudge` takes the parts of an archive (`chain.archive_parts`) in order and says what is wrong with
each. Every record is judged by the same rules as one from a peer, with what the archive brings beside it: the
manifest, the epochs and warrants that came before, the first two records of its author, and the headers that
it names. It keeps the openings' authors, the ledger and one group, so its memory does not grow with the
archive. What an archive cannot show is not asked: whether a clock is ahead of today, and whether all is there
that was ever said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chain.archive_parts import MAX_KNOWN_AUTHORS, Begun, Group, GroupEnd, Part, Stored
from chain.cid import Cid, to_text
from chain.identity import AgentId, peer_id
from chain.kinds import CREATE, ENTRY_OPERATIONS, EPOCH, PURGEABLE, REVOKE, ROTATE, WARRANTS
from chain.record import Record, verify_signature
from crdt.operations import Purge
from validation.context import Context
from validation.ledger import Ledger
from validation.named import operation_of
from validation.rules import judge
from validation.verdict import VALID, Invalid, Pending, Verdict

NOTICES = WARRANTS | {EPOCH, REVOKE, ROTATE}
PLACE = "archive-place"
"""The rule broken by a record that stands where it does not belong."""
ERASED = "erased-by-author"
"""The rule broken by a record that lacks a payload which its author has not purged."""
COMPANION = "signature"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a record of an archive is not valid, or (`undecided`) why that cannot be said from the archive.

    `at` is its place in the archive, in bytes; of a companion that of its group.
    """

    record: Cid
    kind: str
    author: AgentId
    at: int
    rule: str
    reason: str
    undecided: bool = False

    def __str__(self) -> str:
        what = "cannot be judged" if self.undecided else f"breaks the rule {self.rule}"
        return (
            f"at byte {self.at}: {self.kind} {to_text(self.record)} by {peer_id(self.author)} {what}: "
            f"{self.reason}"
        )


@dataclass(slots=True)
class Tally:
    """What an archive holds, counted while it is read."""

    entries: int = 0
    records: int = 0
    companions: int = 0
    authors: int = 0
    erased: int = 0
    epochs: int = 0
    warrants: int = 0
    uncounted: int = 0
    """Valid records that do not count, for a warrant, a revocation or an epoch in the archive."""
    invalid: int = 0
    undecided: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


class ArchiveJudge:
    """Judges one archive. `embed` gives a text's codes, see `Context`; None: vectors are not compared."""

    def __init__(self, begun: Begun, embed: Callable[[str], bytes | None] | None = None) -> None:
        self.tally = Tally()
        self._manifest = begun.manifest
        self._network = begun.network
        self._embed = embed
        self._ledger = Ledger(begun.manifest)
        self._authors: OrderedDict[AgentId, None] = OrderedDict()
        self._group: Group | None = None
        self._named: dict[Cid, Record] = {}
        self._verified: set[Cid] = set()
        self._bare: dict[Cid, Stored] = {}
        self._purged: set[tuple[AgentId, Cid]] = set()

    def take(self, part: Part) -> list[Fault]:
        """What is wrong with the next part; cost as `validation.rules.judge` for each record in it."""
        if isinstance(part, Group):
            return self._begin(part)
        if isinstance(part, Stored):
            return self._record(part)
        return self._end() if isinstance(part, GroupEnd) else []

    def _begin(self, group: Group) -> list[Fault]:
        self._group = group
        self._named = {record.cid: record for record in group.companions}
        self._bare, self._purged = {}, set()
        faults = [fault for pair in group.openings for fault in self._opening(pair, group.at)]
        good = [one for one in group.companions if verify_signature(one)]
        self._verified = {one.cid for one in good}
        self.tally.companions += len(group.companions)
        for one in group.companions:
            if one.cid not in self._verified:
                faults += self._fault(one, group.at, Invalid(COMPANION, "the signature is not the author's"))
            elif one.header.network != self._network:
                faults += self._fault(one, group.at, Invalid("network", "record belongs to another network"))
        return faults

    def _opening(self, pair: tuple[Record, Record], at: int) -> list[Fault]:
        """What is wrong with an author's first two records; if nothing is, the author is admitted."""
        genesis, _ = pair
        author = genesis.header.author
        faults: list[Fault] = []
        for seq, record in enumerate(pair):
            if (record.header.author, record.header.seq) != (author, seq) or record.payload is None:
                wrong: Verdict = Invalid(PLACE, "an author is introduced by its first two records, whole")
            else:
                wrong = judge(record, self._context({genesis.cid: genesis}))
            faults += self._fault(record, at, wrong)
        if not faults:
            self.tally.authors += author not in self._authors
            admit(self._authors, author)
        return faults

    def _record(self, stored: Stored) -> list[Fault]:
        record = stored.record
        tally = self.tally
        tally.records += 1
        tally.kinds[record.header.kind] = tally.kinds.get(record.header.kind, 0) + 1
        wrong = self._misplaced(record)
        verdict = judge(record, self._context(self._named)) if wrong is None else Invalid(PLACE, wrong)
        faults = self._fault(record, stored.at, verdict)
        if record.payload is None:
            tally.erased += 1
            self._bare[record.cid] = stored
        if verdict == VALID:
            self._verified.add(record.cid)
            tally.entries += record.header.kind == CREATE
            self._note_purge(record)
            tally.uncounted += not self._ledger.standing.counts(record)
            if record.header.kind in NOTICES and self._ledger.tell(record).kept:
                tally.epochs += record.header.kind == EPOCH
                tally.warrants += record.header.kind in WARRANTS
        self._named[record.cid] = record.without_payload()
        return faults

    def _misplaced(self, record: Record) -> str | None:
        entry = None if self._group is None else self._group.entry
        kind = record.header.kind
        if entry is None:
            return None if kind in NOTICES else "it is no record about the network"
        if kind == CREATE:
            return None if record.cid == entry else "it created another entry than the one it stands with"
        if kind not in ENTRY_OPERATIONS or record.header.subject != entry:
            return f"it is not about the entry {to_text(entry)}, with which it stands"
        return None

    def _end(self) -> list[Fault]:
        """Payloads that are not here must have been purged by their authors."""
        faults: list[Fault] = []
        for cid, stored in self._bare.items():
            header = stored.record.header
            if header.kind not in PURGEABLE or (header.author, cid) not in self._purged:
                why = "its payload is not here, and its author has not purged it"
                faults += self._fault(stored.record, stored.at, Invalid(ERASED, why))
        self._group = None
        self._named, self._bare = {}, {}
        return faults

    def _note_purge(self, record: Record) -> None:
        said = operation_of(record)
        if isinstance(said, Purge):
            self._purged.update((record.header.author, cid) for cid in said.records)

    def _context(self, named: dict[Cid, Record]) -> Context:
        return Context(
            self._manifest,
            self._network,
            self._ledger.epochs,
            named,
            None,
            self._embed,
            self._authors.keys(),
            self._verified,
        )

    def _fault(self, record: Record, at: int, verdict: Verdict) -> list[Fault]:
        header = record.header
        if isinstance(verdict, Invalid):
            self.tally.invalid += 1
            return [Fault(record.cid, header.kind, header.author, at, verdict.rule, verdict.reason)]
        if isinstance(verdict, Pending):
            self.tally.undecided += 1
            why = _lacks(verdict)
            return [Fault(record.cid, header.kind, header.author, at, "", why, undecided=True)]
        return []


def admit(known: OrderedDict[AgentId, None], author: AgentId) -> None:
    """Note that an author was introduced; who writes an archive and who reads it forget the same ones."""
    known[author] = None
    while len(known) > MAX_KNOWN_AUTHORS:
        known.popitem(last=False)


def _lacks(verdict: Pending) -> str:
    if verdict.opening_of is not None:
        return "its author's first two records are not in the archive, or do not hold"
    what = "the epoch" if verdict.epochs else "the record"
    names: Iterable[Cid] = verdict.epochs or verdict.missing
    return f"it names {what} {to_text(min(names))}, which is not in the archive"
