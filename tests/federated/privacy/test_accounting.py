"""The ε that is told is the library's own, and the limit is kept to the update."""

from __future__ import annotations

from dataclasses import replace
from math import erfc, exp, sqrt

import pytest

pytest.importorskip("dp_accounting")

from federated.privacy.accounting import MAX_NOISES, Account, epsilon_of
from federated.privacy.errors import BudgetSpent, PrivacyError
from federated.privacy.noise import Terms


@pytest.mark.slow
def test_epsilon_agrees_with_privacy_loss_distributions_and_is_below_renyis() -> None:
    from dp_accounting import GaussianDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    spent, delta = ((8.0, 5), (12.0, 20)), 1e-5
    ours = epsilon_of(spent, delta)
    exact, loose = PLDAccountant(), RdpAccountant()
    for accountant in (exact, loose):
        for noise, count in spent:
            accountant.compose(GaussianDpEvent(noise / 2), count)
    assert ours == pytest.approx(exact.get_epsilon(delta), rel=1e-3)
    assert ours < loose.get_epsilon(delta) < 1.3 * ours


@pytest.mark.parametrize("spent", [((8.0, 1),), ((8.0, 5), (12.0, 20)), ((0.5, 3),), ((100.0, 900),)])
def test_epsilon_is_that_of_one_mechanism_whose_two_data_sets_lie_two_clips_apart(
    spent: tuple[tuple[float, int], ...],
) -> None:
    """Balle and Wang (2018), theorem 8, read the other way: what ε leaves over is δ."""

    def below(x: float) -> float:
        return erfc(-x / sqrt(2)) / 2

    delta = 1e-5
    apart = sqrt(sum(count * (2 / noise) ** 2 for noise, count in spent))  # in deviations
    epsilon = epsilon_of(spent, delta)
    over = below(apart / 2 - epsilon / apart) - exp(epsilon) * below(-apart / 2 - epsilon / apart)
    assert over == pytest.approx(delta, rel=1e-4)


def test_a_limit_lets_through_as_many_updates_as_it_says_and_not_one_more() -> None:
    account = Account(Terms(1.0, 8.0), 1e-5, 2.0)
    room = account.room(1_000)
    for _ in range(room):
        account = account.spend()
    assert 0 < room < 1_000
    assert account.cost() <= 2.0 < account.after().cost()
    assert account.room(1_000) == 0
    with pytest.raises(BudgetSpent, match="limit of this member is 2"):
        account.spend()
    # Milder noise does not make room, a higher limit does.
    with pytest.raises(BudgetSpent):
        replace(account, terms=Terms(1.0, 4.0)).spend()
    assert replace(account, epsilon=3.0).spend().spent == ((8.0, room + 1),)


def test_nothing_costs_nothing_and_a_limit_must_be_one() -> None:
    assert epsilon_of((), 1e-5) == 0.0
    assert epsilon_of(((1.0, 1),), 1e-5) > epsilon_of(((2.0, 1),), 1e-5) > 0
    for delta, limit in ((0.0, 1.0), (1.0, 1.0), (1e-5, 0.0), (1e-5, float("nan")), (float("nan"), None)):
        with pytest.raises(PrivacyError):
            Account(Terms(1.0, 1.0), delta, limit)


def test_what_costs_the_limit_to_the_last_bit_is_within_it() -> None:
    account = Account(Terms(1.0, 8.0), 1e-5)
    cost = account.after(3).cost()
    limited = replace(account, epsilon=cost)
    assert limited.room(9) == 3
    assert limited.spend().spend().spend().cost() == cost


def test_an_account_holds_so_many_amounts_of_noise_and_no_more() -> None:
    account = Account(Terms(1.0, 8.0), 1e-5)
    for number in range(MAX_NOISES):
        account = replace(account, terms=Terms(1.0, 8.0 + number)).spend()
    assert account.spend().spent[-1] == (8.0 + MAX_NOISES - 1, 2)
    with pytest.raises(PrivacyError, match="different amounts of noise"):
        replace(account, terms=Terms(1.0, 1.0)).spend()
