"""Which nodes: how a scenario names some of them without counting.

A selector is `all`, `storing`, `observers`, a group of the scenario, one node (`node-3`, `observer-1`), or a
share of the storing nodes such as `1/3`, drawn by the seed. A list of selectors means all of those. Shares
are drawn anew wherever they are written, but a named group is drawn once, so that a fault and the workload
can speak of the same nodes. Pure; the same roster, seed and place give the same nodes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Selector = str | tuple[str, ...]

_SHARE = re.compile(r"([1-9][0-9]{0,3})/([1-9][0-9]{0,3})")
FIXED = ("all", "storing", "observers")
"""Selectors that every scenario has, so no group may be called that."""


class SelectionError(ValueError):
    """A selector that means nothing here; the message says why."""


@dataclass(frozen=True, slots=True)
class Roster:
    """The nodes of a scenario by name: those that store, the founder first, and those that do not."""

    nodes: int
    observers: int
    seed: int
    groups: Mapping[str, Selector] = field(default_factory=dict)

    @property
    def storing(self) -> tuple[str, ...]:
        """`node-1` … in order."""
        return tuple(f"node-{number}" for number in range(1, self.nodes + 1))

    @property
    def observing(self) -> tuple[str, ...]:
        """`observer-1` … in order."""
        return tuple(f"observer-{number}" for number in range(1, self.observers + 1))

    @property
    def everybody(self) -> tuple[str, ...]:
        """All names, storing ones first."""
        return self.storing + self.observing

    def select(self, selector: Selector, place: str) -> tuple[str, ...]:
        """The nodes that a selector means at this place of the scenario, in the roster's order.

        Raises `SelectionError` for one that means nothing, or nobody.
        """
        chosen = self._chosen((selector,) if isinstance(selector, str) else selector, place)
        if not chosen:
            raise SelectionError(f"{_shown(selector)} is nobody here")
        return tuple(name for name in self.everybody if name in chosen)

    def _chosen(self, selectors: Sequence[str], place: str) -> set[str]:
        chosen: set[str] = set()
        for one in selectors:
            chosen.update(self._one(one, place))
        return chosen

    def _one(self, selector: str, place: str) -> Sequence[str]:
        match selector:
            case "all":
                return self.everybody
            case "storing":
                return self.storing
            case "observers":
                return self.observing
        if selector in self.groups:
            members = self.groups[selector]
            return sorted(self._chosen((members,) if isinstance(members, str) else members, selector))
        share = _SHARE.fullmatch(selector)
        if share is not None:
            part, whole = int(share[1]), int(share[2])
            if part > whole:
                raise SelectionError(f"{selector!r} is more than all")
            count = max(1, round(self.nodes * part / whole))
            return random.Random(f"{self.seed}/{place}/{selector}").sample(self.storing, count)
        if selector in self.everybody:
            return (selector,)
        known = ", ".join([*FIXED, *sorted(self.groups), "a node like node-1", "a share like 1/3"])
        raise SelectionError(f"{selector!r} is no selector here; there are {known}")


def check_groups(groups: Mapping[str, Selector]) -> None:
    """Raise `SelectionError` when a group's name is taken or a group is made of groups.

    Groups of groups could run in circles, and nobody needs them.
    """
    for name, selector in groups.items():
        if name in FIXED or _SHARE.fullmatch(name) or name.startswith(("node-", "observer-")):
            raise SelectionError(f"the name {name!r} means something already")
        for one in (selector,) if isinstance(selector, str) else selector:
            if one in groups:
                raise SelectionError(f"group {name!r} is made of the group {one!r}; name nodes or shares")


def _shown(selector: Selector) -> str:
    return repr(selector) if isinstance(selector, str) else repr(list(selector))
