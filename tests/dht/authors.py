"""Authors outside any node: chains built record by record, well or badly, for intake and holders to judge."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any

from chain.cid import Cid, raw_cid
from chain.content import Content
from chain.identity import Identity
from chain.kinds import CREATE, GENESIS, MEMBRANE, PROFILE
from chain.manifest import Manifest
from chain.membrane import find_nonce, work_bits
from chain.record import Header, Record, encode_payload, sign_record
from chain.source_chain import Draft, Head, head_of, next_record


class Author:
    """One identity's chain in the network of `manifest`, from its opening on."""

    def __init__(self, seed: int, manifest: Manifest, now_us: int, *, pays: bool = True) -> None:
        self.identity = Identity.from_seed(sha256(f"author {seed}".encode()).digest())
        self.agent = self.identity.agent
        self.manifest = manifest
        self.network: Cid = manifest.network_id
        self.now_us = now_us
        self.head: Head | None = None
        self.records: list[Record] = []
        self._salts = count()
        for draft in (
            Draft(GENESIS, {"network": self.network, "recovery": None}),
            Draft(MEMBRANE, {"nonce": self._nonce(pays)}),
            Draft(PROFILE, {"name": f"author {seed}", "software": "tests"}),
        ):
            self.append(draft)

    @property
    def opening(self) -> tuple[Record, Record]:
        return self.records[0], self.records[1]

    def append(self, draft: Draft, now_us: int | None = None) -> Record:
        """The next record of the chain."""
        record = next_record(
            self.identity,
            self.network,
            self.network,
            self.head,
            draft,
            self.now_us if now_us is None else now_us,
            self.salt(),
        )
        self.head = head_of(record)
        self.records.append(record)
        return record

    def create(self, text: str, codes: bytes, tags: tuple[str, ...] = ()) -> Record:
        return self.append(Draft(CREATE, Content(text, codes, tags).to_body()))

    def signed(self, record: Record, body: dict[str, Any] | None = None, **changes: object) -> Record:
        """`record` with another header or body, signed by this author; the chain does not grow."""
        payload = record.payload
        if body is not None:
            payload = encode_payload(self.salt(), body)
        assert payload is not None
        changes |= {"payload": raw_cid(payload), "payload_size": len(payload)}
        header: Header = replace(record.header, **changes)  # type: ignore[arg-type]
        return sign_record(self.identity, header, payload)

    def salt(self) -> bytes:
        return next(self._salts).to_bytes(16, "big")

    def _nonce(self, pays: bool) -> int:
        price = self.manifest.join_bits
        if pays:
            return find_nonce(self.network, self.agent, price)
        return next(n for n in count() if work_bits(self.network, self.agent, n) < price)


def forged(record: Record) -> Record:
    """The same record under a signature that is not its author's."""
    return replace(record, signature=bytes(64))
