"""Errors of the `chain` floor: one small tree, so that an edge can turn any of them into one line.

Everything here is about bytes that are not what they claim to be. `EncodingError` covers the codec,
`CidError` identifiers, `IdentityError` keys, and `RecordError` the structures built of them. A caller that
reads from a peer or a disk catches `ChainError`; nothing else is raised on hostile input.
"""


class ChainError(ValueError):
    """Base of every error that bad bytes or bad values can raise on this floor."""


class EncodingError(ChainError):
    """A value has no canonical encoding, or bytes are not one."""


class NonCanonicalError(EncodingError):
    """The bytes decode, but are not the one canonical encoding of what they decode to."""


class TruncatedError(EncodingError):
    """The bytes end before the value does."""


class OversizedError(EncodingError):
    """The bytes, or a part of them, exceed a limit; nothing was allocated for them."""


class CidError(ChainError):
    """An identifier is not one of the CID forms that the network uses."""


class IdentityError(ChainError):
    """A key, agent id or its text form is malformed."""


class SignatureError(ChainError):
    """A signature does not verify."""


class MembraneError(ChainError):
    """What an agent shows to be let into a network does not let it in."""


class RecordError(ChainError):
    """A header, record, payload, manifest, epoch or statement has the wrong shape."""


class ChainBrokenError(ChainError):
    """A source chain does not verify; `seq` is the first position that is wrong."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"source chain is broken at seq {seq}: {reason}")
        self.seq = seq
        self.reason = reason


class ChainForkedError(ChainError):
    """An author signed two records for one place of its chain; `seq` is the first such place."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"source chain is forked: two different records are signed for seq {seq}")
        self.seq = seq
