"""How fast entries merge, what a delta weighs, and what they take in memory, beside other CRDTs.

`python -m benchmarks.crdt [--quick]`; the others are Loro, pycrdt and automerge. The workload is a map of
entries whose titles are set again and again:
Alice creates the entries, then Alice and Bob, apart from each other, each set the title of every entry in
turn, one signed record a time. The peers' documents hold one map with a key for each entry and do the same,
one commit for each set, two replicas.

- *applied*: from the bytes of the wire to entries that a view can be taken of. Ours decode, check canonical
  form, hash and place each record among its causes, with and without the check of its signature; the peers
  import the updates of both replicas into an empty document and read it.
- *merge*: replica A takes what B wrote, each having written half of the concurrent edits: decoding, joining
  and reading all titles again. Once spread over the entries, once all on one; with and without the check of
  signatures. For the peers: the import, and reading the map.
- *bytes*: of a delta, for each operation, less the title itself, which every system must carry: ours compact
  (`crdt.delta_codec`), each entry's by itself or all in one entry, beside whole records. Ours carry
  author, causes, time, salt and signature; the peers carry no signature and no clock, so that whoever serves
  their bytes can write what they like under any name, and pycrdt leaves out what was overwritten. What they
  would weigh with 64 bytes of signature for each operation stands beside it.
- *memory*: resident bytes of entries that were created and not edited, in a process of its own.

Times are processor times, medians over the rounds. The peers do without a line where they are not installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import psutil

from benchmarks.report import RESULTS, Target, at_least, at_most, emit, in_own_process, rounded
from chain.cid import Cid, raw_cid
from chain.content import Content
from chain.identity import SIGNATURE_SIZE, Identity
from chain.kinds import EDIT
from chain.record import Record, decode_record, verify_signature
from chain.source_chain import Draft, Head, head_of, next_record
from crdt.compaction import compacted
from crdt.delta_codec import decode_delta, delta_pages
from crdt.drafts import draft_create, draft_describe
from crdt.entry import EntryState
from crdt.snapshot import snapshot_of

NETWORK = raw_cid(b"benchmark")
ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
NOW_US = 1_790_000_000_000_000
CODES = 256
MEMORY_ENTRIES = 100_000
APPLIED, VERIFIED, MERGE_S, OVERHEAD = 50_000, 8_000, 0.5, 200
PEERS = ("loro", "pycrdt", "automerge")

States = dict[Cid, EntryState]


@dataclass
class Scribe:
    """Signs one agent's records, one after the other; time passes as it writes."""

    identity: Identity
    head: Head | None = None
    written: int = 0

    def write(self, draft: Draft) -> Record:
        self.written += 1
        now_us = NOW_US + 1_000_003 * self.written
        salt = raw_cid(self.written.to_bytes(8, "big") + self.identity.agent)[-16:]
        record = next_record(self.identity, NETWORK, NETWORK, self.head, draft, now_us, salt)
        self.head = head_of(record)
        return record


@dataclass(frozen=True)
class Workload:
    """The creates, and what each of the two wrote after them."""

    creates: list[Record]
    lines: tuple[list[Record], list[Record]]

    @property
    def records(self) -> list[Record]:
        return [*self.creates, *self.lines[0], *self.lines[1]]


def create(number: int) -> Draft:
    return draft_create(Content(f"What is known about thing {number}.", bytes(CODES)))


def title(who: int, number: int, entry: int) -> str:
    return f"title {number} of thing {entry} by {who}"


def workload(entries: int, edits: int) -> Workload:
    """`edits` in all, half of them each one's, spread over the entries."""
    scribes = (Scribe(ALICE), Scribe(BOB))
    creates = [scribes[0].write(create(number)) for number in range(entries)]
    lines: list[list[Record]] = []
    for who, scribe in enumerate(scribes):
        views = [EntryState(record.cid).add(record).view() for record in creates]
        last: list[Record | None] = [None] * entries
        line: list[Record] = []
        for number in range(edits // 2):
            at = number % entries
            view, before = views[at], last[at]
            assert view is not None
            draft = draft_describe(view, scribe.identity.agent, {"title": title(who, number, at)})
            if before is not None:  # as the view would say after the author's own last edit
                header = before.header
                draft = Draft(
                    draft.kind,
                    {**draft.body, "over": [before.cid]},
                    draft.subject,
                    header.subject_seq + 1,
                    before.cid,
                    draft.deps,
                    draft.deps_lamport,
                    draft.deps_hlc,
                )
            record = last[at] = scribe.write(draft)
            line.append(record)
        lines.append(line)
    return Workload(creates, (lines[0], lines[1]))


def applied(records: Iterable[Record], states: States | None = None) -> States:
    """These records in the entries they are about."""
    found = dict(states or {})
    about: dict[Cid, list[Record]] = {}
    for record in records:
        about.setdefault(record.subject, []).append(record)
    for subject, ones in about.items():
        found[subject] = found.get(subject, EntryState(subject)).add_all(ones)
    return found


def received(wire: Sequence[bytes], verify: bool, states: States | None = None) -> States:
    """Records from their bytes into entries; raises where a signature is wrong."""
    records = [decode_record(one) for one in wire]
    if verify and not all(map(verify_signature, records)):
        raise ValueError("a signature is wrong")
    return applied(records, states)


def titles(states: States) -> dict[Cid, list[str]]:
    """All titles that the entries show."""
    found: dict[Cid, list[str]] = {}
    for subject, state in states.items():
        view = state.view()
        assert view is not None
        found[subject] = [
            str(value) for name, values in view.fields if name == "title" for _, value in values
        ]
    return found


def spent(action: Callable[[], Any], rounds: int) -> float:
    """Seconds of processor time, the median."""
    return spent_after(lambda: action, rounds)


def spent_after(prepare: Callable[[], Callable[[], Any]], rounds: int) -> float:
    """The same, of what `prepare` returns; what it does itself does not count."""
    times = []
    for _ in range(rounds):
        action = prepare()
        gc.collect()
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return median(times)


def measure_applied(entries: int, edits: int, rounds: int) -> dict[str, float]:
    records = workload(entries, edits).records
    wire = [record.encode() for record in records]
    count = len(records)
    decoded = [decode_record(one) for one in wire]
    return {
        "applied_per_s": count / spent(lambda: received(wire, verify=False), rounds),
        "applied_verified_per_s": count / spent(lambda: received(wire, verify=True), rounds),
        "decode_per_s": count / spent(lambda: [decode_record(one) for one in wire], rounds),
        "verify_per_s": count / spent(lambda: [verify_signature(one) for one in decoded], rounds),
        "join_decoded_per_s": count / spent(lambda: applied(decoded), rounds),
        "wire_bytes_per_record": sum(map(len, wire)) / count,
    }


def measure_merge(name: str, entries: int, edits: int, rounds: int) -> dict[str, float]:
    made = workload(entries, edits)
    mine, theirs = (applied([*made.creates, *line]) for line in made.lines)
    sent = [
        record.encode() for subject, state in theirs.items() for record in state.delta(mine[subject].version)
    ]
    assert len(sent) == edits // 2
    merged = received(sent, verify=True, states=mine)
    assert sorted(merged) == sorted(mine)
    assert all(len(one) == 2 for one in titles(merged).values())
    return {
        f"merge_{name}_s": spent(lambda: titles(received(sent, False, mine)), rounds),
        f"merge_{name}_verified_s": spent(lambda: titles(received(sent, True, mine)), rounds),
        f"merge_{name}_join_only_s": spent(
            lambda: [state.join(theirs[subject]) for subject, state in mine.items()], rounds
        ),
    }


def decoded(pages: Sequence[bytes]) -> int:
    """How many records these compact pages hold."""
    return sum(len(decode_delta(page, NETWORK)) for page in pages)


def measure_delta(entries: int, edits: int, rounds: int) -> dict[str, float]:
    """The edits as deltas: of each entry by itself, and of one entry that has them all."""
    found: dict[str, float] = {}
    for name, many in (("", entries), ("one_entry_", 1)):
        made = workload(many, edits)
        start, whole = applied(made.creates), applied(made.records)
        lacking = [whole[subject].delta(state.version) for subject, state in start.items()]
        said = sum(len(record.body()["fields"]["title"]) for part in lacking for record in part)
        pages = [page for part in lacking for _, page in delta_pages(part, NETWORK)]
        assert decoded(pages) == edits
        found |= {
            f"delta_{name}overhead_bytes": (sum(map(len, pages)) - said) / edits,
            f"delta_{name}whole_records_overhead_bytes": (
                sum(len(record.encode()) for part in lacking for record in part) - said
            )
            / edits,
            f"delta_{name}decode_per_s": edits / spent(partial(decoded, pages), rounds),
            f"delta_{name}title_bytes": said / edits,
        }
    return found


def measure_state(edits: int) -> dict[str, float]:
    """Bytes of an entry's text edited again and again, whole, and what stays open of it when compacted."""
    scribe = Scribe(ALICE)
    first = scribe.write(create(0))
    records, before = [first], first
    for number in range(edits):
        body = Content(f"{number} ".ljust(1_000, "x"), bytes(CODES), over=(before.cid,)).to_body()
        header = before.header
        draft = Draft(
            EDIT,
            body,
            first.cid,
            header.subject_seq + 1,
            before.cid,
            (before.cid,),
            header.lamport,
            header.hlc,
        )
        before = scribe.write(draft)
        records.append(before)
    state = EntryState(first.cid).add_all(records)
    small = compacted(state)
    view, again = state.view(), small.view()
    assert view is not None
    assert again is not None
    assert view.encode() == again.encode()
    snapshot = snapshot_of(state)
    assert snapshot is not None
    return {
        "state_bytes_per_text_edit": len(state.encode()) / edits,
        "payload_bytes_open_per_text_edit": sum(len(one.payload or b"") for one in records) / edits,
        "payload_bytes_open_compacted": small.bytes / edits,
        "snapshot_bytes": float(len(snapshot.encode())),
    }


class Loro:
    """A Loro document: one map."""

    def __init__(self, peer: int) -> None:
        import loro

        self._loro: Any = loro
        self._doc: Any = self._loro.LoroDoc()
        self._doc.peer_id = peer
        self._map = self._doc.get_map("entries")

    def set(self, key: str, value: str) -> None:
        self._map.insert(key, value)
        self._doc.commit()

    def version(self) -> Any:
        return self._doc.oplog_vv

    def delta(self, since: Any | None = None) -> bytes:
        known = self._loro.VersionVector() if since is None else since
        return bytes(self._doc.export(self._loro.ExportMode.Updates(known)))

    def load(self, delta: bytes) -> None:
        self._doc.import_(delta)

    def name(self, peer: int) -> None:
        self._doc.peer_id = peer

    def taking(self, other: Loro) -> Callable[[], object]:
        delta = other.delta(self.version())
        return lambda: self._doc.import_(delta)

    def read(self) -> int:
        value: Any = self._doc.get_deep_value()
        return len(value["entries"])


class Pycrdt:
    """A pycrdt (Yrs) document: one map."""

    def __init__(self, peer: int) -> None:
        import pycrdt

        self._doc = pycrdt.Doc(client_id=peer)
        self._map: Any = self._doc.get("entries", type=pycrdt.Map)

    def set(self, key: str, value: str) -> None:
        self._map[key] = value

    def version(self) -> Any:
        return self._doc.get_state()

    def delta(self, since: Any | None = None) -> bytes:
        return bytes(self._doc.get_update() if since is None else self._doc.get_update(since))

    def load(self, delta: bytes) -> None:
        self._doc.apply_update(delta)

    def name(self, peer: int) -> None:
        """A document keeps the name that it was made with."""

    def taking(self, other: Pycrdt) -> Callable[[], object]:
        delta = other.delta(self.version())
        return lambda: self._doc.apply_update(delta)

    def read(self) -> int:
        return len(self._map.to_py())


class Automerge:
    """An automerge document: the keys of its root. A delta is its changes, one for each set."""

    def __init__(self, peer: int) -> None:
        from automerge import core

        self._core = core
        self._doc: Any = core.Document(actor_id=peer.to_bytes(16, "big"))

    def set(self, key: str, value: str) -> None:
        with self._doc.transaction() as change:
            change.put(self._core.ROOT, key, self._core.ScalarType.Str, value)

    def name(self, peer: int) -> None:
        self._doc.set_actor(peer.to_bytes(16, "big"))

    def version(self) -> Any:
        return self._doc.get_heads()

    def delta(self, since: Any | None = None) -> bytes:
        return b"".join(change.raw_bytes for change in self._doc.get_changes(since or []))

    def load(self, delta: bytes) -> None:
        self._doc = self._core.Document.load(delta)

    def taking(self, other: Automerge) -> Callable[[], object]:
        """From a document already read: the bindings take no changes as bytes."""
        return lambda: self._doc.merge(other._doc)

    def read(self) -> int:
        return len(list(self._doc.values(self._core.ROOT)))


MAKERS: dict[str, Callable[[int], Any]] = {"loro": Loro, "pycrdt": Pycrdt, "automerge": Automerge}


def measure_peer(name: str, entries: int, edits: int, rounds: int) -> dict[str, Any]:
    make = MAKERS[name]
    start = make(1)
    for number in range(entries):
        start.set(f"{number:08d}", f"What is known about thing {number}.")
    begun = start.version()
    replicas = [make(who + 2) for who in range(2)]
    said = 0
    for who, replica in enumerate(replicas):
        replica.load(start.delta())
        replica.name(who + 2)
        for number in range(edits // 2):
            text = title(who, number, number % entries)
            said += len(text)
            replica.set(f"{number % entries:08d}", text)
    whole = [start.delta(), *(replica.delta(begun) for replica in replicas)]
    size = sum(map(len, whole[1:]))
    everything = make(9)
    everything.load(replicas[0].delta())
    everything.taking(replicas[1])()
    both = everything.delta()
    assert everything.read() == entries

    def merging() -> Callable[[], object]:
        mine = make(7)
        mine.load(replicas[0].delta())
        take = mine.taking(replicas[1])
        return lambda: (take(), mine.read())

    return {
        f"{name}_version": version(name),
        f"{name}_applied_per_s": (entries + edits)
        / spent_after(lambda: (lambda fresh: lambda: (fresh.load(both), fresh.read()))(make(8)), rounds),
        f"{name}_merge_s": spent_after(merging, rounds),
        f"{name}_delta_overhead_bytes": (size - said) / edits,
        f"{name}_delta_overhead_signed_bytes": (size - said) / edits + SIGNATURE_SIZE,
    }


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def measure_memory(name: str, count: int) -> float:
    """MiB that `count` entries take, for this process."""
    before = resident()
    if name == "ours":
        scribe = Scribe(ALICE)
        wire = (scribe.write(create(number)).encode() for number in range(count))
        kept: Any = {}
        for one in wire:
            record = decode_record(one)
            kept[record.cid] = EntryState(record.cid).add(record)
    else:
        kept = MAKERS[name](1)
        for number in range(count):
            kept.set(f"{number:08d}", f"What is known about thing {number}." + "x" * CODES)
        kept.read()
    return (resident() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Merging entries: speed, bytes, memory.")
    parser.add_argument("--quick", action="store_true", help="under a minute, not kept")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        print(json.dumps({"mb": measure_memory(*json.loads(arguments.part))}))
        return
    rounds, scale = (3, 10) if arguments.quick else (7, 1)
    edits = 10_000
    figures: dict[str, Any] = {"edits": edits, "entries": 1_000, "rounds": rounds}
    figures |= measure_applied(1_000, edits, rounds)
    figures |= measure_merge("spread", 1_000, edits, rounds)
    figures |= measure_merge("one_entry", 1, edits, rounds)
    figures |= measure_delta(1_000, edits, rounds)
    figures |= measure_state(1_000)
    for name in PEERS:
        try:
            figures |= measure_peer(name, 1_000, edits, rounds)
        except (ImportError, PackageNotFoundError):
            print(f"{name} is not installed: no figures of it")
    count = MEMORY_ENTRIES // scale
    for name in ("ours", *(one for one in PEERS if f"{one}_version" in figures)):
        taken = in_own_process("crdt", name, count)
        figures[f"{name}_memory_mb_per_100k"] = float(taken["mb"]) * MEMORY_ENTRIES / count
    kept = {label: rounded(one) if isinstance(one, float) else one for label, one in figures.items()}
    targets: list[Target] = [
        at_least("applied_per_s", APPLIED, kept["applied_per_s"]),
        at_least("applied_verified_per_s", VERIFIED, kept["applied_verified_per_s"]),
        at_most("merge_spread_s", MERGE_S, kept["merge_spread_s"]),
        at_most("merge_one_entry_s", MERGE_S, kept["merge_one_entry_s"]),
        at_most("delta_overhead_bytes", OVERHEAD, kept["delta_overhead_bytes"]),
        at_most("delta_one_entry_overhead_bytes", OVERHEAD, kept["delta_one_entry_overhead_bytes"]),
    ]
    emit("crdt", kept, targets, None if arguments.quick else RESULTS / "crdt.json")


if __name__ == "__main__":
    main()
