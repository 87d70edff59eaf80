"""`init` can be interrupted anywhere and finished by running it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.daemon import InitResult, init_home
from node.errors import HomeDamaged, HomeError, InvalidInput
from node.home import Home, open_home

STEPS = ("write_recovery_key", "write_manifest", "ensure_token")


class Killed(BaseException):
    """Stands in for the end of the process."""


def init(home: Home, name: str = "forest") -> InitResult:
    return init_home(home, name=name, join=None, join_bits=2, profile_name=None, vectors_dim=4)


@pytest.mark.parametrize("step", STEPS)
def test_a_founding_that_was_cut_short_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    home = open_home(tmp_path / "home")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Home, step, killed)
        with pytest.raises(Killed):
            init(home)
    assert not home.is_initialised()
    key = home.read_key()
    result = init(home)
    assert result.created
    assert home.is_initialised()
    assert home.read_key() == key
    assert not home.founding.exists()
    assert init(home) == InitResult(result.agent, result.network, "forest", created=False)


def test_a_name_over_the_limit_is_refused_before_anything_is_signed(tmp_path: Path) -> None:
    """A profile that everybody refuses would exclude its agent for ever."""
    home = open_home(tmp_path / "home")
    for name in ("é" * 51, "\ud800"):
        with pytest.raises(InvalidInput, match="name"):
            init_home(home, name="forest", join=None, join_bits=2, profile_name=name, vectors_dim=4)
    assert not home.chain_db.exists()
    assert init(home).created


def test_an_unfinished_founding_is_not_finished_as_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home(tmp_path / "home")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write_manifest", killed)
        with pytest.raises(Killed):
            init(home)
    with pytest.raises(HomeError, match="unfinished founding of 'forest'"):
        init(home, "another")
    draft = home.founding.read_bytes()
    home.founding.write_bytes(draft[:-1])
    with pytest.raises(HomeDamaged, match="is damaged"):
        init(home)
    home.founding.write_bytes(draft)
    assert init(home).network_name == "forest"


def test_a_network_needs_a_name(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    with pytest.raises(InvalidInput, match="name is empty"):
        init(home, "  ")
    assert not home.root.exists()


def test_joining_nobody_founds_nothing(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    with pytest.raises(InvalidInput, match="no invite and no address"):
        init_home(home, name=None, join=" ", join_bits=2, profile_name=None, vectors_dim=4)
    assert not home.root.exists()


def test_a_finished_home_founds_no_second_network(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    init(home)
    with pytest.raises(HomeError, match="already belongs"):
        init(home, "another")


def test_a_finished_home_says_so_also_while_its_daemon_runs(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    made = init(home)
    with home.locked():
        assert init(home) == InitResult(made.agent, made.network, "forest", created=False)
        with pytest.raises(HomeError, match="already belongs"):
            init(home, "another")
