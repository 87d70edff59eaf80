"""Which instance of a home folder this is: the one that wrote it last, or a copy that must not write.

A chain forks when two homes with one key write on: a backup that was restored while the original lives, or a
folder that was copied. The file `instance` therefore notes where its home lies (the inode of chain.db, a
hash of the machine's id) and how long the chain was when the node last started or stopped. A home that does
not fit its note, or whose note says that it was restored, reads and holds as always but appends nothing to
its chain, until the holders of its activity confirm its head (`node.head_guard`) or its owner says with `run
--force` that this one goes on.

Noticed here: a restored backup, a folder that was copied or moved to another file system, one on another
machine, a chain.db that was put back to an older state. Not noticed here: an image of a whole disk or virtual
machine that keeps machine id and inodes, and the first start of a home that an earlier release wrote; the
guard notices these once holders are asked.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from node.durable_files import MAX_SMALL_FILE, read_bounded, write_atomically
from node.errors import HomeDamaged
from node.home import Home

FORMAT: Final = 1
MACHINE_IDS: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
FROM_NETWORK: Final = "the network"
"""What the note of a home says whose chain is to come back from the network."""
FORCE: Final = (
    "if no other copy of it runs or will run, and nothing newer was written elsewhere, "
    "let this one go on with roseforest run --force"
)


def claim(home: Home, records: int) -> None:
    """Note that the home as it lies here is the one that writes; `records` is its chain's length."""
    _write(home, {"inode": home.chain_db.stat().st_ino, "machine": machine(), "records": records})


def restored_mark(made: str) -> bytes:
    """The note of a home that comes out of a backup; `made` says when that was taken."""
    return _encode({"restored": made})


def why_frozen(home: Home, records: int) -> str | None:
    """Why this home must not append to its chain of `records` records, or None.

    A home without a note counts as the one that writes. Raises `HomeDamaged` for a note that is none.
    """
    if not home.instance.exists():
        return None
    note = _read(home)
    if note.get("restored") == FROM_NETWORK:
        return "this home was restored from its key"
    if "restored" in note:
        return f"this home was restored from a backup of {note['restored']}"
    if note["inode"] != home.chain_db.stat().st_ino:
        return "this home is a copy, or was moved to another file system"
    here = machine()
    if None not in (here, note["machine"]) and note["machine"] != here:
        return "this home was last used on another machine"
    if records < note["records"]:
        return f"the chain had {note['records']} records here and now has {records}"
    return None


def machine() -> str | None:
    """What tells this machine from others, not reversible; None where there is no machine id."""
    for path in MACHINE_IDS:
        try:
            text = path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            return sha256(b"roseforest/machine/1\0" + text.encode()).hexdigest()[:32]
    return None


def _read(home: Home) -> dict[str, Any]:
    data = read_bounded(home.instance, MAX_SMALL_FILE, "start the node with roseforest run --force")
    try:
        note = json.loads(data)
        if note["format"] != FORMAT:
            raise ValueError(f"format {note['format']!r:.20}")
        kinds: dict[str, tuple[type, ...]] = (
            {"restored": (str,)}
            if "restored" in note
            else {"inode": (int,), "machine": (str, type(None)), "records": (int,)}
        )
        for key, types in kinds.items():
            if type(note[key]) not in types:
                raise ValueError(f"{key} {note[key]!r:.40}")
    except (ValueError, KeyError, TypeError) as error:
        raise HomeDamaged(
            f"{home.instance} is damaged ({error}), so this may be a copy of the home: {FORCE}"
        ) from error
    return dict(note)


def _write(home: Home, note: dict[str, Any]) -> None:
    write_atomically(home.instance, _encode(note))


def _encode(note: dict[str, Any]) -> bytes:
    return (json.dumps({"format": FORMAT, **note}) + "\n").encode()
