"""The manifest pins the embedding space: a node that cannot embed in it says so and takes no part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.identity import Identity
from chain.manifest import Space
from dht.overlay.hello import HelloServer
from dht.ports import SystemClock
from dht.wire.libp2p_network import open_libp2p_network
from node.commands.exit_codes import ExitCode, exit_code_of
from node.daemon import init_home
from node.embedding.packaged import packaged_atlas
from node.founding import SpaceError, embedder_for, found, layout_for
from node.home import Home, open_home

FOUNDER = Identity.from_seed(bytes(range(32)))
OURS = found("forest", FOUNDER.agent, 2, None, 1)
FOREIGN = [
    replace(OURS.space, model="another-embedder"),
    replace(OURS.space, dim=OURS.space.dim + 1),
]


@pytest.mark.parametrize("space", FOREIGN, ids=["model", "dimension"])
def test_a_space_that_is_not_ours_is_refused_naming_both_sides(space: Space) -> None:
    assert embedder_for(OURS.space).space == OURS.space.model
    with pytest.raises(SpaceError) as refusal:
        embedder_for(space)
    for part in (space, OURS.space):
        assert repr(part.model) in str(refusal.value)
        assert str(part.dim) in str(refusal.value)
    assert "Install" in str(refusal.value)
    assert exit_code_of(refusal.value) is ExitCode.REFUSED


@pytest.mark.parametrize("space", FOREIGN, ids=["model", "dimension"])
def test_an_atlas_of_another_space_than_the_networks_is_refused(space: Space) -> None:
    assert layout_for(OURS, packaged_atlas()).atlas is not None
    with pytest.raises(SpaceError, match="the atlas is of the space"):
        layout_for(replace(OURS, space=space), packaged_atlas())


def test_an_atlas_that_is_not_the_manifests_is_refused() -> None:
    damaged = bytearray(packaged_atlas())
    damaged[-1] ^= 1
    for atlas in (None, b"", bytes(damaged)):
        with pytest.raises(SpaceError, match="missing or damaged"):
            layout_for(OURS, atlas)


async def test_nobody_joins_a_network_whose_space_they_cannot_embed_in(tmp_path: Path) -> None:
    foreign = replace(OURS, name="elsewhere", space=FOREIGN[0])
    home = open_home(tmp_path / "home")
    with trio.fail_after(30):
        async with open_libp2p_network(FOUNDER.seed, ("/ip4/127.0.0.1/tcp/0",), SystemClock()) as network:
            HelloServer(network, foreign.encode(), (), packaged_atlas())
            address = network.addresses[0]
            with pytest.raises(SpaceError, match="another-embedder"):
                await trio.to_thread.run_sync(join, home, address)
            assert not home.is_initialised()
            assert not home.chain_db.exists(), "nothing was signed for a network that we are not in"


def join(home: Home, address: str) -> None:
    init_home(home, name=None, join=address, join_bits=0, profile_name=None, vectors_dim=None)
