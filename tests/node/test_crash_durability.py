"""What was acknowledged is on disk: kill the writer, throw away what was not synced, open, and look.

The writer runs on `lossy_disk.c`, which keeps beside each file what a power cut would leave of it. After
SIGKILL the files are put back to that, once as it is (nothing unsynced survives) and several times with every
512-byte sector drawn from either the synced or the newest content (a disk writes back in any order). The
stores run with the settings that they ship with, so lowering `synchronous` there fails these tests. That the
same crash loses writes when it is lowered has tests of its own, or the others would prove nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import trio

from chain.cid import digest
from chain.identity import Identity
from chain.kinds import CREATE
from chain.source_chain import Draft
from dht.ports import SystemClock, ThreadedBlocking, system_random
from node.storage.errors import DatabaseCorrupt
from node.storage.held_records import HeldRecords
from node.storage.own_chain import OwnChain
from tests.node.storage_crash_child import AS_SHIPPED, IDENTITY, NETWORK

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WRITERS = 24
SECTOR = 512
Survival = Literal["nothing unsynced", "random sectors"]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "lossy_disk.so"
    source = HERE / "lossy_disk.c"
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True
    )
    return library


@dataclass(frozen=True)
class Crash:
    """What a killed writer left: its folder, the shadows, and the acknowledgements it had printed."""

    folder: Path
    shadow: Path
    acknowledged: list[str]

    def power_cut(self, into: Path, survival: Survival, seed: int) -> Path:
        """The folder as the disk would have it, in `into`."""
        chance = random.Random(seed)
        into.mkdir()
        listing = self.shadow / "names"
        for name in listing.read_text().split() if listing.exists() else []:
            if name.endswith("-shm"):
                continue  # shared memory: never synced, rebuilt at the next opening
            shadow, newest = self.shadow / f"{name}.data", self.folder / name
            content = shadow.read_bytes() if shadow.exists() else b""
            if survival == "random sectors" and newest.exists():
                content = _mixed(content, newest.read_bytes(), chance)
            (into / name).write_bytes(content)
        return into


def _mixed(synced: bytes, newest: bytes, chance: random.Random) -> bytes:
    size = chance.choice((len(synced), max(len(synced), len(newest))))
    sectors = []
    for start in range(0, size, SECTOR):
        end = min(start + SECTOR, size)
        source = chance.choice((synced, newest))
        sectors.append(source[start:end].ljust(end - start, b"\0"))
    return b"".join(sectors)


def _crash(shim: Path, work: Path, store: str, synchronous: str, acknowledgements: int) -> Crash:
    folder, shadow = work / "disk", work / "shadow"
    folder.mkdir(parents=True)
    shadow.mkdir()
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "LOSSY_FOLDER": str(folder.resolve()),
        "LOSSY_SHADOW": str(shadow.resolve()),
        "PYTHONPATH": str(ROOT),
    }
    script = str(HERE / "storage_crash_child.py")
    command = [sys.executable, script, store, str(folder.resolve() / "a.db"), synchronous, str(WRITERS)]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            if len(lines) == acknowledgements:
                # whatever it is doing now: gathering, signing, writing the log, checkpointing
                child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL, "the writer ended by itself"
    assert len(lines) >= acknowledgements
    return Crash(folder, shadow, [line.rstrip("\n") for line in lines if line.endswith("\n")])


def _open_chain(path: Path) -> OwnChain:
    return OwnChain(path, IDENTITY, NETWORK, NETWORK, SystemClock(), system_random(), ThreadedBlocking(1))


def _survivals(crash: Crash, work: Path, seed: int) -> Iterator[Path]:
    yield crash.power_cut(work / "synced", "nothing unsynced", seed)
    for number in range(3):
        yield crash.power_cut(work / f"sectors{number}", "random sectors", seed + number)
    killed = work / "killed"  # no power cut: the system lives on and has every write
    shutil.copytree(crash.folder, killed)
    yield killed


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])  # 1,578, 551 and 232 acknowledgements, or a few more
def test_every_acknowledged_append_survives_a_crash(shim: Path, tmp_path: Path, seed: int) -> None:
    crash = _crash(shim, tmp_path, "chain", AS_SHIPPED, random.Random(seed).randrange(1, 2_200))
    for folder in _survivals(crash, tmp_path, seed):
        chain = _open_chain(folder / "a.db")
        report = chain.verify()
        assert report.length == chain.count() >= 3 + len(crash.acknowledged)
        assert chain.count_below(1) == report.length
        for line in crash.acknowledged:
            cid, key = line.split()
            record = chain.get(bytes.fromhex(cid))
            assert record is not None, f"lost {key}"
            assert record.payload is not None
        chain.close()


@pytest.mark.slow
async def test_after_a_crash_keys_still_name_their_records(shim: Path, tmp_path: Path) -> None:
    crash = _crash(shim, tmp_path, "chain", AS_SHIPPED, 300)
    chain = _open_chain(crash.power_cut(tmp_path / "after", "nothing unsynced", 0) / "a.db")
    cids, keys = zip(*(line.split() for line in crash.acknowledged), strict=True)
    async with trio.open_nursery() as running:
        await running.start(chain.run)
        again = await chain.append(
            [Draft(CREATE, {"text": "again"})] * len(keys), [key.encode() for key in keys]
        )
        await chain.aclose()
    assert again == [(bytes.fromhex(cid), False) for cid in cids]


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_without_syncing_the_same_crash_loses_appends(shim: Path, tmp_path: Path, synchronous: str) -> None:
    crash = _crash(shim, tmp_path, "chain", synchronous, 400)
    chain = _open_chain(crash.power_cut(tmp_path / "synced", "nothing unsynced", 0) / "a.db")
    lost = [line for line in crash.acknowledged if chain.get(bytes.fromhex(line.split()[0])) is None]
    chain.close()
    assert lost, f"synchronous={synchronous} lost nothing, so this test cannot tell"


@pytest.mark.slow
def test_every_record_held_survives_a_crash(shim: Path, tmp_path: Path) -> None:
    crash = _crash(shim, tmp_path, "held", AS_SHIPPED, random.Random(7).randrange(500, 2_500))
    for folder in _survivals(crash, tmp_path, 7):
        held = HeldRecords(folder / "a.db", ThreadedBlocking(1))
        cids = [bytes.fromhex(line) for line in crash.acknowledged]
        for cid, record in zip(cids, held.get_many(cids), strict=True):
            assert record is not None, f"lost {cid.hex()}"
            assert record.payload is not None
            assert held.digest_of(digest(cid)) == (1, digest(cid))
        for writer in range(WRITERS):
            author = Identity.from_seed(bytes([writer]) * 32).agent
            headers = held.of_author(author)
            assert [record.header.seq for record in headers] == list(range(len(headers)))
            total = sum(int.from_bytes(digest(record.cid), "big") for record in headers) % (1 << 256)
            assert held.digest_of(author) == (len(headers), total.to_bytes(32, "big"))
        held.close()


@pytest.mark.slow
@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_without_syncing_held_records_are_lost(shim: Path, tmp_path: Path, synchronous: str) -> None:
    crash = _crash(shim, tmp_path, "held", synchronous, 400)
    held = HeldRecords(
        crash.power_cut(tmp_path / "synced", "nothing unsynced", 0) / "a.db", ThreadedBlocking(1)
    )
    cids = [bytes.fromhex(line) for line in crash.acknowledged]
    missing = len(cids) - len(held.has(cids))
    held.close()
    assert missing, f"synchronous={synchronous} lost nothing, so this test cannot tell"


def test_a_log_without_its_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db-wal").write_bytes(b"what is left of a chain")
    with pytest.raises(DatabaseCorrupt, match="missing"):
        _open_chain(tmp_path / "a.db")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.db-wal"]
