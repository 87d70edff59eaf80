"""Hello tells a stranger what the network is, and a liar cannot tell it anything that does not hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from chain import canonical
from chain.cid import Cid, blob_cid
from chain.epoch import Epoch, epoch_body
from chain.identity import Identity
from chain.kinds import EPOCH, PROFILE
from chain.manifest import Manifest
from chain.record import Record
from chain.source_chain import Draft, next_record
from dht.errors import RequestRefused, RequestTimeout
from dht.overlay.hello import (
    ATLAS_CHUNK,
    HELLO,
    MAX_ATLAS,
    MAX_EPOCHS,
    MAX_SECONDS,
    ForgedEpochError,
    Founding,
    HelloError,
    HelloServer,
    MalformedHelloError,
    SlowHelloError,
    UnexpectedNetworkError,
    WrongAtlasError,
    fetch_founding,
)
from sim.host import SimNetwork
from sim.links import LatencyLink
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from tests.dht.people import MANIFEST, identity

ATLAS = bytes(range(256)) * (2 * ATLAS_CHUNK // 256) + b"and a last short chunk"
STEWARDS = tuple(sorted((identity(1), identity(2), identity(3)), key=lambda one: one.agent))
CONSTITUTION = replace(
    MANIFEST, atlas=blob_cid(ATLAS), stewards=tuple(one.agent for one in STEWARDS), threshold=2
)
HOST, GUEST = identity(10).agent, identity(11).agent


def nothing_packaged(_cid: Cid) -> bytes | None:
    return None


def epoch_record(
    manifest: Manifest,
    previous: Cid,
    number: int,
    atlas: bytes | None = None,
    signers: tuple[Identity, ...] = STEWARDS[:2],
    kind: str = EPOCH,
    author: Identity = STEWARDS[2],
) -> Record:
    """The record that publishes an epoch, signed by stewards and written by `author`."""
    epoch = Epoch(
        manifest.network_id, previous, number, manifest.atlas if atlas is None else blob_cid(atlas), 1
    )
    body = epoch_body(epoch, [epoch.sign(one) for one in signers])
    return next_record(author, manifest.network_id, previous, None, Draft(kind, body), number, bytes(16))


FIRST = epoch_record(CONSTITUTION, CONSTITUTION.network_id, 1)
BY_NO_STEWARD = epoch_record(CONSTITUTION, CONSTITUTION.network_id, 1, author=identity(4))
SECOND = epoch_record(CONSTITUTION, FIRST.cid, 2, b"a newer atlas")


def play(
    serve: Callable[[SimNetwork], object],
    packaged: Callable[[Cid], bytes | None] = nothing_packaged,
    network_id: Cid | None = None,
    timeout: float = 5.0,
    before: Callable[[SimNetwork, str], Awaitable[None]] | None = None,
) -> tuple[Founding, int]:
    """What a guest learns from a host set up by `serve`, and how many questions that took."""

    async def main() -> tuple[Founding, int]:
        async with open_world(1, LatencyLink(1)) as world:
            host, guest = await world.join(HOST), await world.join(GUEST)
            serve(host)
            if before is not None:
                await before(guest, world.address(HOST))
            founding = await fetch_founding(
                guest, world.address(HOST), packaged, timeout, network_id=network_id
            )
            return founding, world.trace.methods()[HELLO].requests

    try:
        return run_deterministic(main, seed=1)
    except BaseExceptionGroup as group:
        # Not `except*`: before Python 3.11.4 that puts what is raised in it back into a group.
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
            found = found.exceptions[0]
        raise found from None


def honest(network: SimNetwork) -> HelloServer:
    return HelloServer(network, CONSTITUTION.encode(), [FIRST.encode()], ATLAS)


def lying(answers: dict[str, Any]) -> Callable[[SimNetwork], object]:
    """A host that answers some questions with a value or bytes of its own, the others honestly."""

    def serve(network: SimNetwork) -> object:
        server = HelloServer.__new__(HelloServer)
        server._manifest, server._epochs, server._atlas = CONSTITUTION.encode(), (FIRST.encode(),), ATLAS

        async def answer(sender: bytes, body: bytes) -> bytes:
            lie = answers.get(canonical.decode(body, 64)[0])
            if lie is None:
                return await server._answer(sender, body)
            return lie if type(lie) is bytes else canonical.encode(lie)

        network.register(HELLO, answer)
        return server

    return serve


def test_a_stranger_learns_manifest_epochs_and_atlas() -> None:
    founding, questions = play(honest, network_id=CONSTITUTION.network_id)
    assert founding == Founding(CONSTITUTION, CONSTITUTION.encode(), (FIRST.encode(),), ATLAS)
    assert questions == 1 + 1 + 3


def test_the_packaged_atlas_is_not_fetched_and_a_wrong_one_is_not_believed() -> None:
    asked: list[Cid] = []

    def packaged(cid: Cid) -> bytes | None:
        asked.append(cid)
        return ATLAS

    founding, questions = play(honest, packaged)
    assert founding.atlas_bytes == ATLAS
    assert questions == 2
    assert asked == [CONSTITUTION.atlas]
    founding, questions = play(honest, lambda _: b"another")
    assert founding.atlas_bytes == ATLAS
    assert questions == 5


def test_the_newest_epoch_names_the_atlas() -> None:
    def serve(network: SimNetwork) -> None:
        server = HelloServer(network, CONSTITUTION.encode(), [], ATLAS)
        server.update([FIRST.encode(), SECOND.encode()], b"a newer atlas")

    founding, _ = play(serve)
    assert founding.atlas_bytes == b"a newer atlas"
    assert founding.epochs == (FIRST.encode(), SECOND.encode())


def test_a_network_without_atlas_has_none() -> None:
    def serve(network: SimNetwork) -> None:
        HelloServer(network, MANIFEST.encode(), [], None)

    founding, questions = play(serve)
    assert founding == Founding(MANIFEST, MANIFEST.encode(), (), None)
    assert questions == 1


def test_another_network_than_the_expected_one_is_named() -> None:
    with pytest.raises(UnexpectedNetworkError, match="belongs to the network"):
        play(honest, network_id=MANIFEST.network_id)


MANIFEST_BYTES = CONSTITUTION.encode()


@pytest.mark.parametrize(
    ("lies", "error"),
    [
        ({"manifest": b""}, MalformedHelloError),
        ({"manifest": b"\xc1"}, MalformedHelloError),
        ({"manifest": bytes(1 << 20)}, MalformedHelloError),
        ({"manifest": "text"}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES]}, MalformedHelloError),
        ({"manifest": [b"not a manifest", 0, None]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES + b"\0", 0, None]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, -1, None]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, True, None]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, MAX_EPOCHS + 1, None]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, 0, MAX_ATLAS + 1]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, 0, 0]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, 0, b"1"]}, MalformedHelloError),
        ({"manifest": [MANIFEST_BYTES, 0, None]}, WrongAtlasError),
        ({"manifest": [MANIFEST_BYTES, 0, 5], "atlas": [b"12345"]}, WrongAtlasError),
        ({"manifest": [MANIFEST_BYTES, 0, MAX_ATLAS], "atlas": [b""]}, WrongAtlasError),
        ({"atlas": [bytes(ATLAS_CHUNK)]}, WrongAtlasError),
        ({"atlas": [bytes(ATLAS_CHUNK + 1)]}, MalformedHelloError),
        ({"atlas": ["text"]}, MalformedHelloError),
        ({"epoch": []}, MalformedHelloError),
        ({"epoch": [b"garbage"]}, ForgedEpochError),
        ({"epoch": [FIRST.without_payload().encode()]}, ForgedEpochError),
        ({"epoch": [SECOND.encode()]}, ForgedEpochError),
        ({"epoch": [replace(FIRST, signature=bytes(64)).encode()]}, ForgedEpochError),
        (
            {
                "epoch": [
                    epoch_record(CONSTITUTION, CONSTITUTION.network_id, 1, signers=STEWARDS[:1]).encode()
                ]
            },
            ForgedEpochError,
        ),
        (
            {"epoch": [epoch_record(CONSTITUTION, CONSTITUTION.network_id, 1, kind=PROFILE).encode()]},
            ForgedEpochError,
        ),
        ({"epoch": [epoch_record(MANIFEST, MANIFEST.network_id, 1).encode()]}, ForgedEpochError),
        ({"epoch": [BY_NO_STEWARD.encode()]}, ForgedEpochError),
    ],
    ids=range(28),
)
def test_a_liar_is_found_out_and_named(lies: dict[str, Any], error: type[HelloError]) -> None:
    with pytest.raises(error, match="/ip4/10"):
        play(lying(lies))


def test_an_altered_atlas_is_refused() -> None:
    def serve(network: SimNetwork) -> None:
        HelloServer(network, CONSTITUTION.encode(), [], ATLAS[:-1] + b"!")

    with pytest.raises(WrongAtlasError, match="is not b"):
        play(serve)


def test_silence_and_endless_slowness_end() -> None:
    async def never(_sender: bytes, _body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(RequestTimeout):
        play(lambda network: network.register(HELLO, never))

    epochs = [FIRST]
    while len(epochs) < 20:
        epochs.append(epoch_record(CONSTITUTION, epochs[-1].cid, len(epochs) + 1))

    def serve(network: SimNetwork) -> None:
        async def dawdle(_sender: bytes, body: bytes) -> bytes:
            await trio.sleep(50)
            question = canonical.decode(body, 64)
            if question[0] == "manifest":
                return canonical.encode([CONSTITUTION.encode(), len(epochs), None])
            return canonical.encode([epochs[question[1]].encode()])

        network.register(HELLO, dawdle)

    with pytest.raises(SlowHelloError, match=f"{MAX_SECONDS:.0f} s"):
        play(serve, timeout=55.0)


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        ["manifest", 1],
        ["epoch"],
        ["epoch", 1],
        ["epoch", -1],
        ["epoch", "0"],
        ["atlas", 3],
        ["atlas", -1],
    ],
)
def test_questions_that_make_no_sense_are_refused(question: object) -> None:
    async def ask(guest: SimNetwork, address: str) -> None:
        peer = await guest.dial(address, 5)
        for body in (canonical.encode(question), b"\xc1", bytes(100)):
            with pytest.raises(RequestRefused):
                await guest.request(peer, HELLO, body, 5)

    play(honest, before=ask)
