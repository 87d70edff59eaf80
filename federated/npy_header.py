"""The header of an NPY stream, read before anything is allocated for what it promises.

NPY (NumPy's documented format) begins with a magic, a version and the length of a line of text that describes
the array. NumPy reads that line as Python; here it is matched against the one form in which NumPy writes it
for an array of plain numbers. So nothing is evaluated, nothing is unpickled, and no header is longer than
`MAX_HEADER`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4}
"""By version: how many bytes the length of the text has."""
MAX_HEADER = 4096
"""Bytes of magic, version, length and text together."""

_TEXT = re.compile(
    rb"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,12}, ?)*(?:\d{1,12})?)\), \} *\n"
)


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a header says: NumPy's name of the dtype, the shape, the order, and where the elements begin.

    `offset` is where its text ends, `stated` where its length field says so: in a sound stream the same.
    """

    dtype: str
    fortran: bool
    shape: tuple[int, ...]
    offset: int
    stated: int


def read_header(start: bytes) -> NpyHeader | None:
    """The header with which `start` begins, `MAX_HEADER` bytes or the whole; None for anything else."""
    version = start[len(MAGIC) : len(MAGIC) + 2]
    if not start.startswith(MAGIC) or version not in LENGTH_BYTES:
        return None
    begin = len(MAGIC) + 2 + LENGTH_BYTES[version]
    stated = begin + int.from_bytes(start[len(MAGIC) + 2 : begin], "little")
    match = _TEXT.match(start, begin)
    if match is None or match.end() > MAX_HEADER:
        return None
    shape = tuple(int(part) for part in match[3].replace(b" ", b"").split(b",") if part)
    return NpyHeader(match[1].decode("latin-1"), match[2] == b"True", shape, match.end(), stated)
