"""A peer of docs/protocol.md on one connection: it joins, stores, fetches, compares and searches.

It believes nothing but hashes and signatures, and with a capacity it holds what it is brought. It knows
open networks, in their first epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nacl.signing import SigningKey

from tests.protocol.second_atlas import shard_key
from tests.protocol.second_format import (
    AUTHOR,
    OPENING,
    SHARD,
    SUBJECT,
    WANTS_RECEIPT,
    Record,
    Refused,
    address,
    agent_of,
    bases_of,
    blob_cid,
    canonical,
    check_receipts,
    digest_of,
    fields_of,
    mined,
    opening,
    pays,
    peer_id,
    raw_cid,
    receipt,
    record,
    score,
    sha256,
    shard_of,
    statement,
    tree,
    value_of,
)
from tests.protocol.second_ranges import Item, next_message, question
from tests.protocol.second_wire import Connection

HELD, INVALID = 0, 1
UNSIGNED = {"malformed", "signature", "payload-missing", "no-such-shard"}


class Peer:
    """A new agent, connected to the node at `place` and not yet let in; `now` in µs."""

    def __init__(self, place: tuple[str, int], seed: bytes, now: int, capacity: int = 0) -> None:
        self.key, self.now = SigningKey(seed), now
        self.capacity, self.held = capacity, dict[bytes, Record]()
        self.agent = agent_of(self.key)
        self.connection = Connection(place, self.key, self._serve)
        manifest, epochs, size = self.ask("hello", ["manifest"])
        self.manifest, self.network = value_of(manifest), raw_cid(manifest)
        way, self.join_bits = self.manifest["membrane"]
        if (way, epochs) != ("open", 0):
            raise Refused("not the kind of network that this peer knows")
        chunks = range(-(-(size or 0) // 2**18))
        self.atlas = b"".join(self.ask("hello", ["atlas", i])[0] for i in chunks)
        if (blob_cid(self.atlas) if self.atlas else None) != self.manifest["atlas"]:
            raise Refused("another atlas")
        nonce = mined(self.network, self.agent, self.join_bits)
        own = f"/ip4/127.0.0.1/tcp/9/p2p/{peer_id(self.agent)}"
        self.address = address(self.key, self.network, nonce, [own], now, 3_600, capacity)
        self.chain = opening(self.key, self.network, nonce, now, map(self.salt, range(3)))

    def salt(self, number: int) -> bytes:
        return sha256(bytes(self.key), number.to_bytes(4, "big"))[:16]

    def _serve(self, method: str, body: bytes) -> bytes | None:
        if method == "record.store" and self.capacity:
            return self._hold(value_of(body))
        return {"peer.ping": canonical([]), "peer.exchange": canonical([self.address])}.get(method)

    def _hold(self, bundle: Any) -> bytes:
        """Take records of members, and sign for them."""
        openings, _headers, items = bundle
        admitted = {self._admitted(*map(Record.read, pair)) for pair in openings}
        findings = []
        for roles, wire, *_shards in items:
            one = Record.read(wire)
            if one["network"] != self.network or one.author not in admitted:
                raise Refused("a record of nobody in this network")
            if one.payload is not None or one.cid not in self.held:
                self.held[one.cid] = one
            findings.append(self.finding(one, roles, held=True))
        statuses = [[HELD, ""]] * len(findings)
        if not any(roles & WANTS_RECEIPT for roles, *_ in items):
            return canonical(statuses)
        root = tree(findings)[-1][0]
        fields = [self.network, self.now, len(findings), root]
        return canonical([statuses, statement(self.key, "receipt", fields)])

    def ask(self, method: str, body: Any) -> Any:
        """A request with a canonical body and reply."""
        return value_of(self.connection.ask(method, canonical(body)))

    def enter(self) -> list[Any]:
        """Show the own address record; what the other's says, which must be of this network and that node."""
        (theirs,) = self.ask("peer.exchange", [self.address])
        agent = self.connection.agent
        fields = fields_of(theirs, "address", agent)
        if fields[0] != self.network or not pays(
            self.network, self.connection.agent, fields[1], self.join_bits
        ):
            raise Refused("an address record that does not let its author in")
        return fields

    def write(self, kind: str, body: dict[str, Any], subject: Record | None = None) -> Record:
        """The chain's next record; `subject` the own create that it is the first operation on."""
        about = (None, 0, None) if subject is None else (subject.cid, 1, subject.cid)
        last = self.chain[-1]
        self.chain.append(
            record(
                self.key,
                self.network,
                kind,
                body,
                prev=last,
                hlc=max(self.now, last["hlc"]),
                salt=self.salt(len(self.chain)),
                subject=about,
                deps=() if subject is None else (subject,),
            )
        )
        return self.chain[-1]

    def store(self, items: Sequence[tuple[int, Record]]) -> tuple[list[list[Any]], dict[bytes, bytes]]:
        """Store own records in roles; the statuses, and each receipt that stands alone, by CID."""
        sent: list[tuple[int, bytes]] = []
        for roles, one in items:
            bare = roles == AUTHOR and one["kind"] not in OPENING
            sent.append((roles | WANTS_RECEIPT, one.bare if bare else one.wire))
        bundle = [[[one.wire for one in self.chain[:2]]], [], sent]
        statuses, said = self.ask("record.store", bundle)
        findings = [
            self.finding(Record.read(wire), roles, held=status == HELD)
            for (roles, _), (_, wire), (status, rule) in zip(items, sent, statuses, strict=True)
            if status == HELD or (status == INVALID and rule not in UNSIGNED)
        ]
        if not findings:
            return statuses, {}
        check_receipts(said, findings, self.connection.agent, self.network)
        return statuses, {one[0]: receipt(said, findings, place) for place, one in enumerate(findings)}

    def key_of(self, one: Record) -> bytes:
        """The shard key of a content record."""
        return shard_key(self.atlas, one.body["codes"], one.cid) if self.atlas else digest_of(one.cid)

    def bases_of(self, one: Record, roles: int) -> list[bytes]:
        """Where a record lies in its roles, ascending."""
        return sorted(set(bases_of(one, roles, self.key_of(one) if roles & SHARD else b"")))

    def finding(self, one: Record, roles: int, *, held: bool) -> list[Any]:
        """What a holder signs of a record that came in these roles."""
        bases = self.bases_of(one, roles) if held else []
        return [one.cid, one["epoch"], bases, one.payload is not None, HELD if held else INVALID]

    def publish(self, one: Record) -> tuple[list[list[Any]], dict[bytes, bytes]]:
        """Store the chain's headers, and a content record whole."""
        return self.store([*((AUTHOR, before) for before in self.chain), (SUBJECT | SHARD, one)])

    def fetch(self, cids: Sequence[bytes]) -> list[Record]:
        """Records by CID; the answer may lack some, and is held to what was asked."""
        _openings, _headers, items = self.ask("record.fetch", [digest_of(cid) for cid in cids])
        found = [Record.read(item[1]) for item in items]
        if not {one.cid for one in found} <= set(cids):
            raise Refused("records that were not asked for")
        return found

    def compare(self, items: Sequence[Item]) -> tuple[set[bytes], set[bytes]]:
        """Ids that only we have of all items, and those that only the node has."""
        message, ours, theirs = question(items, listed=False), set[bytes](), set[bytes]()
        while message:
            answer = self.connection.ask("record.ranges", message)
            message, only_here, only_there = next_message(items, answer)
            ours, theirs = ours | only_here, theirs | only_there
        return ours, theirs

    def search(
        self,
        codes: bytes,
        k: int,
        tags: Sequence[str] = (),
        shards: Sequence[int] = range(64),
        **filters: Any,
    ) -> list[tuple[int, Record]]:
        """Scores and content records, the best first; refuses an answer that does not prove itself."""
        asked = [[6, bits] for bits in shards]
        question = [asked, codes, k, list(tags), *([filters] if filters else [])]
        complete, ranking, (openings, _, items), *_moved = self.ask("shard.search", question)
        if complete != list(range(len(asked))) or len(ranking) > k:
            raise Refused("the only node of a network does not hold all of it")
        admitted = {self._admitted(*map(Record.read, pair)) for pair in openings}
        found = {one.cid: one for one in (Record.read(item[1]) for item in items)}
        hits = []
        for cid, ppm, *proofs in ranking:
            one = found[cid]
            said = one.body
            if one["network"] != self.network or one.author not in admitted:
                raise Refused("a hit of nobody in this network")
            if shard_of(self.key_of(one))[1] not in shards:
                raise Refused("a hit from elsewhere")
            if proofs or not set(tags) <= set(said.get("tags", ())) or score(codes, said["codes"]) != ppm:
                raise Refused("a hit that is not what it is said to be")
            hits.append((ppm, one))
        if hits != sorted(hits, key=lambda hit: (-hit[0], hit[1].cid)):
            raise Refused("a ranking out of order")
        return hits

    def _admitted(self, genesis: Record, membrane: Record) -> bytes:
        """The author whose opening this is."""
        agent = genesis.author
        if (
            [genesis["kind"], genesis["seq"], genesis["prev"]] != ["chain.genesis", 0, None]
            or [membrane["kind"], membrane["seq"], membrane["prev"]] != ["chain.membrane", 1, genesis.cid]
            or membrane.author != agent
            or genesis["network"] != self.network
            or not pays(self.network, agent, membrane.body["nonce"], self.join_bits)
        ):
            raise Refused("an opening that lets nobody in")
        return agent


def proof(holder: bytes, nonce: bytes, one: Record) -> bytes:
    """What a holder answers `record.prove` for a record with its payload."""
    assert one.payload is not None
    return sha256(b"roseforest/proof/2\0", holder, nonce, one.header, one.payload)
