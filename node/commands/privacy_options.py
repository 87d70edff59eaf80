"""`fl run --dp-…`: noise on a member's own updates, and what it costs; see `federated.privacy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.commands.output import print_line

if TYPE_CHECKING:
    from federated.flower.participation import LearningNode
    from federated.privacy.accounting import Account
    from node.home import Home

F = TypeVar("F", bound=Callable[..., Any])
NOT_HERE = "--dp-… is for peer rounds; in a task of the mode server-app use Flower's own mods in the app"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options say; None for what they leave open."""

    clip: float | None
    noise: float | None
    epsilon: float | None
    delta: float | None

    @property
    def given(self) -> bool:
        return any(value is not None for value in (self.clip, self.noise, self.epsilon, self.delta))


def dp_options(command: F) -> F:
    """The four options, as `dp_clip`, `dp_noise`, `dp_epsilon` and `dp_delta`."""
    for name, metavar, text in (
        ("--dp-delta", "D", "The δ of ε [1e-5]."),
        ("--dp-epsilon", "E", "Leave the task before its updates cost more than this ε [no limit]."),
        ("--dp-noise", "Z", "Add Gaussian noise of Z clips to every value of an update."),
        ("--dp-clip", "C", "Clip an update to the L2 norm C. With --dp-noise: differential privacy."),
    ):
        command = click.option(name, type=float, metavar=metavar, help=text)(command)
    return command


def private(
    home: Home, task: str, terms: Mapping[str, Any], node: LearningNode, wish: Wish
) -> tuple[LearningNode, Callable[[], Account] | None]:
    """The member to work with, and how its account stands; the member itself where nothing is private.

    A task that this home began with noise goes on with it, also when the options are left out.
    """
    from node.privacy_ledger import ledger_of

    ledger = ledger_of(home, task)
    if not wish.given and ledger.find() is None:
        return node, None
    if terms["mode"] != "peer-rounds":
        raise click.UsageError(NOT_HERE)
    from dht.ports import system_random
    from federated.privacy.private_member import PrivateMember

    account = ledger.agree(wish.clip, wish.noise, wish.delta, wish.epsilon)
    member = PrivateMember(node, terms, ledger, system_random())
    rounds = int(terms["rounds"]) - max(0, int(terms["round"]) - 1)  # with the one under way
    room = account.room(rounds)
    if not room:
        account.spend()  # says why not, before anybody waits for this member
    cost = account.after(room).cost()  # also tells now, and not at the end, that dp-accounting is missing
    print_line(
        f"privacy: {room} of {rounds} more rounds would bring this member to ε = {cost:.3g} at δ = "
        f"{account.delta:g}" + (", and its limit allows no more" if room < rounds else ""),
        err=True,
    )
    return member, ledger.account


def shown(account: Account) -> dict[str, Any]:
    """The account, for --json."""
    return {
        "clip": account.terms.clip,
        "noise": account.terms.noise,
        "updates": sum(count for _, count in account.spent),
        "epsilon": account.cost(),
        "delta": account.delta,
        "limit": account.epsilon,
    }


def said(account: Account) -> str:
    """The account in a few words."""
    limit = "no limit" if account.epsilon is None else f"limit {account.epsilon:g}"
    updates = sum(count for _, count in account.spent)
    return f"ε = {account.cost():.3g} at δ = {account.delta:g} for {updates} updates ({limit})"
