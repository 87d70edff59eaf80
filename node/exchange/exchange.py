"""The verbs of the exchange: what a request of another maker's system does to this node.

Each is a few calls of the node's own verbs, with two rules on top. A name that an API key has registered is
spoken under through that key alone, and carries the registered public key into the record; a name that nobody
registered is kept as a mere name. And nothing private is ever there: what the owner keeps for themselves
looks, from here, like what does not exist.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Protocol

import trio

from chain.behalf import KEY_SIZE, SIGNATURE_SIZE, Behalf, content_statement, vote_statement
from chain.cid import Cid, to_text
from chain.errors import IdentityError
from chain.identity import agent_from_text, verify
from chain.reference import MAX_REFERENCES, Relation
from dht.ports import RunBlocking
from node.api.knowledge import ppm
from node.api.service import NodeService
from node.browsing import Listing
from node.embedding.errors import EmbeddingError
from node.errors import Erased, Gone, NodeError, NotFound
from node.exchange.agents import Agents, ExternalAgent, KeyTaken, NameTaken, is_public_key
from node.exchange.disagreement import CONTRADICTS, Claim, disagreeing
from node.exchange.errors import FieldForbidden, FieldRefused
from node.exchange.keys import ApiKey, KeyRing
from node.exchange.packages import NOT_LOOKED_AT, Evaluation, Package, Settlement, read_bytes, read_id
from node.exchange.showing import ai_node_of, type_of
from node.models import Edit, EntryView, QueryOptions, Rejected, Relate, Resolve, Single, Together, Vote
from node.query.filters import Filters
from node.query.question import QueryError

log = logging.getLogger(f"roseforest.{__name__}")

CANDIDATES = 16
"""Nearest entries of a domain that a new one is held against, and entries that it says it contradicts."""
READS_AT_ONCE = 8
TRUST = "trust.signature"
VOTES = {"upvote": 1, "downvote": -1}
SETTLED_BY = {"accept": "supersedes", "reject": "superseded by", "merge": "merges"}
"""What an entry that was in conflict with another is to it, once that is resolved."""
MAX_RESULTS = 100
ASKED_FOR_EACH = 4
"""Hits asked of the network for one that is wanted, when some of what is wanted is seen only in the entry."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an entry must be to be listed; None and no tags: anything. `confidence` in ppm."""

    domain: str | None = None
    type_: str | None = None
    tags: tuple[str, ...] = ()
    ai_node: str | None = None
    confidence: int | None = None

    @property
    def filters(self) -> Filters:
        """What can be told from a content record."""
        return Filters(domains=() if self.domain is None else (self.domain,), confidence=self.confidence)

    def admits(self, view: EntryView) -> bool:
        """Whether an entry, as it is shown, is to be listed."""
        if not _is_shown(view):
            return False
        if self.domain is not None and view.domain != self.domain:
            return False
        if self.type_ is not None and type_of(view) != self.type_:
            return False
        if self.ai_node is not None and ai_node_of(view) != self.ai_node:
            return False
        if self.confidence is not None and (view.confidence is None or view.confidence < self.confidence):
            return False
        return set(self.tags) <= set(view.tags)


@dataclass(frozen=True, slots=True)
class Published:
    """An entry that is durable, its version, and what it is in conflict with.

    `created`: it was not there before. `looked`: whether the network could be asked for conflicts.
    """

    id: Cid
    version: str
    created: bool
    conflicts: tuple[Cid, ...] = ()
    looked: bool = True


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry whose conflict has ended, its version, and what about it was settled."""

    id: Cid
    version: str
    what: str


class Lists(Protocol):
    """What lists a node's entries; `node.browsing.Browsing` offers this."""

    async def entry_of(self, record: Cid) -> Cid | None:
        """See there."""
        ...

    async def latest(
        self, tags: Sequence[str], filters: Filters, wanted: Callable[[EntryView], bool], limit: int
    ) -> Listing:
        """See there."""
        ...


class Exchange:
    """The exchange of one node; `wall_us` gives the time that registrations are stamped with."""

    def __init__(
        self,
        node: NodeService,
        listing: Lists,
        keys: KeyRing,
        agents: Agents,
        wall_us: Callable[[], int],
        run_blocking: RunBlocking,
    ) -> None:
        self._node = node
        self._listing = listing
        self._keys = keys
        self._agents = agents
        self._wall_us = wall_us
        self._run_blocking = run_blocking
        self._registering = trio.Lock()

    async def register(
        self, key: ApiKey, node_id: str, public_key: str, signature: str | None
    ) -> tuple[ExternalAgent, bool]:
        """Keep who speaks under a name; whether that is new. Durable on return.

        Raises `FieldRefused` for a key that is none or that may not follow the former one, `FieldForbidden`
        for a name that is another API key's, and `InvalidInput` when there are too many.
        """
        _no_agent("node_id", node_id)
        data = _bytes("public_key", public_key, KEY_SIZE)
        if not is_public_key(data):
            raise FieldRefused("public_key", "these bytes are no Ed25519 public key")
        signed = None if signature is None else _bytes("signature", signature, SIGNATURE_SIZE)
        wanted = ExternalAgent(node_id, data, key.id, self._wall_us())
        async with self._registering:
            try:
                new = await self._run_blocking(self._agents.register, wanted, self._keys.ids(), signed)
            except NameTaken as error:
                raise FieldForbidden("node_id", str(error)) from error
            except KeyTaken as error:
                raise FieldRefused("public_key", str(error)) from error
        log.info("registered", extra={"key": key.name, "node_id": node_id, "new": new})
        return wanted, new

    async def publish(self, key: ApiKey, package: Package) -> Published:
        """Add an entry, or put the package in the place of the one that it names; durable on return."""
        if package.knowledge_id is not None:
            return await self.replace(key, read_id(package.knowledge_id), package)
        missing = package.missing()
        if missing is not None:
            raise FieldRefused(missing, "a new entry needs it: it cannot be null")
        _check_references(package)
        behalf = self._author(key, package, None)
        said = json.dumps(package.model_dump(exclude=NOT_LOOKED_AT), sort_keys=True)
        digest = sha256(f"{key.id} {said}".encode()).digest()
        (outcome,) = await self._node.add([package.to_entry(behalf, digest)])
        if isinstance(outcome, Rejected):
            raise FieldRefused("package", outcome.reason)
        _note("published", key, outcome.id, behalf)
        view = await self._get(outcome.id, "knowledge_id")
        return await self._with_conflicts(view, outcome.created)

    async def replace(self, key: ApiKey, entry: Cid, package: Package) -> Published:
        """Put a package in the place of an entry, at `version_id` if it names one; durable on return.

        It takes several records: all of them are written or none. Raises `NotFound`, `Gone`, `Erased`, and
        `VersionConflict` saying what changed.
        """
        _check_references(package)
        now = await self._get(entry, "knowledge_id", deleted=True)
        if package.version_id not in (None, now.fingerprint):
            # Before its signature is looked at, which is over what it was meant to replace.
            await self._node.change(entry, Edit(), package.version_id)
        behalf = self._author(key, package, now)
        steps = (package.to_edit(behalf, now), package.to_retag(now), package.to_relate(now))
        together = Together(tuple(one for one in steps if one is not None))
        changed = await self._node.change(entry, together, package.version_id)
        _note("replaced", key, entry, behalf)
        view = await self._get(entry, "knowledge_id")
        return replace(await self._with_conflicts(view, False), version=changed.version)

    async def evaluate(self, key: ApiKey, entry: Cid, said: Evaluation) -> EntryView:
        """Vote for a system, in place of its vote before; the entry as it is then. Durable on return."""
        await self._get(entry, "knowledge_id")
        behalf = self.speaker(key, "evaluating_node", said.evaluating_node)
        value, sure, reason = VOTES[said.vote], ppm(said.confidence), said.reason or None
        if said.signature is not None:
            statement = vote_statement(behalf.name, entry, value, sure, reason, said.signed_ms)
            behalf = replace(
                _signed(behalf, "signature", said.signature, statement), signed_ms=said.signed_ms
            )
        elif said.signed_ms is not None:
            raise FieldRefused("signed_ms", "it is the time of a signature, and there is none")
        await self._node.change(entry, Vote(value, reason, sure, behalf))
        _note("evaluated", key, entry, behalf)
        return await self._get(entry, "knowledge_id")

    async def resolve(self, key: ApiKey, id: Cid, said: Settlement) -> Settled:
        """End the conflict of an entry, or of one entry with others; durable on return.

        `id` is the entry's or that of one of its values. Between the values of an entry one is accepted or
        rejected (`value_id`, or the value that `id` is; else the one that is shown), or all are merged. An
        entry of one value that is in conflict with other entries supersedes them when it is accepted, is
        superseded by them when it is rejected, and gets the merged text and merges them; the reasoning is the
        reason of a vote then, and relations say what became of whom. Raises `FieldRefused` where there is no
        conflict.
        """
        if (said.merged_content is None) == (said.resolution_type == "merge"):
            raise FieldRefused("merged_content", "a merge needs it, and nothing else takes it")
        behalf = self.speaker(key, "resolving_node", said.resolving_node)
        entry = await self._listing.entry_of(id) or id
        view = await self._get(entry, "id")
        chosen = None if said.value_id is None else read_id(said.value_id)
        values = {value.record for value in view.values}
        if chosen is None and id in values:
            chosen = id
        if chosen is not None and chosen not in values:
            raise FieldRefused("value_id", "the entry shows no such value: get it again")
        _note("resolves", key, entry, behalf)
        if len(view.values) > 1 or view.delete_overruled:
            return await self._settle_values(view, said, behalf, chosen)
        return await self._settle_entries(view, said, behalf)

    async def _settle_values(
        self, view: EntryView, said: Settlement, behalf: Behalf, chosen: Cid | None
    ) -> Settled:
        merged = said.merged_content
        if merged is None:
            shown = chosen or view.values[0].record
            change = Resolve(said.resolution_type, said.reasoning, shown, behalf=behalf)
        else:
            change = Resolve(
                "merge",
                said.reasoning,
                None,
                merged.text,
                behalf=behalf,
                format=merged.format,
                generated_by=merged.generated_by,
            )
        changed = await self._node.change(view.id, change, view.fingerprint)
        return Settled(view.id, changed.version, f"{len(view.values)} values of the entry")

    async def _settle_entries(self, view: EntryView, said: Settlement, behalf: Behalf) -> Settled:
        others = await self.conflicts(view)
        if not others:
            raise FieldRefused("id", "the entry is in no conflict")
        relation = SETTLED_BY[said.resolution_type]
        vote = -1 if said.resolution_type == "reject" else 1
        steps: tuple[Single, ...] = (
            Relate(tuple(Relation(relation, other) for other in others)),
            Vote(vote, said.reasoning, None, _unsigned(view, behalf)),
        )
        if said.merged_content is not None:
            merged = Edit(
                text=said.merged_content.text,
                format=said.merged_content.format,
                generated_by=said.merged_content.generated_by or behalf.name,
                behalf=behalf,
            )
            steps = (merged, *steps)
        seen = view.fingerprint if said.resolution_type == "merge" else None
        changed = await self._node.change(view.id, Together(steps), seen)
        return Settled(view.id, changed.version, f"{relation} {len(others)} of its domain")

    async def get(self, entry: Cid) -> EntryView:
        """An entry that is shown; raises `NotFound`, `Gone` or `Erased`."""
        return await self._get(entry, "knowledge_id")

    async def latest(self, wanted: Wanted, limit: int) -> Listing:
        """Entries that this node itself has, the latest to come first."""
        return await self._listing.latest(wanted.tags, wanted.filters, wanted.admits, limit)

    async def search(self, text: str, wanted: Wanted, limit: int) -> list[EntryView]:
        """Entries anywhere in the network, nearest in meaning to a text first. Raises what a query raises."""
        among = limit if wanted.type_ is None and wanted.ai_node is None else limit * ASKED_FOR_EACH
        answer = await self._node.query(
            text,
            None,
            min(among, MAX_RESULTS),
            wanted.tags,
            None,
            options=QueryOptions(filters=wanted.filters),
        )
        views = await self._read([hit.id for hit in answer.hits if not hit.private])
        return [view for view in views if wanted.admits(view)][:limit]

    def speaker(self, key: ApiKey, field: str, name: str) -> Behalf:
        """On whose behalf a request speaks.

        Raises `FieldForbidden` when the name is another API key's, or the id of an agent of a network.
        """
        _no_agent(field, name)
        known = self._agents.get(name, self._keys.ids())
        if known is None:
            return Behalf(name)
        if known.api_key != key.id:
            raise FieldForbidden(field, f"{name!r:.220} is registered through another API key")
        return Behalf(name, known.public_key)

    def _author(self, key: ApiKey, package: Package, now: EntryView | None) -> Behalf:
        """Who says a package's text, with the signature over it where one is given."""
        name, text = package.content.generated_by, package.content.text
        behalf = self.speaker(key, "content.generated_by", name)
        given = None if package.trust is None else package.trust.signature
        if given is None:
            return behalf
        shown = None if now is None or not now.values else now.values[0]
        before = None if shown is None or shown.behalf is None else shown.behalf.signature
        if shown is not None and shown.text != text and before == _bytes(TRUST, given, SIGNATURE_SIZE):
            return behalf  # the package as it came, with another text
        return _signed(behalf, TRUST, given, content_statement(name, text))

    async def _get(self, entry: Cid, field: str, *, deleted: bool = False) -> EntryView:
        view = await self._node.get(entry)
        if view is None or view.private:
            raise NotFound(f"no {field} {to_text(entry)} is known here or to its holders")
        if view.retracted or (view.deleted and not deleted):
            raise Gone(f"the entry {to_text(entry)} is {'retracted' if view.retracted else 'deleted'}")
        if view.is_erased and not deleted:
            raise Erased(f"what the entry {to_text(entry)} said is erased by its author")
        return view

    async def _with_conflicts(self, view: EntryView, created: bool) -> Published:
        try:
            found = tuple(await self.conflicts(view))
        except (NodeError, EmbeddingError, QueryError):
            return Published(view.id, view.fingerprint, created, looked=False)
        return Published(view.id, view.fingerprint, created, found)

    async def conflicts(self, view: EntryView) -> list[Cid]:
        """The entries that this one is in conflict with, of the nearest in the network and those it names."""
        if view.text is None:
            return []
        options = QueryOptions(filters=Wanted(domain=view.domain).filters, mode="vector")
        answer = await self._node.query(view.text, None, CANDIDATES, (), None, options=options)
        near = {hit.id: hit.score for hit in answer.hits if not hit.private and hit.id != view.id}
        named = [
            one.target
            for one in view.references
            if isinstance(one, Relation) and one.predicate == CONTRADICTS and one.target not in near
        ]
        others = await self._read([*near, *named[:CANDIDATES]])
        claims = [(_claim(other), near.get(other.id, 0)) for other in others if _is_shown(other)]
        return disagreeing(_claim(view), claims)

    async def _read(self, entries: Iterable[Cid]) -> list[EntryView]:
        """These entries in order, those that can be read and are not private, some at a time."""
        wanted = list(entries)
        found: dict[Cid, EntryView] = {}
        room = trio.CapacityLimiter(READS_AT_ONCE)

        async def read(entry: Cid) -> None:
            async with room:
                try:
                    view = await self._node.get(entry)
                except NodeError:
                    return  # blocked here, or the node is about to stop
                if view is not None and not view.private:
                    found[entry] = view

        async with trio.open_nursery() as nursery:
            for entry in wanted:
                nursery.start_soon(partial(read, entry))
        return [found[entry] for entry in wanted if entry in found]


def _unsigned(view: EntryView, behalf: Behalf) -> Behalf:
    """For whom a vote is that nobody signs: for a key that has signed one on this entry only by its name."""
    signed = {one.behalf.key for one in view.votes if one.behalf is not None and one.behalf.signed_ms}
    return Behalf(behalf.name) if behalf.key in signed else behalf


def _is_shown(view: EntryView) -> bool:
    return view.text is not None and not (view.deleted or view.retracted or view.private)


def _claim(view: EntryView) -> Claim:
    return Claim(view.id, view.text or "", view.domain, view.references)


def _note(verb: str, key: ApiKey, entry: Cid, behalf: Behalf) -> None:
    """Records name no API key: who gave one to the wrong people finds in the log what they did."""
    log.info(verb, extra={"key": key.name, "entry": to_text(entry), "behalf": behalf.name})


def _check_references(package: Package) -> None:
    """Before anything is asked of the network or written."""
    field = package.too_many()
    if field is not None:
        raise FieldRefused(field, f"with the sources, over {MAX_REFERENCES} references")


def _no_agent(field: str, name: str) -> None:
    """Nobody is spoken for under the id of an agent, who has a node to say what it has to say."""
    try:
        agent_from_text(name)
    except IdentityError:
        return
    raise FieldForbidden(field, "that is the id of an agent: give the name of the system that writes this")


def _signed(behalf: Behalf, field: str, given: str, statement: bytes) -> Behalf:
    """`behalf` with its signature over a statement; raises `FieldRefused` when it is none."""
    signature = _bytes(field, given, SIGNATURE_SIZE)
    if behalf.key is None:
        raise FieldRefused(field, f"{behalf.name!r:.220} has registered no public key to hold it against")
    if not verify(behalf.key, statement, signature):
        raise FieldRefused(field, f"it is not the registered key's over these words: {statement!r:.80}…")
    return replace(behalf, signature=signature)


def _bytes(field: str, text: str, size: int) -> bytes:
    try:
        return read_bytes(text, size)
    except ValueError as error:
        raise FieldRefused(field, str(error)) from error
