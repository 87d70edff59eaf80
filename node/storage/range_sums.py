"""Sums over ranges of what is held, kept up to date in held.db, so that ranges can be compared cheaply.

`dht.negentropy.reconciliation` sees a holder's records as items, ordered by the first 64 bits of the basis
and then by an id made of basis and CID, and asks for the count and the sum of the ids below some bound, for
the items at some place, and for a few items in a row. For that the tree of all bases is summed up at three
levels (5, 10 and 15 bits), each basis by itself, and of a basis with many records (a shard, a long chain)
each of 256 parts by the first byte of the id. So a bound costs some hundred rows whatever is held, a write
some three rows a basis, and nothing lies in memory.

A basis of which this node alone knows (`Role.KEPT`), or that every node holds (`Role.NOTICE`), is left out.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from chain.cid import DIGEST_SIZE, Cid, digest, record_cid_of_digest
from dht.negentropy.range_messages import END, ID_SIZE, LAST_PREFIX, MODULUS, Bound, Item, bound_at
from dht.negentropy.reconciliation import Total, id_of, mask_of, prefix_of
from dht.records.placement import Role
from node.storage.database import select_in

LEVEL_BITS: Final = 5
LEVELS: Final = 3
MANY: Final = 512
"""Records at one basis above which it is summed up in parts as well."""
MAX_SCANS: Final = 64
"""Bases, or parts of them, whose ids are kept from one look to the next."""

_SHIFT: Final = 64 - LEVEL_BITS * LEVELS
_PLUS: Final = "total_plus"
"""The SQL function that adds totals."""
_HIDDEN: Final = (int(Role.KEPT), int(Role.NOTICE))

SCHEMA: Final = """
    ALTER TABLE digests ADD COLUMN ids BLOB;
    CREATE TABLE range_sums (
        node INTEGER PRIMARY KEY,
        records INTEGER NOT NULL,
        total BLOB NOT NULL
    );
    CREATE TABLE range_parts (
        basis BLOB NOT NULL,
        part INTEGER NOT NULL,
        records INTEGER NOT NULL,
        total BLOB NOT NULL,
        PRIMARY KEY (basis, part)
    ) WITHOUT ROWID;
    CREATE TABLE range_state (built INTEGER NOT NULL);
"""
"""The migration that adds the sums; `build` fills them. `node`: 1 and the bits of the prefix, in binary."""


@dataclass(slots=True)
class Change:
    """What comes to a basis in one write, or goes from it."""

    roles: int = 0
    cids: list[Cid] = field(default_factory=list)


def build(connection: sqlite3.Connection) -> None:
    """Prepare a connection for writing sums, and fill those of a database that was written before there were
    any; that once, O(records).
    """
    connection.create_function(_PLUS, 2, _plus, deterministic=True)
    if connection.execute("SELECT 1 FROM range_state").fetchone():
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        nodes: dict[int, list[int]] = {}
        for basis, roles in connection.execute("SELECT basis, roles FROM digests").fetchall():
            cids = [row[0] for row in connection.execute("SELECT cid FROM bases WHERE basis = ?", (basis,))]
            total = _sum(basis, cids)
            sql = "UPDATE digests SET ids = ? WHERE basis = ?"
            connection.execute(sql, (_pack(total), basis))
            if len(cids) > MANY:
                _add_parts(connection, basis, cids)
            if roles not in _HIDDEN:
                _add_to(nodes, basis, len(cids), total)
        _write_nodes(connection, nodes)
        connection.execute("INSERT INTO range_state (built) VALUES (1)")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def added(connection: sqlite3.Connection, changes: Mapping[bytes, Change]) -> None:
    """Write what comes to lie at bases, in `digests` and in the sums; the rows of `bases` are written."""
    sql = "SELECT basis, roles, records, total, ids FROM digests WHERE basis IN ({})"
    here = {row[0]: row[1:] for row in select_in(connection, sql, sorted(changes))}
    nodes: dict[int, list[int]] = {}
    parts: dict[tuple[bytes, int], list[int]] = {}
    digests = []
    for basis in sorted(changes):
        change = changes[basis]
        before = here.get(basis, (0, 0, bytes(DIGEST_SIZE), bytes(ID_SIZE)))
        roles = before[0] | change.roles
        records = before[1] + len(change.cids)
        more = sum(int.from_bytes(digest(cid), "big") for cid in change.cids)
        total = (int.from_bytes(before[2], "big") + more) % MODULUS
        ids_before, ids_more = _unpack(before[3]), _sum(basis, change.cids)
        ids = (ids_before + ids_more) % MODULUS
        digests.append((basis, roles, records, total.to_bytes(DIGEST_SIZE, "big"), _pack(ids)))
        if records > MANY:
            if before[1] <= MANY:
                rows = connection.execute("SELECT cid FROM bases WHERE basis = ?", (basis,))
                _count_parts(parts, basis, [row[0] for row in rows])
            else:
                _count_parts(parts, basis, change.cids)
        if roles not in _HIDDEN:
            if before[0] in _HIDDEN:
                _add_to(nodes, basis, records, ids)
            else:
                _add_to(nodes, basis, len(change.cids), ids_more)
    connection.executemany(
        "INSERT INTO digests (basis, roles, records, total, ids) VALUES (?, ?, ?, ?, ?) ON CONFLICT (basis) "
        "DO UPDATE SET roles = excluded.roles, records = excluded.records, total = excluded.total, "
        "ids = excluded.ids",
        digests,
    )
    _write_parts(connection, parts)
    _write_nodes(connection, nodes)


def removed(connection: sqlite3.Connection, basis: bytes) -> None:
    """Take a basis out of `digests` and the sums, with all that lies there."""
    sql = "SELECT roles, records, ids FROM digests WHERE basis = ?"
    roles, records, ids = connection.execute(sql, (basis,)).fetchone()
    connection.execute("DELETE FROM digests WHERE basis = ?", (basis,))
    if records > MANY:
        connection.execute("DELETE FROM range_parts WHERE basis = ?", (basis,))
    if roles not in _HIDDEN:
        nodes: dict[int, list[int]] = {}
        _add_to(nodes, basis, -records, -_unpack(ids))
        _write_nodes(connection, nodes)


def withdrawn(connection: sqlite3.Connection, gone: Mapping[bytes, Sequence[Cid]]) -> None:
    """Take single records out of `digests` and the sums; their rows in `bases` are deleted."""
    nodes: dict[int, list[int]] = {}
    for basis in sorted(gone):
        cids = gone[basis]
        sql = "SELECT roles, records, total, ids FROM digests WHERE basis = ?"
        roles, records, total, ids = connection.execute(sql, (basis,)).fetchone()
        if records == len(cids):
            removed(connection, basis)
            continue
        less = sum(int.from_bytes(digest(cid), "big") for cid in cids)
        left = (int.from_bytes(total, "big") - less) % MODULUS
        ids_less = _sum(basis, cids)
        connection.execute(
            "UPDATE digests SET records = ?, total = ?, ids = ? WHERE basis = ?",
            (records - len(cids), left.to_bytes(DIGEST_SIZE, "big"), _pack(_unpack(ids) - ids_less), basis),
        )
        if records > MANY:
            if records - len(cids) > MANY:
                _add_parts(connection, basis, cids, -1)
            else:
                connection.execute("DELETE FROM range_parts WHERE basis = ?", (basis,))
        if roles not in _HIDDEN:
            _add_to(nodes, basis, -len(cids), -ids_less)
    _write_nodes(connection, nodes)


class RangeView:
    """A `RangeStore` of `dht.negentropy.reconciliation` on a connection, in a transaction: nothing changes.

    What one message asks about lies close together: sums and parts that were read are kept for the next look.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[Bound, Total] = {}
        self._sums: dict[int, _Sums] = {}
        self._part_sums: dict[bytes, _Sums] = {}
        self._scans: OrderedDict[tuple[bytes, int | None], _Scan] = OrderedDict()

    def below(self, bound: Bound) -> Total:
        """What lies below a bound; some hundred rows, and a part of a basis if the bound lies in one."""
        known = self._known.get(bound)
        if known is None:
            known = self._known[bound] = self._added_up_to(bound)
        return known

    def _added_up_to(self, bound: Bound) -> Total:
        prefix, beginning = bound
        if bound == END:
            return self._children(1).below(2 << LEVEL_BITS)
        sums: list[Total] = []
        for level in range(1, LEVELS + 1):
            node = _node(prefix, level)
            sums.append(self._children(node >> LEVEL_BITS).below(node))
        sql = "SELECT records, ids FROM digests WHERE basis >= ? AND basis < ? AND roles NOT IN (?, ?)"
        floor = prefix >> _SHIFT << _SHIFT
        rows = self._connection.execute(sql, (_first_basis(floor), _first_basis(prefix), *_HIDDEN))
        sums.extend(Total(row[0], _unpack(row[1])) for row in rows)
        if beginning:
            for basis, records in self._bases(prefix, prefix):
                sums += self._inside(basis, records, beginning)
        return Total(sum(one.count for one in sums), sum(one.total for one in sums) % MODULUS)

    def pair(self, place: int) -> tuple[Item, Item]:
        """The items at the places `place - 1` and `place`; both exist."""
        first, second = self.items(bound_at(self._at(place - 1)), END, 2)
        return first, second

    def items(self, lower: Bound, upper: Bound, limit: int) -> list[Item]:
        """The first `limit` items from `lower` on and below `upper`, ascending."""
        found: list[Item] = []
        if upper <= lower or limit < 1:
            return found
        last = min(upper[0], LAST_PREFIX)
        for prefix, bases in _by_prefix(self._bases(lower[0], last)):
            beginning = lower[1] if prefix == lower[0] else b""
            for one in self._ids(bases, beginning):
                if (prefix, one) >= upper or len(found) == limit:
                    return found
                found.append((prefix, one))
        return found

    def _at(self, place: int) -> Item:
        """The item at a place, counted from 0."""
        left, node = place, 1
        for _ in range(LEVELS):
            node, left = self._children(node).holding(left)
        floor = (node - (1 << LEVEL_BITS * LEVELS)) << _SHIFT
        for prefix, bases in _by_prefix(self._bases(floor, min(floor + (1 << _SHIFT) - 1, LAST_PREFIX))):
            records = sum(count for _, count in bases)
            if left >= records:
                left -= records
            elif len(bases) == 1 and records > MANY:
                part, left = self._parts(bases[0][0]).holding(left)
                return (prefix, self._scan(bases[0][0], part).ids[left])
            else:
                return (prefix, list(self._ids(bases, b""))[left])
        raise IndexError(f"no item {place}")

    def _ids(self, bases: Sequence[tuple[bytes, int]], beginning: bytes) -> Iterator[bytes]:
        """The ids of the items at bases with one prefix, not less than `beginning`, ascending."""
        if len(bases) == 1:
            basis, records = bases[0]
            parts: Iterable[int | None] = [None]
            if records > MANY:
                parts = [part for part in self._parts(basis).names if not beginning or part >= beginning[0]]
            for part in parts:
                ids = self._scan(basis, part).ids
                yield from ids[bisect_left(ids, beginning) :]
        else:
            ids = sorted(one for basis, _ in bases for one in self._scan(basis, None).ids)
            yield from ids[bisect_left(ids, beginning) :]

    def _inside(self, basis: bytes, records: int, beginning: bytes) -> list[Total]:
        """The items of a basis with ids below `beginning`, added up."""
        if records <= MANY:
            return [self._scan(basis, None).below(beginning)]
        return [self._parts(basis).below(beginning[0]), self._scan(basis, beginning[0]).below(beginning)]

    def _scan(self, basis: bytes, part: int | None) -> _Scan:
        """The items of a basis, or of those the ones with this first byte."""
        found = self._scans.get((basis, part))
        if found is None:
            mask = mask_of(basis)
            sql = "SELECT cid FROM bases WHERE basis = ?"
            values: tuple[bytes, ...] = (basis,)
            if part is not None:
                first = part ^ (mask & 0xFF)
                sql += " AND cid BETWEEN ? AND ?"
                values = (basis, _edge(first, 0), _edge(first, 0xFF))
            found = _Scan(sorted(id_of(row[0], mask) for row in self._connection.execute(sql, values)))
            self._scans[basis, part] = found
            if len(self._scans) > MAX_SCANS:
                self._scans.popitem(last=False)
        return found

    def _parts(self, basis: bytes) -> _Sums:
        found = self._part_sums.get(basis)
        if found is None:
            sql = "SELECT part, records, total FROM range_parts WHERE basis = ? ORDER BY part"
            found = self._part_sums[basis] = _Sums(self._connection.execute(sql, (basis,)))
        return found

    def _children(self, node: int) -> _Sums:
        found = self._sums.get(node)
        if found is None:
            sql = "SELECT node, records, total FROM range_sums WHERE node >= ? AND node < ? ORDER BY node"
            values = (node << LEVEL_BITS, (node + 1) << LEVEL_BITS)
            found = self._sums[node] = _Sums(self._connection.execute(sql, values))
        return found

    def _bases(self, first: int, last: int) -> Iterator[tuple[bytes, int]]:
        """The bases with prefixes from `first` to `last`, and how many records lie there, ascending."""
        sql = (
            "SELECT basis, records FROM digests WHERE basis >= ? AND basis <= ? AND roles NOT IN (?, ?) "
            "ORDER BY basis"
        )
        last_basis = b"\xff" * 32 if last >= LAST_PREFIX else last.to_bytes(8, "big") + b"\xff" * 24
        yield from self._connection.execute(sql, (_first_basis(first), last_basis, *_HIDDEN))


class _Sums:
    """Counts and totals of parts in ascending order, added up."""

    __slots__ = ("_counts", "_totals", "names")

    def __init__(self, rows: Iterable[tuple[int, int, bytes]]) -> None:
        self.names: list[int] = []
        self._counts, self._totals = [0], [0]
        for name, records, total in rows:
            self.names.append(name)
            self._counts.append(self._counts[-1] + records)
            self._totals.append(self._totals[-1] + _unpack(total))

    def below(self, name: int) -> Total:
        place = bisect_left(self.names, name)
        return Total(self._counts[place], self._totals[place])

    def holding(self, place: int) -> tuple[int, int]:
        """The part in which the item at a place lies, and its place in there; raises `IndexError`."""
        part = bisect_right(self._counts, place) - 1
        return self.names[part], place - self._counts[part]


class _Scan:
    """Ids in ascending order, and their sums."""

    __slots__ = ("_totals", "ids")

    def __init__(self, ids: list[bytes]) -> None:
        self.ids = ids
        self._totals = [0, *accumulate(map(_unpack, ids))]

    def below(self, beginning: bytes) -> Total:
        place = bisect_left(self.ids, beginning)
        return Total(place, self._totals[place])


def _by_prefix(bases: Iterable[tuple[bytes, int]]) -> Iterator[tuple[int, list[tuple[bytes, int]]]]:
    together: list[tuple[bytes, int]] = []
    for one in bases:
        if together and prefix_of(together[0][0]) != prefix_of(one[0]):
            yield prefix_of(together[0][0]), together
            together = []
        together.append(one)
    if together:
        yield prefix_of(together[0][0]), together


def _first_basis(prefix: int) -> bytes:
    return prefix.to_bytes(8, "big")


def _edge(first: int, rest: int) -> Cid:
    return record_cid_of_digest(bytes([first]) + bytes([rest]) * (DIGEST_SIZE - 1))


def _node(prefix: int, level: int) -> int:
    bits = LEVEL_BITS * level
    return 1 << bits | prefix >> (64 - bits)


def _sum(basis: bytes, cids: Iterable[Cid]) -> int:
    mask = mask_of(basis)
    return sum(int.from_bytes(digest(cid), "little") ^ mask for cid in cids) % MODULUS


def _add_to(nodes: dict[int, list[int]], basis: bytes, records: int, total: int) -> None:
    for level in range(1, LEVELS + 1):
        one = nodes.setdefault(_node(prefix_of(basis), level), [0, 0])
        one[0] += records
        one[1] += total


def _write_nodes(connection: sqlite3.Connection, nodes: Mapping[int, Sequence[int]]) -> None:
    rows = [(node, nodes[node][0], _pack(nodes[node][1])) for node in sorted(nodes) if nodes[node][0]]
    connection.executemany(
        "INSERT INTO range_sums (node, records, total) VALUES (?, ?, ?) ON CONFLICT (node) "
        f"DO UPDATE SET records = records + excluded.records, total = {_PLUS} (total, excluded.total)",
        rows,
    )
    emptied = [(node,) for node, records, _ in rows if records < 0]
    connection.executemany("DELETE FROM range_sums WHERE node = ? AND records = 0", emptied)


def _count_parts(
    parts: dict[tuple[bytes, int], list[int]], basis: bytes, cids: Iterable[Cid], sign: int = 1
) -> None:
    mask = mask_of(basis)
    for cid in cids:
        one = int.from_bytes(digest(cid), "little") ^ mask
        part = parts.setdefault((basis, one & 0xFF), [0, 0])
        part[0] += sign
        part[1] += sign * one


def _write_parts(connection: sqlite3.Connection, parts: Mapping[tuple[bytes, int], Sequence[int]]) -> None:
    connection.executemany(
        "INSERT INTO range_parts (basis, part, records, total) VALUES (?, ?, ?, ?) "
        f"ON CONFLICT (basis, part) DO UPDATE SET records = records + excluded.records, "
        f"total = {_PLUS} (total, excluded.total)",
        [(*place, parts[place][0], _pack(parts[place][1])) for place in sorted(parts)],
    )


def _add_parts(connection: sqlite3.Connection, basis: bytes, cids: Iterable[Cid], sign: int = 1) -> None:
    parts: dict[tuple[bytes, int], list[int]] = {}
    _count_parts(parts, basis, cids, sign)
    _write_parts(connection, parts)


def _plus(one: bytes, other: bytes) -> bytes:
    """Two totals added; SQL's own integers are too short for it."""
    return _pack(_unpack(one) + _unpack(other))


def _pack(total: int) -> bytes:
    return (total % MODULUS).to_bytes(ID_SIZE, "little")


def _unpack(total: bytes) -> int:
    return int.from_bytes(total, "little")
