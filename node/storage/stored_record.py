"""A record as columns of a row, and back.

Header, signature and payload are stored as the bytes that were signed, so reading a record recomputes its CID
and its payload's hash: bit rot is found when a record is read, and a damaged record is never served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chain.cid import Cid, record_cid
from chain.errors import ChainError
from chain.identity import SIGNATURE_SIZE
from chain.record import Record, check_payload, decode_header
from node.storage.database import Database, Row

COLUMNS: Final = "records.cid, records.header, records.signature, records.payload"
"""What `from_row` reads, in its order."""
RELATES: Final = "instr(payload, x'a9707265646963617465') > 0"
"""Holds of the records that may state relations: their payload has a key `predicate`, as msgpack writes it.

An index over just these follows records that come, get their payload later, or are erased, by itself.
"""
NAMES: Final = "instr(payload, ?) > 0"
"""Holds of the records whose payload contains these bytes."""


def from_row(database: Database, row: Row) -> Record:
    """The record in a row of `COLUMNS`; raises `DatabaseCorrupt` when it is not the one that was stored."""
    cid, header, signature, payload = row
    if type(header) is not bytes or type(signature) is not bytes or len(signature) != SIGNATURE_SIZE:
        raise database.corrupt(f"the row of record {_name(cid)} has the wrong shape")
    if record_cid(header) != cid:
        raise database.corrupt(f"the header of record {_name(cid)} does not hash to its CID")
    try:
        decoded = decode_header(header)
        if payload is not None:
            check_payload(decoded, payload)
    except (ChainError, TypeError) as error:
        raise database.corrupt(f"record {_name(cid)} cannot be read: {error}") from error
    return Record(decoded, signature, payload, cid, header)


def records_in(database: Database, cids: Sequence[Cid]) -> list[Record | None]:
    """The records with these CIDs, in order, None where there is none."""
    rows = database.rows_in(f"SELECT {COLUMNS} FROM records WHERE cid IN ({{}})", sorted(set(cids)))
    found = {row[0]: from_row(database, row) for row in rows}
    return [found.get(cid) for cid in cids]


def _name(cid: Cid) -> str:
    return cid.hex() if type(cid) is bytes else repr(cid)[:80]
