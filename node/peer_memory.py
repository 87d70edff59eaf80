"""The peers that a node remembers between runs: their multiaddrs, one a line, newest list only.

A bootstrap node may be gone when this one returns; any peer of old lets it in again. The file is a hint: what
it names has to prove itself like anybody else, so a damaged line is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from node.home import write_atomically

MAX_PEERS = 64
MAX_FILE = 64 * 1024


def read_peers(path: Path) -> list[str]:
    """The remembered multiaddrs; empty when there is no readable file."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE).decode("ascii", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.startswith("/") and "/p2p/" in line][:MAX_PEERS]


def write_peers(path: Path, addresses: Sequence[str]) -> None:
    """Replace the file; raises `HomeError` when it cannot be written."""
    write_atomically(path, "".join(f"{address}\n" for address in addresses[:MAX_PEERS]).encode("ascii"))
