"""Sketches: two bits a dimension that say nearly where a vector lies, small enough for everybody to hold.

RaBitQ (Gao and Long, SIGMOD 2024; more bits: Gao et al., SIGMOD 2025): a vector is turned by a random
rotation, which spreads what it says evenly over its components, then of each component only the nearest of a
few levels is kept, and one number that undoes the shortening. The inner product with any question is then
estimated without bias, with an error of about .35 / sqrt(dim) at two bits. Four levels, ±1 and ±3: with 256
dimensions one bit is too coarse to route by (measured in docs/sharding.md).

A sketch is a pure function of (seed, code), in integers and in single IEEE operations whose results are
fixed, so whoever has a signed vector can say bit by bit what its sketch has to be, and a holder that shows
another one has lied. The rotation is made of random signs, Walsh-Hadamard transforms over the first and the
last 2**j components, and butterflies between the halves where the dimension is no power of two; the seed is
the atlas's CID, so nobody chooses vectors against it before the epoch stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import shake_256

import numpy as np
from numpy.typing import NDArray

from chain.vector import CODE_LIMIT, MAX_DIM
from sharding.errors import SketchError

ROUNDS = 4
"""Of signs and transforms; three already mix 256 components as well as a full rotation does."""

FRACTION_BITS = 22
SCALE_BITS = 20
"""Bits behind the point of a component, and of a factor. An int8 vector of 4,096 components is shorter than
2**13: its components stay below 2**35, transformed below 2**41, and times a factor below 2**61."""

MAGNITUDE_BITS = 16
"""What is kept of the largest component when levels are chosen: sums of 4,096 stay below 2**30."""

COSINE_STEPS = 255
ROWS_AT_ONCE = 256
"""Codes sketched at a time: what they need stays in the processor's cache."""

TAG = b"roseforest/sketch/1\0"

_PAIR = np.array([[1.0, 1.0], [1.0, -1.0]])
_HADAMARD = np.kron(np.kron(_PAIR, _PAIR), np.kron(_PAIR, _PAIR))

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1).sum(axis=1, dtype=np.uint8)
"""Bits that are 1 in each byte."""

_NIBBLES = np.unpackbits(np.arange(16, dtype=np.uint8)[:, np.newaxis], axis=1)[:, 4:].astype(np.float32)
_FOURS = ((1 - 2 * _NIBBLES)[:, np.newaxis] * (1 + 2 * _NIBBLES)[np.newaxis]).reshape(256, 4)
"""The levels of four components, by their signs (high half of a byte) and sizes (low half)."""


def sketch_bytes(dim: int) -> int:
    """Length of a sketch: a plane of signs, a plane of sizes, and a byte for the cosine. 65 at 256."""
    return 2 * ((dim + 7) // 8) + 1


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation of vectors of `dim` components, drawn from `seed` (bytes, such as an atlas's CID).

    Raises `SketchError` for a dimension outside 1..4,096.
    """

    seed: bytes
    dim: int
    _signs: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= MAX_DIM:
            raise SketchError(f"{self.dim} dimensions: a sketch has 1 to {MAX_DIM}")
        drawn = shake_256(TAG + self.seed).digest(ROUNDS * ((self.dim + 7) // 8))
        bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).reshape(ROUNDS, -1)[:, : self.dim]
        signs = 1 - 2 * bits.astype(np.int64)
        signs.setflags(write=False)
        object.__setattr__(self, "_signs", signs)

    def turn(self, codes: NDArray[np.int8]) -> NDArray[np.int64]:
        """Codes of shape (n, dim), turned: as long as before but for rounding, with 22 bits behind the point.

        Exact in integers, so equal everywhere. Raises `SketchError` for another shape or type. Cost
        O(n * dim * log(dim)).
        """
        turned = self._checked(codes).astype(np.int64) << FRACTION_BITS
        window = 1 << (self.dim.bit_length() - 1)
        shrink = round((1 << SCALE_BITS) / window**0.5)
        for number, signs in enumerate(self._signs):
            turned *= signs
            part = turned[:, :window] if number % 2 == 0 else turned[:, self.dim - window :]
            part[:] = _transform(part) * shrink >> SCALE_BITS
            if window != self.dim:
                _butterfly(turned, self.dim // 2)
        return turned

    def _checked(self, codes: NDArray[np.int8]) -> NDArray[np.int8]:
        if codes.dtype != np.int8 or codes.ndim != 2 or codes.shape[1] != self.dim:
            raise SketchError(f"codes are {codes.dtype} {codes.shape}: pass int8 of shape (n, {self.dim})")
        if codes.size and int(codes.min()) < -CODE_LIMIT:
            raise SketchError(f"a code holds {int(codes.min())}: codes lie in -{CODE_LIMIT}..{CODE_LIMIT}")
        return codes


@dataclass(frozen=True, slots=True, eq=False)
class Sketches:
    """Many sketches, ready to be compared with questions.

    `fours` is uint8 of shape (dim / 4 rounded up, n): of four dimensions at a time the signs, and in the low
    half of the byte the sizes. `factors` float32 of shape (n,): what a product of levels and a turned
    question of length 1 is multiplied with to estimate the cosine. 68 bytes a sketch of 256 dimensions.
    """

    dim: int
    fours: NDArray[np.uint8]
    factors: NDArray[np.float32]

    @classmethod
    def decode(cls, data: bytes, dim: int) -> Sketches:
        """The sketches that follow one another in `data`. Raises `SketchError` unless it holds whole ones."""
        size = sketch_bytes(dim)
        if len(data) % size:
            raise SketchError(f"{len(data)} bytes are no row of sketches: {size} bytes each")
        rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
        plane = (dim + 7) // 8
        signs, sizes = rows[:, :plane], rows[:, plane:-1]
        if dim % 8 and ((signs[:, -1] | sizes[:, -1]) & (0xFF >> dim % 8)).any():
            raise SketchError("a sketch has bits beyond its dimensions")
        if not rows[:, -1].all():
            raise SketchError("a sketch stands at right angles to its own vector")
        cosines = rows[:, -1].astype(np.float32) / COSINE_STEPS
        lengths = np.sqrt(dim + 8 * _BITS[sizes].sum(axis=1, dtype=np.int64)).astype(np.float32)
        fours = np.empty((2 * plane, len(rows)), dtype=np.uint8)
        fours[0::2] = (signs & 0xF0 | sizes >> 4).T
        fours[1::2] = (signs << 4 | sizes & 0x0F).T
        return cls(dim, fours[: (dim + 3) // 4], 1 / (cosines * lengths))

    def __len__(self) -> int:
        return len(self.factors)

    @property
    def levels(self) -> NDArray[np.int8]:
        """What is kept of each component, ±1 or ±3; int8 of shape (n, dim), made anew."""
        levels: NDArray[np.int8] = _FOURS[self.fours.T].reshape(len(self), -1)[:, : self.dim].astype(np.int8)
        return levels

    def cosines(self, rotation: Rotation, question: NDArray[np.int8]) -> NDArray[np.float32]:
        """Estimated cosine of each sketched vector to a question's code of shape (dim,); float32 (n,).

        Unbiased, with a standard error of about .35 / sqrt(dim). Of four dimensions at a time the product is
        looked up in a table of 256. Cost O(n * dim / 4). Raises `SketchError`.
        """
        turned = _turned(rotation, question)
        padded = np.zeros(4 * len(self.fours), dtype=np.float32)
        padded[: self.dim] = turned / np.sqrt(turned @ turned)
        tables = padded.reshape(-1, 4) @ _FOURS.T
        estimates = np.zeros(len(self), dtype=np.float32)
        for table, four in zip(tables, self.fours, strict=True):
            estimates += table.take(four)
        return estimates * self.factors


def _turned(rotation: Rotation, question: NDArray[np.int8]) -> NDArray[np.float64]:
    turned: NDArray[np.float64] = rotation.turn(question[np.newaxis])[0].astype(np.float64)
    if not turned.any():
        raise SketchError("the question is zero: it has no direction")
    return turned


def sketches(rotation: Rotation, codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The sketch of each code: uint8 of shape (n, `sketch_bytes(dim)`), the same on every machine.

    The large components are those that bring the levels nearest to the vector: with the components by size,
    the first m are 3 and the others 1, for the m of greatest cosine. Raises `SketchError`. Cost
    O(n * dim * log(dim)).
    """
    zero = np.flatnonzero(~codes.any(axis=1))
    if zero.size:
        raise SketchError(f"code {int(zero[0])} is zero: it has no direction")
    blocks = [
        _block(rotation, codes[begin : begin + ROWS_AT_ONCE]) for begin in range(0, len(codes), ROWS_AT_ONCE)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, sketch_bytes(rotation.dim)), dtype=np.uint8)


def restored(rotation: Rotation, sketched: Sketches) -> NDArray[np.int8]:
    """Codes that point where the sketches say, int8 of shape (n, dim): to a cosine of .94 on average.

    In floating point, so not the same on every machine: what is made of them has to be named by its bytes.
    Cost O(n * dim**2). Raises `SketchError`.
    """
    axes = rotation.turn(np.eye(rotation.dim, dtype=np.int8) * np.int8(CODE_LIMIT)).astype(np.float32)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)  # row i is where component i is turned to
    back = sketched.levels.astype(np.float32) @ axes.T
    peaks = np.abs(back).max(axis=1, keepdims=True)
    codes: NDArray[np.int8] = np.rint(back / peaks * CODE_LIMIT).astype(np.int8)
    return codes


def _block(rotation: Rotation, codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    turned = rotation.turn(codes)
    sizes = np.abs(turned)
    largest = sizes.max(axis=1)
    # Each vector by itself to 16 bits: a cosine does not hang on length.
    excess = np.maximum(np.array([int(one).bit_length() for one in largest]) - MAGNITUDE_BITS, 0)
    sizes >>= excess[:, np.newaxis]
    # Of 16 bits a stable sort goes by counting.
    by_size = np.argsort((0xFFFF - sizes).astype(np.uint16), axis=1, kind="stable")
    falling = np.take_along_axis(sizes, by_size, axis=1)
    products = np.cumsum(falling, axis=1) * 2 + falling.sum(axis=1, keepdims=True)  # with m = 1, 2, …
    squares = rotation.dim + 8 * np.arange(1, rotation.dim + 1, dtype=np.int64)
    # Single IEEE operations on exact integers: the same quotients, and so the same m, everywhere.
    wide = products.astype(np.float64)
    fits = wide * wide / squares.astype(np.float64)
    counts = fits.argmax(axis=1) + 1  # argmax returns the first of equals
    large = np.zeros(sizes.shape, dtype=np.uint8)
    np.put_along_axis(large, by_size, np.arange(rotation.dim)[np.newaxis] < counts[:, np.newaxis], axis=1)
    best = np.take_along_axis(fits, counts[:, np.newaxis] - 1, axis=1)[:, 0]
    lengths = np.einsum("nd,nd->n", sizes, sizes)
    cosines = np.sqrt(best / lengths.astype(np.float64)) * COSINE_STEPS
    planes = [np.packbits(turned < 0, axis=1), np.packbits(large, axis=1)]
    byte = np.clip(np.floor(cosines + 0.5), 1, COSINE_STEPS).astype(np.uint8)
    return np.concatenate([*planes, byte[:, np.newaxis]], axis=1)


def _transform(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The Walsh-Hadamard transform of each row, not scaled; rows have 2**j columns.

    Sixteen components at a time by matrix products, in doubles: all sums are integers below 2**53, so exact.
    """
    width = rows.shape[1]
    wide = rows.astype(np.float64)
    step = 1
    while step < width:
        signs = _HADAMARD[: width // step, : width // step]  # that of 2**j stands in the corner of all larger
        parts = wide.reshape(-1, len(signs), step)
        wide = parts[:, :, 0] @ signs if step == 1 else signs @ parts
        step *= len(signs)
    return wide.reshape(-1, width).astype(np.int64)


def _butterfly(rows: NDArray[np.int64], half: int) -> None:
    """Each component of the first half with its fellow of the last half: sum and difference, over sqrt(2)."""
    shrink = round((1 << SCALE_BITS) / 2**0.5)
    left, right = rows[:, :half], rows[:, -half:]
    total = (left + right) * shrink >> SCALE_BITS
    right[:] = (left - right) * shrink >> SCALE_BITS
    left[:] = total
