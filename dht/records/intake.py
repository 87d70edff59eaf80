"""Intake: nothing from a peer is kept or shown before it passed here.

It gathers what a record's judgement needs (the headers it names, from the same bundle or from what is held;
its author's opening), runs the rules of the `validation` floor, and says for each item whether to hold it,
under which bases, or why not. Named headers are found by their CID, so whoever brought them cannot have
altered them. It reads the store but never writes; it blocks (signatures, hashes, re-embedding), so callers
run it off the event loop.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

from chain.cid import Cid, raw_cid
from chain.content import Content
from chain.epoch import Epoch
from chain.errors import RecordError
from chain.identity import AgentId
from chain.kinds import CARRIES_CONTENT, PURGEABLE
from chain.manifest import Manifest
from chain.record import Record, verify_signature
from crdt.operations import content_of
from dht.ports import Clock
from dht.records.bundle import BadItem, Bundle, Item, Opening
from dht.records.erased import names, purges_brought
from dht.records.layouts import Layouts, Taking
from dht.records.placement import SHOWS, Role, bases_of, needs_payload, roles_kept
from dht.records.receipts import MALFORMED, NO_SUCH_SHARD, PAYLOAD_MISSING
from dht.records.record_store import Held
from dht.records.replies import StoreStatus
from validation.context import Context
from validation.named import named_by, named_in_header
from validation.rules import judge, judge_link, parks
from validation.verdict import VALID, Invalid, Pending

MAX_KNOWN_OPENINGS = 10_000
"""Authors whose opening is remembered to be good; beyond it the longest unused is checked again."""

MAX_KNOWN_RECORDS = 8_192
"""Records remembered to hold by themselves; beyond it the longest unused is checked again."""

Records = Callable[[Sequence[Cid]], list[Record | None]]
OpeningOf = Callable[[AgentId], Opening | None]
PurgesOf = Callable[[Sequence[Cid]], Mapping[Cid, Record]]
"""Those of these records that their authors purged, as far as it is known here, each with a purge of it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome for one item, in the order of the bundle.

    `rule` names what an invalid record broke, `needs` says what a pending one lacks.
    """

    status: StoreStatus
    rule: str = ""
    held: Held | None = None
    needs: Pending | None = None
    erased: bool = False
    """The record is to be held without payload, because its author has purged it."""
    purge: Record | None = None
    """The purge of it, if that came along for this sake alone."""


class Intake:
    """Judges bundles for one network. `embed` is None where this node cannot compute the space."""

    def __init__(
        self,
        manifest: Manifest,
        records_of: Records,
        opening_of: OpeningOf,
        layouts: Layouts,
        embed: Callable[[str], bytes | None] | None,
        clock: Clock,
        epochs: Callable[[], Mapping[Cid, Epoch]] = dict,
        on_offence: Callable[[Record, Context], None] = lambda record, context: None,
        purges_of: PurgesOf = lambda _cids: {},
    ) -> None:
        """`epochs` are those known after epoch 0. `on_offence` is told, in the thread that judges, of each
        record that broke a rule and what it was judged by.
        """
        self._purges_of = purges_of
        self._manifest = manifest
        self._network = manifest.network_id
        self._records_of = records_of
        self._opening_of = opening_of
        self._layouts = layouts
        self._embed = embed
        self._clock = clock
        self._epochs = epochs
        self._on_offence = on_offence
        self.epoch_missing = False
        self.tree_missing = False
        """Set when a record had to wait for an epoch that is not known here; whoever fetches it clears it."""
        self._admitted: OrderedDict[AgentId, None] = OrderedDict()
        self._known: OrderedDict[Cid, bytes] = OrderedDict()  # the signature that was checked
        self._lock = Lock()  # bundles are judged on several worker threads
        self.refused: Counter[str] = Counter()
        """Records refused since the start, by the rule that they broke."""

    def judge(self, bundle: Bundle) -> list[Judged]:
        """Judge every item; one bad item costs only itself."""
        now_us = self._clock.wall_us()
        unnamed = self._layouts.unnamed()
        named, verified = self._named(bundle)
        openings, sound = self._openings(bundle)

        def context_of(author: AgentId) -> Context:
            return self._context(named, verified, openings.get(author), author if author in sound else None)

        erased, unproven = self._erased(bundle, context_of, now_us)
        outcomes: list[Judged] = []
        content: list[tuple[int, Role, Record, Content]] = []
        for item in bundle.items:
            if isinstance(item, BadItem):
                outcomes.append(Judged(StoreStatus.INVALID, MALFORMED))
                continue
            purge = erased.get(item.record.cid)
            record = item.record if purge is None else item.record.without_payload()
            kind = record.header.kind
            roles = roles_kept(kind, item.roles)
            shards = item.shards if kind in SHOWS else ()
            taking = {self._layouts.taking(basis) for basis in shards}
            if Taking.REFUSES in taking:
                outcomes.append(Judged(StoreStatus.INVALID, NO_SUCH_SHARD))
                continue
            if Taking.WAITS in taking or (
                kind in CARRIES_CONTENT and roles & Role.SHARD and not shards and unnamed is None
            ):
                # Who sends it works by another epoch's atlas, or another tree; one of us will hear of it.
                self.epoch_missing = self.tree_missing = True
                outcomes.append(Judged(StoreStatus.PENDING))
                continue
            if record.payload is None and needs_payload(kind, roles) and purge is None:
                needs = unproven.get(record.cid)
                outcomes.append(
                    Judged(StoreStatus.INVALID, PAYLOAD_MISSING)
                    if needs is None
                    else Judged(StoreStatus.PENDING, needs=needs)
                )
                continue
            outcome = self.outcome(record, roles, shards, context_of(record.header.author), now_us)
            if outcome.held is not None and purge is not None:
                outcome = replace(outcome, erased=True, purge=bundle.headers.get(purge.cid))
            if (
                outcome.held is not None
                and record.payload is not None
                and record.header.kind in CARRIES_CONTENT
                and not shards
                and roles & Role.SHARD
            ):
                content.append((len(outcomes), roles, record, self.content(record)))
            outcomes.append(outcome)
        if unnamed is not None and content:
            keys = unnamed.keys([(record, value) for _, _, record, value in content])
            for (place, roles, record, _), key in zip(content, keys, strict=True):
                basis = unnamed.shard_basis(key)
                outcomes[place] = Judged(StoreStatus.HELD, held=Held(record, bases_of(record, roles, basis)))
                if self._layouts.taking(basis) is not Taking.TAKES:
                    self.tree_missing = True
                    outcomes[place] = Judged(StoreStatus.PENDING)
        broken = [one.rule for one in outcomes if one.rule]
        if broken:
            with self._lock:
                self.refused.update(broken)
        return outcomes

    def companions(self, bundle: Bundle, judged: Sequence[Judged]) -> list[Held]:
        """What has to be held beside the valid items, so that others can judge them too.

        Their authors' openings, the headers that they name and purges that erased them, kept without a basis;
        also those of items that are not kept themselves.
        """
        valid = [one.held.record for one in judged if one.held is not None]
        purges = {one.purge.cid: one.purge for one in judged if one.purge is not None and one.purge.payload}
        names = {cid for record in (*valid, *purges.values()) for cid in named_by(record)}
        names -= {record.cid for record in valid} | purges.keys()
        items = [item.record for item in bundle.items if isinstance(item, Item)]
        brought = {one.cid: one.without_payload() for one in (*items, *bundle.headers.values())}
        companions = [brought[cid] for cid in sorted(names) if cid in brought]
        companions += [purges[cid] for cid in sorted(purges)]
        for author in sorted({record.header.author for record in valid}):
            opening = bundle.openings.get(author)
            if opening is not None and self._opening_of(author) is None and self._sound(author, opening):
                companions.extend(opening)
        return [Held(record) for record in companions if verify_signature(record)]

    def content(self, record: Record) -> Content:
        """The content of a record that was judged before (our own, or held); `RecordError` without
        payload.
        """
        return content_of(record)

    def verify_content(self, record: Record, openings: Mapping[AgentId, Opening]) -> Content:
        """Check a content record on its own bytes and its author's opening, as an asker does for a hit.

        Signature, payload hash, network, epoch, kind, content limits, the vector against the text, and the
        author's first two records; what its predecessors allow was its holders' business. Raises
        `RecordError` naming the rule.
        """
        if record.header.kind not in CARRIES_CONTENT:
            raise RecordError("a hit is not a content record")
        self.verify(record, openings)
        return self.content(record)

    def verify(self, record: Record, openings: Mapping[AgentId, Opening]) -> None:
        """Check a record with its payload on its own bytes and its author's opening; as `verify_content`.

        What held once is remembered: popular hits, which every holder sends in every answer, cost a hash.
        """
        if record.payload is None:
            raise RecordError("a hit, or the proof of one, comes without its payload")
        if self._is_known(record):
            return
        if not self._opening_holds(record.header.author, openings):
            raise RecordError("the opening of a hit's author is missing or does not pay the membrane")
        verdict = judge(record, self._context({}, frozenset(), None, None), links=False)
        if isinstance(verdict, Invalid):
            raise RecordError(f"a hit breaks the rule {verdict.rule}: {verdict.reason}")
        if isinstance(verdict, Pending):
            raise RecordError("a hit names an epoch that this node does not know")
        self.remember([record])

    def remember(self, records: Iterable[Record]) -> None:
        """Note that these records, with their payloads, hold by themselves: they are own, held or checked."""
        with self._lock:
            for record in records:
                self._known[record.cid] = record.signature
                self._known.move_to_end(record.cid)
            while len(self._known) > MAX_KNOWN_RECORDS:
                self._known.popitem(last=False)

    def _is_known(self, record: Record) -> bool:
        """Whether these very bytes held before: the CID names header and payload; the signature is kept."""
        with self._lock:
            if self._known.get(record.cid) != record.signature:
                return False
            self._known.move_to_end(record.cid)
        return record.payload is not None and raw_cid(record.payload) == record.header.payload

    def outcome(
        self, record: Record, roles: Role, shards: Iterable[bytes], context: Context, now_us: int
    ) -> Judged:
        """What becomes of one record of a bundle; blocking. All that is ever held of others passes here."""
        verdict = judge(record, context)
        if isinstance(verdict, Invalid):
            self._on_offence(record, context)
            return Judged(StoreStatus.INVALID, verdict.rule)
        if isinstance(verdict, Pending):
            if context.rules_of(record.header.epoch) is None:
                self.epoch_missing = True
            return Judged(StoreStatus.PENDING, needs=verdict)
        if parks(record, now_us):
            return Judged(StoreStatus.PARKED)
        unfit = self._unfit_targets(record, context, now_us)
        if unfit:
            return Judged(StoreStatus.PENDING, needs=Pending(unfit))
        self._admit(record.header.author, record.header.seq)
        return Judged(StoreStatus.HELD, held=Held(record, bases_of(record, roles, None, shards)))

    def _unfit_targets(self, record: Record, context: Context, now_us: int) -> tuple[Cid, ...]:
        """What a record's payload names that is from the future, or breaks a rule by itself; ascending.

        Named headers are kept beside what names them, unjudged, and whoever builds on the entry builds on
        their clocks. What the header of a record names has no later clock than that; this may have any.
        """
        extra = set(named_by(record)) - set(named_in_header(record))
        if not extra:
            return ()
        alone = replace(context, named={})
        found = [target for cid in sorted(extra) if (target := context.record(cid)) is not None]
        return tuple(
            target.cid
            for target in found
            if parks(target, now_us) or isinstance(judge_link(target, alone), Invalid)
        )

    def _context(
        self,
        named: Mapping[Cid, Record],
        verified: frozenset[Cid],
        opening: Opening | None,
        admitted: AgentId | None,
    ) -> Context:
        return Context(
            manifest=self._manifest,
            network=self._network,
            epochs=self._epochs(),
            named=named,
            opening=opening,
            embed=self._embed,
            admitted=frozenset() if admitted is None else frozenset((admitted,)),
            verified=verified,
        )

    def _erased(
        self, bundle: Bundle, context_of: Callable[[AgentId], Context], now_us: int
    ) -> tuple[dict[Cid, Record], dict[Cid, Pending]]:
        """The items whose payload is erased, each with a valid purge; and what the purges of others need."""
        items = [item.record for item in bundle.items if isinstance(item, Item)]
        items = [record for record in items if record.header.kind in PURGEABLE]
        erased = dict(self._purges_of([record.cid for record in items])) if items else {}
        unproven: dict[Cid, Pending] = {}
        for purge in purges_brought(bundle):
            targets = [cid for cid in names(purge, items) if cid not in erased]
            if targets:
                verdict = judge(purge, context_of(purge.header.author))
                if verdict == VALID and not parks(purge, now_us):
                    erased.update((cid, purge) for cid in targets)
                elif not isinstance(verdict, Invalid):
                    # One from the future has its time still to come.
                    needs = verdict if isinstance(verdict, Pending) else Pending((purge.cid,))
                    unproven.update((cid, needs) for cid in targets)
        return erased, unproven

    def _openings(self, bundle: Bundle) -> tuple[dict[AgentId, Opening], set[AgentId]]:
        """The opening of each author in a bundle, held or brought along, and whose need not be judged again.

        That an author was admitted before is not enough: who holds a record has to serve it with an opening.
        """
        openings: dict[AgentId, Opening] = {}
        sound: set[AgentId] = set()
        for author in sorted({item.record.header.author for item in bundle.items if isinstance(item, Item)}):
            held = self._opening_of(author)
            opening = held or bundle.openings.get(author)
            if opening is None:
                continue
            openings[author] = opening
            if (held is not None and author in self._admitted) or self._sound(author, opening):
                sound.add(author)
        return openings, sound

    def _named(self, bundle: Bundle) -> tuple[dict[Cid, Record], frozenset[Cid]]:
        """What the items name, from the bundle and the store; and whose signatures are known to hold.

        A header of another author that comes unsigned is missing: its CID does not cover the signature, so it
        is the work of whoever passed it on, and says nothing about a record that names it.
        """
        records = [item.record for item in bundle.items if isinstance(item, Item)]
        named = {record.cid: record for record in records} | bundle.headers
        records += purges_brought(bundle)
        absent: set[Cid] = set()
        cited: set[Cid] = set()
        for record in records:
            for cid in named_by(record):
                found = named.get(cid)
                if found is None:
                    absent.add(cid)
                elif found.header.author != record.header.author:
                    cited.add(cid)
        unsigned = {cid for cid in cited if not verify_signature(named[cid])}
        for cid in unsigned:
            del named[cid]
        held = [record for record in self._records_of(sorted(absent | unsigned)) if record is not None]
        named.update((record.cid, record) for record in held)
        return named, frozenset(record.cid for record in held) | (cited - unsigned)

    def _opening_holds(self, author: AgentId, openings: Mapping[AgentId, Opening]) -> bool:
        if author in self._admitted:
            return True
        opening = openings.get(author) or self._opening_of(author)
        if opening is None or not self._sound(author, opening):
            return False
        self._admit(author, 2)
        return True

    def _sound(self, author: AgentId, opening: Opening) -> bool:
        """Whether these are the author's first two records and pay the membrane."""
        if (opening[0].header.author, opening[1].header.author) != (author, author):
            return False
        named = {opening[0].cid: opening[0]}
        context = Context(self._manifest, self._network, self._epochs(), named)
        for place, record in enumerate(opening):
            if record.header.seq != place or record.payload is None or judge(record, context) != VALID:
                return False
        return True

    def _admit(self, author: AgentId, seq: int) -> None:
        """Remember that an author's opening passed: judging a record of seq 2 or more includes it."""
        if seq < 2:
            return
        with self._lock:
            self._admitted[author] = None
            self._admitted.move_to_end(author)
            while len(self._admitted) > MAX_KNOWN_OPENINGS:
                self._admitted.popitem(last=False)
