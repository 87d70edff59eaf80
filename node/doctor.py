"""The doctor: goes over a home folder and its running daemon, and says what is wrong and what to do.

Every check is a function that returns findings and changes nothing; files are opened read-only, also beside a
running daemon, which is asked only for what it alone knows (peers, clock, room). One check that fails does
not keep the others from being made. `ok` needs nothing, `warning` should be looked at, `problem` keeps the
node from working or has cost data.
"""

from __future__ import annotations

import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from chain.errors import ChainBrokenError, ChainError
from chain.identity import peer_id
from chain.manifest import Manifest, decode_manifest
from chain.source_chain import verify_chain
from dht.errors import AddressError
from dht.wire.addresses import parse_address
from node.api_client import ApiClient, ApiError
from node.config import Settings, load_settings
from node.errors import DaemonNotRunning, NodeError
from node.home import DaemonInfo, Home
from node.storage.database import Layout
from node.storage.errors import StorageError
from node.storage.inspection import CHAIN, DERIVED, HELD, LEARNING, forged, records_of, soundness

CONNECT_S = 2.0
"""Seconds that trying a port may take."""
LOW_DISK = 1 << 30
"""Bytes of free disk below which there is a warning."""
SKEW_WARNING_S = 5.0
SKEW_PROBLEM_S = 60.0
"""Records of a clock that is so far ahead are parked by everybody (`validation.rules.MAX_AHEAD_US`)."""
CLOCK_S = 15.0
MAX_FORGED = 5


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked, in one line. `advice` says what to do about it; empty when nothing."""

    check: str
    severity: Severity
    text: str
    advice: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " ".join(self.text.split()))  # SQLite's findings have several


Findings = Iterator[Finding]


def examine(home: Home, *, deep: bool) -> list[Finding]:
    """All findings about a home folder; `deep` also verifies the signature of every held record.

    Blocking: O(size of the databases), some 0.1 ms a record of the chain. Raises `HomeMissing` when there is
    no home.
    """
    home.require_initialised()
    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("key", lambda: _key(home)),
        ("manifest", lambda: _manifest(home)),
        ("chain", lambda: _chain(home)),
        ("databases", lambda: _databases(home)),
        ("disk", lambda: _disk(home)),
        ("settings", lambda: _settings(home)),
        ("daemon", lambda: _daemon(home)),
    ]
    if deep:
        checks.insert(4, ("held records", lambda: _held(home)))
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except (NodeError, StorageError, ChainError, OSError) as error:
            findings.append(Finding(name, Severity.PROBLEM, str(error)))
    return findings


def _ok(check: str, text: str) -> Finding:
    return Finding(check, Severity.OK, text)


def _key(home: Home) -> Findings:
    agent = home.agent(home.key)
    sealed = home.is_sealed()
    mode = stat.S_IMODE(home.key.stat().st_mode)
    yield _ok("key", f"{peer_id(agent)}, {'sealed by a passphrase' if sealed else 'not sealed'}")
    if mode & 0o077:
        yield Finding(
            "key",
            Severity.PROBLEM,
            f"{home.key} can be read by others (mode {mode:o})",
            f"chmod 600 {home.key}",
        )
    if not sealed and not home.recovery_key.exists():
        yield _ok("key", "no recovery key here: keep it safe where it is")


def _manifest(home: Home) -> Findings:
    manifest = _read_manifest(home)
    yield _ok("manifest", f"network {manifest.name!r}, R = {manifest.replication}, rules {manifest.rules}")


def _read_manifest(home: Home) -> Manifest:
    return decode_manifest(home.read_manifest())


def _chain(home: Home) -> Findings:
    home.require_chain()
    try:
        report = verify_chain(records_of(home.chain_db, CHAIN, "seq"), _read_manifest(home).network_id)
    except ChainBrokenError as error:
        yield Finding(
            "chain", Severity.PROBLEM, f"the chain is broken: {error}", "restore the home from a backup"
        )
        return
    if report.author != home.agent(home.key):
        yield Finding(
            "chain",
            Severity.PROBLEM,
            "the chain is not this key's",
            "put the matching key and chain together in one home folder",
        )
        return
    yield _ok("chain", f"{report.length} records verify{', closed' if report.closed else ''}")


def _databases(home: Home) -> Findings:
    files: tuple[tuple[Path, Layout], ...] = (
        (home.chain_db, CHAIN),
        (home.held_db, HELD),
        (home.derived_db, DERIVED),
        (home.learning_db, LEARNING),
    )
    for path, layout in files:
        if not path.exists():
            if path != home.chain_db:
                yield _ok("databases", f"{path.name} is not there yet")
            continue
        try:
            found = soundness(path, layout)
        except StorageError as error:
            yield Finding("databases", Severity.PROBLEM, str(error))
            continue
        if found.faults:
            yield Finding(
                "databases", Severity.PROBLEM, f"{path.name} is damaged: {found.faults[0]}", layout.recovery
            )
        elif found.version > found.newest:
            yield Finding(
                "databases",
                Severity.PROBLEM,
                f"{path.name} has schema {found.version}, this release knows {found.newest}",
                "install the release that wrote it, or a newer one",
            )
        else:
            older = "" if found.version == found.newest else f" ({found.newest} after the next start)"
            yield _ok(
                "databases", f"{path.name} is sound: {_megabytes(found.size)}, schema {found.version}{older}"
            )


def _held(home: Home) -> Findings:
    if not home.held_db.exists():
        return
    count = 0
    for record in forged(records_of(home.held_db, HELD, "id")):
        count += 1
        if count <= MAX_FORGED:
            yield Finding(
                "held records",
                Severity.PROBLEM,
                f"record {record.cid.hex()} is not signed by its author",
                HELD.recovery,
            )
    if not count:
        yield _ok("held records", "every record hashes to its id and is signed by its author")


def _disk(home: Home) -> Findings:
    free = shutil.disk_usage(home.root).free
    used = sum(path.stat().st_size for path in home.root.rglob("*") if path.is_file())
    text = f"{_megabytes(used)} used here, {_megabytes(free)} free"
    if free < LOW_DISK:
        yield Finding("disk", Severity.WARNING, text, "make room: below 256 MB nothing new is held")
    else:
        yield _ok("disk", text)


def _settings(home: Home) -> Findings:
    settings = load_settings(home)
    yield _ok("settings", f"{home.config.name} and the environment are in order")
    if home.locked_by() is None:
        yield from _ports_free(settings)
    for address in settings.bootstrap:
        yield from _reaches("bootstrap", address, "is that peer running, and is its port open?")


def _ports_free(settings: Settings) -> Findings:
    for address in settings.listen:
        host, port = _endpoint(address)
        if port == 0:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                yield Finding(
                    "ports", Severity.PROBLEM, f"{address}: {error.strerror}", "set another port in listen"
                )
            else:
                yield _ok("ports", f"{address} is free")


def _reaches(check: str, address: str, advice: str) -> Findings:
    try:
        with socket.create_connection(_endpoint(address), CONNECT_S):
            yield _ok(check, f"{address} answers")
    except AddressError as error:
        yield Finding(check, Severity.PROBLEM, str(error))
    except OSError as error:
        yield Finding(check, Severity.WARNING, f"{address} does not answer ({error})", advice)


def _endpoint(address: str) -> tuple[str, int]:
    parsed = parse_address(address)
    return parsed.host, parsed.port


def _daemon(home: Home) -> Findings:
    try:
        client = ApiClient(home)
        status = client.get("/v1/status")
    except DaemonNotRunning as error:
        severity = Severity.OK if home.locked_by() is None else Severity.PROBLEM
        yield Finding("daemon", severity, str(error))
        return
    yield _ok("daemon", f"process {client.daemon.pid}, up {status['uptime_s']:.0f} s, {status['rss_mb']} MB")
    if status["read_only"]:
        yield Finding("daemon", Severity.PROBLEM, f"it takes no writes: {status['read_only']}")
    yield from _room(status)
    yield from _shards(status["counters"])
    yield from _listening(client.daemon)
    yield from _peers(status, client)
    yield from _clock(client)


def _room(status: dict[str, object]) -> Findings:
    if status["full"]:
        yield Finding(
            "room",
            Severity.WARNING,
            f"full: {status['store_mb']} MB are held for others",
            "raise store_max_gb, or make room on the disk",
        )
    if status["under_replicated"]:
        yield Finding(
            "copies", Severity.WARNING, f"{status['under_replicated']} groups of records are short of a copy"
        )
    if status["pending"]:
        yield Finding(
            "copies", Severity.WARNING, f"{status['pending']} own records do not have all copies yet"
        )


def _listening(daemon: DaemonInfo) -> Findings:
    if not daemon.addresses:
        yield Finding("ports", Severity.WARNING, "the daemon listens nowhere: it can only dial out")
    for address in daemon.addresses:
        yield from _reaches("ports", address, "peers cannot reach it either")


def _peers(status: dict[str, object], client: ApiClient) -> Findings:
    peers = client.get("/v1/peers")["peers"]
    silent = sum(not peer["responsive"] for peer in peers)
    if not peers:
        yield Finding("peers", Severity.WARNING, "no peers", "give bootstrap addresses to join through")
    elif not status["reachable"]:
        yield Finding("peers", Severity.WARNING, f"{len(peers)} known, none of them connected")
    else:
        yield _ok("peers", f"{len(peers)} known, {silent} of them silent")


def _shards(counters: dict[str, int]) -> Findings:
    text = f"{counters.get('shards', 0)} in the network"
    if waiting := counters.get("shard_decisions_waiting", 0):
        yield Finding(
            "shards",
            Severity.WARNING,
            f"{text}; {waiting} were decided to be divided or joined by somebody who is not known here",
            "nothing, unless it stays so: the holders of these shards are asked for their word",
        )
    elif asked := counters.get("former_shards_asked", 0):
        yield _ok("shards", f"{text}, {asked} former ones are still asked while postings move")
    else:
        yield _ok("shards", text)


def _clock(client: ApiClient) -> Findings:
    try:
        skew = client.get("/v1/clock", CLOCK_S)
    except ApiError as error:
        yield Finding("clock", Severity.WARNING, str(error))
        return
    if skew["ahead_s"] is None:
        yield _ok("clock", "no peer to compare the clock with")
        return
    ahead = -skew["ahead_s"]
    text = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} the median of {skew['peers']} peers"
    if abs(ahead) < SKEW_WARNING_S:
        yield _ok("clock", text)
        return
    severity = Severity.PROBLEM if ahead > SKEW_PROBLEM_S else Severity.WARNING
    yield Finding("clock", severity, text, "set this machine's clock (NTP), if it is the one that is wrong")


def _megabytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB"
