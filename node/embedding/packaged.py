"""Data files that ship with the package: the built-in embedder's table and its atlas.

They are read through `importlib.resources`, so they are found however the package was installed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from node.embedding.errors import DamagedData

ATLAS_FILE = "atlas.bin"


def packaged_path(name: str) -> AbstractContextManager[Path]:
    """A real path of data file ``name``, valid inside the ``with`` block."""
    return resources.as_file(_data() / name)


def packaged_text(name: str) -> str:
    """Data file ``name`` as UTF-8 text, its line ends untouched. Raises OSError if it is missing."""
    return (_data() / name).read_bytes().decode("utf-8")


def packaged_atlas() -> bytes:
    """The encoded atlas of the built-in embedder's space, about 1.1 MB.

    Raises `DamagedData` if it is missing. Whoever uses it compares its CID with the manifest's.
    """
    try:
        return (_data() / ATLAS_FILE).read_bytes()
    except OSError as error:
        raise DamagedData(f"the packaged atlas cannot be read ({error}); install roseforest again") from error


def _data() -> Traversable:
    return resources.files("node.embedding") / "data"
