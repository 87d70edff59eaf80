"""Shamir's secret sharing (1979): any t of n shares give the secret, fewer than t say nothing about it.

The secret is the value at 0 of a polynomial of degree t - 1 over the integers modulo the Mersenne prime
2**521 - 1, whose other coefficients are uniform; share i is the value at i, for i = 1 … n. For every secret
there is exactly one polynomial through any t - 1 shares, so those are equally likely for all secrets.
Arithmetic is Python's, whose time depends on its operands: whoever can time this process to the nanosecond is
not kept out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

PRIME: Final = (1 << 521) - 1
SECRET_SIZE: Final = 32
SHARE_SIZE: Final = 66
MAX_SHARES: Final = 255


def split(secret: bytes, threshold: int, count: int, random_bytes: Callable[[int], bytes]) -> list[bytes]:
    """`count` shares of 66 bytes, of which `threshold` give the 32 bytes of `secret`; number i is [i - 1]."""
    if len(secret) != SECRET_SIZE:
        raise ValueError(f"a secret has {SECRET_SIZE} bytes, not {len(secret)}")
    if not 1 <= threshold <= count <= MAX_SHARES:
        raise ValueError(f"{threshold} of {count} shares is outside 1 … {MAX_SHARES}")
    # 16 bytes more than the prime has: what is left of uniformity after the remainder is below 2**-120.
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [
        int.from_bytes(random_bytes(SHARE_SIZE + 16), "big") % PRIME for _ in range(threshold - 1)
    ]
    return [_value(coefficients, place).to_bytes(SHARE_SIZE, "big") for place in range(1, count + 1)]


def join(shares: Mapping[int, bytes]) -> bytes | None:
    """The secret of as many shares (by number) as the threshold says; None when they are no such shares.

    Shares that were changed give another secret, or none: check what comes out. O(n²).
    """
    points = {place: int.from_bytes(share, "big") for place, share in shares.items()}
    total = 0
    for place, value in points.items():
        over, under = 1, 1
        for other in points:
            if other != place:
                over = over * other % PRIME
                under = under * (other - place) % PRIME
        total = (total + value * over * pow(under, -1, PRIME)) % PRIME
    return total.to_bytes(SECRET_SIZE, "big") if total < 1 << 8 * SECRET_SIZE else None


def _value(coefficients: list[int], place: int) -> int:
    """Horner's rule."""
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * place + coefficient) % PRIME
    return total
