"""The bodies of the `peer.*` methods: what two members tell each other about who is where.

`peer.exchange` carries an address record each way; `peer.find` carries a target and the asker's record, and
is answered with at most k records; `peer.ping` and `peer.leave` are empty. All are canonical arrays, and
every reader checks sizes before anything else. Records are opaque bytes here; `dht.overlay.contact_book`
verifies them.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain import canonical
from chain.errors import EncodingError
from dht.errors import FrameError
from dht.overlay.contact import MAX_RECORD
from dht.overlay.distance import KEY_SIZE
from dht.overlay.routing_table import K

EXCHANGE = "peer.exchange"
FIND = "peer.find"
PING = "peer.ping"
LEAVE = "peer.leave"

MAX_FOUND = K
"""Records in the answer to a find."""
_SLACK = 64
MAX_EXCHANGE = MAX_RECORD + _SLACK
MAX_FIND = MAX_RECORD + KEY_SIZE + _SLACK
MAX_FIND_REPLY = MAX_FOUND * (MAX_RECORD + 8) + _SLACK

EMPTY = canonical.encode([])
"""The body of a ping, a leave, and their answers."""


def encode_exchange(record: bytes) -> bytes:
    """An exchange or its answer: [own address record]."""
    return canonical.encode([record])


def decode_exchange(body: bytes) -> bytes:
    """The other side's address record; raises `FrameError`."""
    (record,) = _array(body, MAX_EXCHANGE, 1, EXCHANGE)
    return _record(record, EXCHANGE)


def encode_find(target: bytes, record: bytes) -> bytes:
    """A find: [target, own address record]."""
    return canonical.encode([target, record])


def decode_find(body: bytes) -> tuple[bytes, bytes]:
    """(target, the asker's address record); raises `FrameError`."""
    target, record = _array(body, MAX_FIND, 2, FIND)
    if type(target) is not bytes or len(target) != KEY_SIZE:
        raise FrameError(f"the target of {FIND!r} is no key of {KEY_SIZE} bytes")
    return target, _record(record, FIND)


def encode_found(records: Sequence[bytes]) -> bytes:
    """The answer to a find: the address records closest to the target, nearest first."""
    return canonical.encode(list(records[:MAX_FOUND]))


def decode_found(body: bytes) -> list[bytes]:
    """At most `MAX_FOUND` address records, none verified yet; raises `FrameError`."""
    records = _array(body, MAX_FIND_REPLY, None, FIND)
    if len(records) > MAX_FOUND:
        raise FrameError(f"answer to {FIND!r} has {len(records)} records, at most {MAX_FOUND} are allowed")
    return [_record(record, FIND) for record in records]


def check_empty(body: bytes, method: str) -> None:
    """Raise `FrameError` unless `body` is the empty array."""
    if body != EMPTY:
        raise FrameError(f"body of {method!r} is not empty")


def _array(body: bytes, limit: int, size: int | None, method: str) -> list[object]:
    try:
        value = canonical.decode(body, limit)
    except EncodingError as error:
        raise FrameError(f"body of {method!r} is malformed: {error}") from error
    if type(value) is not list or (size is not None and len(value) != size):
        raise FrameError(f"body of {method!r} is not an array of {size if size is not None else 'records'}")
    return value


def _record(value: object, method: str) -> bytes:
    if type(value) is not bytes or len(value) > MAX_RECORD:
        raise FrameError(f"body of {method!r} holds no address record of at most {MAX_RECORD} bytes")
    return value
