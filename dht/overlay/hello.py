"""Hello: the one method open to strangers, which gives them what a network is made of.

Who wants to join knows an address and nothing else. `hello` serves the manifest, whose hash is the network
id, the records that publish later epochs, and the atlas in chunks; all of it is checked against hashes and
signatures, so that the one who serves it need not be trusted: it can refuse, or present another network, and
nothing else. Sizes are checked before anything is allocated for them, and the atlas is not fetched when the
installed package brings the same.

Questions are canonical arrays, answered so:

    ["manifest"]      [manifest bytes, number of epoch records, size of the atlas or nil]
    ["epoch", i]      [record bytes]
    ["atlas", i]      [the i-th chunk of `ATLAS_CHUNK` bytes]
    ["atlas", i, CID] [the same of the atlas with this CID: an earlier one, or one that is proposed]
    ["redeem", secret]  [statements]: the asker's proof, for the secret of an invite link of this node
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from chain import canonical
from chain.cid import Cid, blob_cid, is_blob_cid, to_text
from chain.epoch import epoch_from_body
from chain.errors import ChainError, EncodingError
from chain.invitation import MAX_PROOF, MAX_PROOF_STATEMENT, check_proof_shape
from chain.kinds import EPOCH
from chain.manifest import MAX_MANIFEST, Manifest, decode_manifest
from chain.record import decode_payload, decode_record, verify_signature
from dht.errors import DhtError, RefusalCode, RequestRefused
from dht.network import MAX_BODY, Network, PeerId

HELLO = "hello"
REDEEM = "redeem"
ATLAS_CHUNK = 256 * 1024
"""Bytes of atlas in one answer."""
MAX_ATLAS = 64 << 20
"""Largest atlas in bytes."""
MAX_EPOCHS = 1024
"""Epoch records of one network."""
MAX_EPOCH_RECORD = 256 * 1024
"""Bytes of one epoch record."""
MAX_SECONDS = 300.0
"""Longest that a stranger may keep us listening."""
_MAX_QUESTION = 64
_SLACK = 64


class HelloError(DhtError):
    """What a peer serves as the founding of its network is not one."""


class MalformedHelloError(HelloError):
    """An answer has the wrong shape or size."""


class SlowHelloError(HelloError):
    """The peer answers every question in time, and yet comes to no end."""


class UnexpectedNetworkError(HelloError):
    """The peer belongs to another network than the one that was asked for."""


class ForgedEpochError(HelloError):
    """An epoch record is not signed as the manifest asks, or does not follow the one before."""


class WrongAtlasError(HelloError):
    """The atlas does not hash to the CID that manifest and epochs name, or is not served at all."""


@dataclass(frozen=True, slots=True)
class Founding:
    """What a node must know before it enters a network: constitution, its changes in order, and the atlas."""

    manifest: Manifest
    manifest_bytes: bytes
    epochs: tuple[bytes, ...]
    atlas_bytes: bytes | None


class HelloServer:
    """Answers `hello` on `network` from the moment it is made. O(chunk) a question."""

    def __init__(
        self,
        network: Network,
        manifest_bytes: bytes,
        epochs: Sequence[bytes],
        atlas_bytes: bytes | None,
        redeem: Callable[[PeerId, bytes], Awaitable[Sequence[bytes]]] | None = None,
    ) -> None:
        self._manifest = manifest_bytes
        self._epochs = tuple(epochs)
        self._atlas = atlas_bytes
        self._redeem = redeem
        self.atlas_of: Callable[[Cid], Awaitable[bytes | None]] = _none
        """The bytes of an atlas that is here."""
        network.register(HELLO, self._answer)

    def update(self, epochs: Sequence[bytes], atlas_bytes: bytes | None) -> None:
        """Serve these epoch records, in order, and the newest one's atlas from now on."""
        self._epochs = tuple(epochs)
        self._atlas = atlas_bytes

    async def _answer(self, sender: PeerId, body: bytes) -> bytes:
        match _question(body):
            case ["manifest"]:
                size = None if self._atlas is None else len(self._atlas)
                return canonical.encode([self._manifest, len(self._epochs), size])
            case ["epoch", int(index)] if 0 <= index < len(self._epochs):
                return canonical.encode([self._epochs[index]])
            case ["atlas", int(index)] if self._atlas is not None and 0 <= index * ATLAS_CHUNK < len(
                self._atlas
            ):
                return canonical.encode([self._atlas[index * ATLAS_CHUNK : (index + 1) * ATLAS_CHUNK]])
            case ["atlas", int(index), bytes(cid)] if is_blob_cid(cid) and index >= 0:
                atlas = await self.atlas_of(cid)
                if atlas is None:
                    raise RequestRefused(RefusalCode.BAD_REQUEST, f"no atlas {to_text(cid)} is here")
                return canonical.encode([atlas[index * ATLAS_CHUNK : (index + 1) * ATLAS_CHUNK]])
            case ["redeem", bytes(secret)] if self._redeem is not None:
                return canonical.encode([list(await self._redeem(sender, secret))])
            case question:
                raise RequestRefused(RefusalCode.BAD_REQUEST, f"nothing to tell for {question!r:.60}")


async def _none(_cid: Cid) -> None:
    """Where no other atlas is kept."""


async def fetch_founding(
    network: Network,
    address: str,
    packaged: Callable[[Cid], bytes | None],
    timeout: float,
    *,
    network_id: Cid | None = None,
) -> Founding:
    """Learn from the node at `address` what its network is. `timeout` in seconds for every single question.

    `packaged` returns the bytes of an atlas that the installation has, by CID; what it returns is checked
    too. With `network_id` only that network is accepted. Raises `HelloError` for a peer that serves what does
    not hold, or takes over `MAX_SECONDS` in all, and what `Network.dial` and `Network.request` raise.
    """
    try:
        with trio.fail_after(MAX_SECONDS):
            return await _fetch(network, address, packaged, timeout, network_id)
    except trio.TooSlowError as error:
        raise SlowHelloError(f"{address} took over {MAX_SECONDS:.0f} s to say what its network is") from error


async def require_network(network: Network, address: str, network_id: Cid, timeout: float) -> None:
    """Ask the node at `address` for its manifest alone, at most 16 kB.

    Raises `UnexpectedNetworkError` for another network's, other `HelloError`s, and what `Network.dial` and
    `Network.request` raise.
    """
    peer = await network.dial(address, timeout)
    manifest, _, _, _ = _read_manifest(address, await _ask(network, peer, address, ["manifest"], timeout))
    _require(address, manifest, network_id)


async def redeem(network: Network, address: str, secret: bytes, timeout: float) -> tuple[bytes, ...]:
    """Show the secret of an invite link to the node at `address` that made it; returns our proof, unverified.

    Raises `HelloError`, what `Network.dial` and `Network.request` raise, and so `RequestRefused` with the
    node's reason for a link that is no good any more.
    """
    peer = await network.dial(address, timeout)
    limit = MAX_PROOF * MAX_PROOF_STATEMENT + _SLACK
    answer = await _ask(network, peer, address, [REDEEM, secret], timeout, limit)
    try:
        (proof,) = answer
        return check_proof_shape(proof)
    except (ValueError, ChainError) as error:
        raise MalformedHelloError(f"{address} answers {REDEEM!r} with no proof: {error}") from error


async def _ask(
    network: Network,
    peer: PeerId,
    address: str,
    question: list[str | int | bytes],
    timeout: float,
    limit: int = MAX_MANIFEST + _SLACK,
) -> list[Any]:
    reply = await network.request(peer, HELLO, canonical.encode(question), timeout)
    try:
        answer = canonical.decode(reply, limit)
    except EncodingError as error:
        raise MalformedHelloError(f"{address} answers {question[0]!r} with garbage: {error}") from error
    if type(answer) is not list:
        raise MalformedHelloError(f"{address} answers {question[0]!r} with no array")
    return answer


def _require(address: str, manifest: Manifest, network_id: Cid) -> None:
    if manifest.network_id != network_id:
        raise UnexpectedNetworkError(
            f"{address} belongs to the network {to_text(manifest.network_id)}, not {to_text(network_id)}"
        )


async def _fetch(
    network: Network,
    address: str,
    packaged: Callable[[Cid], bytes | None],
    timeout: float,
    network_id: Cid | None,
) -> Founding:
    peer = await network.dial(address, timeout)

    async def ask_bytes(kind: str, index: int, limit: int) -> bytes:
        most = min(MAX_BODY, limit + _SLACK)
        answer = await _ask(network, peer, address, [kind, index], timeout, most)
        if len(answer) != 1 or type(answer[0]) is not bytes or len(answer[0]) > limit:
            raise MalformedHelloError(
                f"{address} answers {kind!r} with no byte string of at most {limit} bytes"
            )
        return answer[0]

    first = await _ask(network, peer, address, ["manifest"], timeout)
    manifest, data, count, size = _read_manifest(address, first)
    if network_id is not None:
        _require(address, manifest, network_id)
    epochs: list[bytes] = []
    newest = _Tip(manifest.network_id, 0, manifest.atlas)
    for index in range(count):
        epochs.append(await ask_bytes("epoch", index, MAX_EPOCH_RECORD))
        newest = _follow(address, manifest, newest, epochs[-1])
    atlas = None if newest.atlas is None else packaged(newest.atlas)
    if newest.atlas is not None and (atlas is None or blob_cid(atlas) != newest.atlas):
        atlas = await _fetch_atlas(address, newest.atlas, size, ask_bytes)
    return Founding(manifest, data, tuple(epochs), atlas)


@dataclass(frozen=True, slots=True)
class _Tip:
    """The newest epoch seen: the CID by which its successor names it, its number and its atlas."""

    cid: Cid
    number: int
    atlas: Cid | None


def _question(body: bytes) -> Any:
    try:
        return canonical.decode(body, _MAX_QUESTION)
    except EncodingError as error:
        raise RequestRefused(RefusalCode.BAD_REQUEST, f"not a question: {error}") from error


def _read_manifest(address: str, answer: list[Any]) -> tuple[Manifest, bytes, int, int | None]:
    """(manifest, its bytes, number of epoch records, size of the atlas) from the first answer."""
    if len(answer) != 3 or type(answer[0]) is not bytes:
        raise MalformedHelloError(f"{address} serves no manifest with counts")
    data, count, size = answer
    if type(count) is not int or not 0 <= count <= MAX_EPOCHS:
        raise MalformedHelloError(
            f"{address} announces {count!r:.40} epochs; at most {MAX_EPOCHS} are followed"
        )
    if size is not None and (type(size) is not int or not 0 < size <= MAX_ATLAS):
        raise MalformedHelloError(
            f"{address} announces an atlas of {size!r:.40} bytes; at most {MAX_ATLAS} are fetched"
        )
    try:
        return decode_manifest(data), data, count, size
    except ChainError as error:
        raise MalformedHelloError(f"{address} serves no manifest: {error}") from error


def _follow(address: str, manifest: Manifest, tip: _Tip, data: bytes) -> _Tip:
    """The tip after the epoch that this record publishes; raises `ForgedEpochError`."""
    try:
        record = decode_record(data)
        if record.header.kind != EPOCH or record.payload is None or not verify_signature(record):
            raise ForgedEpochError(
                f"{address} serves an epoch that is no signed {EPOCH} record with its payload"
            )
        if record.header.author not in manifest.stewards:
            raise ForgedEpochError(f"{address} serves an epoch that no steward published")
        epoch = epoch_from_body(decode_payload(record.payload), manifest)
    except ChainError as error:
        raise ForgedEpochError(f"{address} serves an epoch that does not hold: {error}") from error
    named = (record.header.network, record.header.epoch, epoch.previous, epoch.number)
    if named != (manifest.network_id, tip.cid, tip.cid, tip.number + 1):
        raise ForgedEpochError(
            f"{address} serves epoch {epoch.number} where the successor of epoch {tip.number} belongs"
        )
    return _Tip(record.cid, epoch.number, epoch.atlas)


async def _fetch_atlas(
    address: str, cid: Cid, size: int | None, ask_bytes: Callable[[str, int, int], Awaitable[bytes]]
) -> bytes:
    if size is None:
        raise WrongAtlasError(
            f"{address} does not serve the atlas {to_text(cid)}, which its network names; ask another node"
        )
    atlas = bytearray()
    for index in range(-(-size // ATLAS_CHUNK)):
        want = min(ATLAS_CHUNK, size - index * ATLAS_CHUNK)
        chunk = await ask_bytes("atlas", index, ATLAS_CHUNK)
        if len(chunk) != want:
            raise WrongAtlasError(f"{address} serves {len(chunk)} bytes of atlas where {want} belong")
        atlas += chunk
    if blob_cid(bytes(atlas)) != cid:
        raise WrongAtlasError(f"{address} serves an atlas that is not {to_text(cid)}; ask another node")
    return bytes(atlas)
