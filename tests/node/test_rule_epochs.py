"""What a node signs follows the rules of the epoch that it works in; what it may not costs it nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain.agent_life import sign_consent
from chain.kinds import FORK_WARRANT, ROTATE, RULE_VERSION
from chain.source_chain import Draft
from node.errors import InvalidInput
from sim.network import open_world
from sim.virtual_clock import run_deterministic
from sim.whole_node import found_network
from tests.node.simulated_nodes import DIM, Network, identity


def test_a_network_of_older_rules_rotates_keys_once_an_epoch_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        founding = found_network(identity(0), DIM)
        manifest = replace(founding.manifest, rules=2)
        founding = replace(founding, manifest=manifest, manifest_bytes=manifest.encode())
        async with open_world(1) as world:
            node = await Network(world, founding, tmp_path).start(0)
            successor, own = identity(1), node.parts.own
            consent = sign_consent(successor, manifest.network_id, node.agent)
            with pytest.raises(InvalidInput, match=r"do not know agent\.rotate"):
                await node.life.rotate(successor.agent, consent)
            # A warrant that would be held against this agent is left to others, and ends nothing here.
            before = own.count()
            await node.governance._write(Draft(FORK_WARRANT, {}))
            assert own.count() == before
            epochs = node.governance.epochs
            await epochs.publish(epochs.sign(epochs.propose((), RULE_VERSION)))
            await node.governance._write(Draft(FORK_WARRANT, {}))
            assert own.count() == before + 1, "it is no warrant"
            record = await node.life.rotate(successor.agent, consent)
            assert (record.header.kind, own.newest()) == (ROTATE, record)

    run_deterministic(main, seed=1)
