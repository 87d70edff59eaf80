"""Unpredictable words: ChaCha20 (RFC 8439) under a key that is used for nothing else, as 64-bit integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words: TypeAlias = NDArray[np.uint64]

KEY_SIZE: Final = 32


def keystream(key: bytes) -> Callable[[int], Words]:
    """ChaCha20 under `key` from its start, as a function from a number of 64-bit words to the next ones.

    `key` has 32 bytes. A gigabyte takes about a second; the stream has 2**38 bytes.
    """
    import numpy as np

    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return lambda words: np.frombuffer(encryptor.update(bytes(8 * words)), "<u8")
