"""Key files: a seed comes back with its passphrase and with nothing else, at costs that are bounded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.identity import Identity
from node.commands.exit_codes import ExitCode, exit_code_of
from node.durable_files import write_atomically
from node.errors import HomeDamaged, InvalidInput, KeyLocked, WrongPassphrase
from node.home import Home, Protection
from node.key_file import (
    DEFAULT_COST,
    MAX_MEMORY,
    MAX_OPERATIONS,
    Cost,
    KeyFileError,
    SealedKey,
    WrongKey,
    agent_of,
    parse,
    plain_line,
    seal,
    sealed_line,
    unseal,
)

SEED = bytes(range(32))
CHEAP = Cost(1, 8 * 1024)
WORDS = "correct horse battery"


def protection(words: str = WORDS) -> Protection:
    return Protection(words, os.urandom, CHEAP)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create_folders()
    return home


@given(
    seed=st.binary(min_size=32, max_size=32),
    words=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100),
    other=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100),
)
def test_a_sealed_seed_comes_back_with_its_passphrase_only(seed: bytes, words: str, other: str) -> None:
    sealed = parse("# comment\n" + sealed_line(seal(seed, words, os.urandom, CHEAP)) + "\n")
    assert isinstance(sealed, SealedKey)
    assert unseal(sealed, words) == seed
    assert agent_of(sealed) == Identity.from_seed(seed).agent
    if other != words:
        with contextlib.suppress(WrongKey):
            assert unseal(sealed, other) == seed, "the same text, composed otherwise"


def test_two_seals_of_one_seed_share_nothing() -> None:
    first, second = (seal(SEED, WORDS, os.urandom, CHEAP) for _ in range(2))
    assert first.salt != second.salt
    assert first.box != second.box
    assert SEED.hex() not in sealed_line(first)


def test_accents_count_the_same_however_they_are_composed() -> None:
    assert unseal(seal(SEED, "caf\u00e9 au lait", os.urandom, CHEAP), "cafe\u0301 au lait") == SEED


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_flipped_byte_of_a_sealed_key_makes_another_key(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
) -> None:
    """Damage is told from a wrong passphrase: only the comment may change unseen."""
    home = Home(tmp_path_factory.mktemp("home"))
    home.write_key(SEED, protection())
    data = bytearray(home.key.read_bytes())
    data[place % len(data)] ^= flip
    home.key.write_bytes(data)
    with contextlib.suppress(HomeDamaged):
        assert home.read_key(WORDS) == SEED


@pytest.mark.parametrize(
    ("operations", "memory"),
    [(0, 8192), (MAX_OPERATIONS + 1, 8192), (1, 1), (1, MAX_MEMORY + 1), (999, 999_999_999_999)],
)
def test_a_file_that_asks_for_too_much_or_too_little_work_is_refused_unread(
    operations: int, memory: int
) -> None:
    sealed = SealedKey(bytes(32), Cost(operations, memory), bytes(16), bytes(72))
    with pytest.raises(KeyFileError, match="asks for"):
        parse(sealed_line(sealed))


def test_a_format_of_a_newer_release_is_named() -> None:
    line = sealed_line(seal(SEED, WORDS, os.urandom, CHEAP))
    with pytest.raises(KeyFileError, match="newer release"):
        parse(line.replace("sealed/1", "sealed/2"))


def test_a_box_of_another_agent_is_not_taken_for_this_one() -> None:
    sealed = seal(SEED, WORDS, os.urandom, CHEAP)
    forged = SealedKey(Identity.from_seed(bytes(32)).agent, sealed.cost, sealed.salt, sealed.box)
    with pytest.raises(KeyFileError, match="not the agent's"):
        unseal(parse(sealed_line(forged)), WORDS)  # type: ignore[arg-type]


def test_the_cost_that_ships_is_not_the_tests() -> None:
    assert DEFAULT_COST.operations >= 3
    assert DEFAULT_COST.memory >= 256 << 20
    assert Protection(WORDS, os.urandom).cost == DEFAULT_COST


@pytest.mark.parametrize("words", ["", "short", "x" * 1025])
def test_a_passphrase_that_protects_nothing_is_refused(home: Home, words: str) -> None:
    with pytest.raises(InvalidInput, match="passphrase"):
        home.write_key(SEED, protection(words))
    assert not home.key.exists()


def test_a_sealed_home_says_what_it_lacks(home: Home) -> None:
    home.write_key(SEED, protection())
    assert home.is_sealed()
    assert home.agent(home.key) == Identity.from_seed(SEED).agent
    assert home.key.stat().st_mode & 0o777 == 0o600
    assert "NOT encrypted" not in home.key.read_text()
    with pytest.raises(KeyLocked, match="--passphrase-file") as locked:
        home.read_key()
    with pytest.raises(WrongPassphrase, match="not the passphrase") as wrong:
        home.read_key("correct horse batterie")
    for caught in (locked, wrong):
        assert exit_code_of(caught.value) is ExitCode.LOCKED
        assert "\n" not in str(caught.value)
    assert home.read_key(WORDS) == SEED


def test_keys_are_sealed_resealed_and_opened_again(home: Home) -> None:
    home.write_key(SEED)
    home.write_recovery_key(SEED[::-1])
    assert home.read_key("whatever") == SEED, "a key in the clear needs no passphrase"
    home.protect_keys(None, protection())
    assert SEED.hex() not in home.key.read_text()
    assert (home.read_key(WORDS), home.read_recovery_key(WORDS)) == (SEED, SEED[::-1])
    with pytest.raises(WrongPassphrase):
        home.protect_keys("another one", protection("new and better"))
    home.protect_keys(WORDS, protection("new and better"))
    with pytest.raises(WrongPassphrase):
        home.read_recovery_key(WORDS)
    home.recovery_key.unlink()
    assert home.protect_keys("new and better", None) == [home.key], "the other one was moved away"
    assert home.key.read_text().splitlines()[1] == plain_line(SEED)
    assert home.key.stat().st_mode & 0o777 == 0o600


class Killed(BaseException):
    """Stands in for the end of the process."""


@pytest.mark.parametrize("written", [0, 1])
@pytest.mark.parametrize("target", ["sealed", "resealed", "removed"])
def test_a_change_that_was_cut_short_is_finished_by_the_same_call(
    home: Home, monkeypatch: pytest.MonkeyPatch, written: int, target: str
) -> None:
    before = None if target == "sealed" else protection()
    after = None if target == "removed" else protection("new and better")
    home.write_key(SEED, before)
    home.write_recovery_key(SEED[::-1], before)
    current = None if before is None else WORDS
    left = written

    def write(path: Path, data: bytes, mode: int) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        write_atomically(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr("node.home.write_atomically", write)
        with pytest.raises(Killed):
            home.protect_keys(current, after)
    assert home.read_key(current) == SEED, "the signing key is the last to change"
    home.protect_keys(current, after)
    new = None if after is None else after.passphrase
    assert (home.read_key(new), home.read_recovery_key(new)) == (SEED, SEED[::-1])
