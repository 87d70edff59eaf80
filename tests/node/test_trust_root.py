"""The trust root as settings declare it, and where it shows that they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain.identity import Identity, peer_id
from crdt.trust import VOTE
from node.config import load_settings, with_origins
from node.errors import ConfigError
from node.home import Home
from node.trust_root import DEFAULT_ROOTS, read_root, trust_root
from tests.chain.samples import MANIFEST

FOUNDER, STEWARD, READER, FRIEND = (Identity.from_seed(bytes([number]) * 32).agent for number in range(4))
NETWORK = replace(MANIFEST, founder=FOUNDER, stewards=(STEWARD,))


def test_words_stand_for_agents_and_later_items_override() -> None:
    assert trust_root(DEFAULT_ROOTS, NETWORK, READER) == dict.fromkeys((FOUNDER, STEWARD, READER), VOTE)
    items = ("founder", "stewards=0.5", f"{peer_id(FRIEND)}=0.000001", f"{peer_id(FOUNDER)}=0")
    assert trust_root(items, NETWORK, READER) == {FOUNDER: 0, STEWARD: VOTE // 2, FRIEND: 1}
    assert trust_root((), NETWORK, READER) == {}


@pytest.mark.parametrize(
    "item",
    ["", "frend", "=1", "self=", "self=2", "self=1.1", "self=.5", "self=-0", "self=0.1234567", "self=١"],
)
def test_what_names_nobody_or_no_weight_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match=r"weight is a number|nor an agent"):
        read_root(item)


def test_the_settings_say_who_set_the_root(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_text(f'[trust]\nroots = ["self", "{peer_id(FRIEND)}=0.25"]\n')
    found = load_settings(home, environment={})
    assert with_origins(found)["trust_roots"] == {
        "value": ["self", f"{peer_id(FRIEND)}=0.25"],
        "origin": f"file {home.config}",
    }
    assert load_settings(home, environment={"ROSEFOREST_TRUST_ROOTS": "founder,self=0.5"}).trust_roots == (
        "founder",
        "self=0.5",
    )
    with pytest.raises(ConfigError, match="ROSEFOREST_TRUST_ROOTS: 'frend' is none of founder"):
        load_settings(home, environment={"ROSEFOREST_TRUST_ROOTS": "frend"})
