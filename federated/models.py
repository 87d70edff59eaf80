"""The models and updates of one task, as a node has them: fetched in time, looked at, and combined.

Whoever follows a task needs this, and whoever audits one that it does not follow, so it knows the terms and
no round. What comes from others is fetched within the size and the time that the terms give, and looked at
off the event loop (`federated.admission`) before anything is computed of it; what the terms' strategy makes
of parts that are here is the same bytes on every node.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from math import isqrt

import trio

from chain.cid import Cid
from chain.identity import AgentId
from chain.learning_task import MAX_MEMBERS, NO_COMPRESSION, Task
from federated.admission import examine, needs_base
from federated.aggregation import Accumulator
from federated.compression import is_compressed, most_sent
from federated.errors import Refused, UnknownTask
from federated.faults import UNAVAILABLE
from federated.following import Tools
from federated.half import sent_arrays
from federated.ports import NoRoom, TooLarge
from federated.proposal import Verdict
from federated.robust import combine
from federated.update import Fault, Model, UpdateError, decode, inspect, update_size

NO_ROOM_S = 10.0
"""Seconds before a model that could not be kept is computed again."""

log = logging.getLogger(f"roseforest.{__name__}")


class Models:
    """The models of one task; `here` are those to begin a round with that are here and were looked at."""

    def __init__(self, tools: Tools, terms: Task, here: set[Cid] | None = None) -> None:
        self._tools = tools
        self._terms = terms
        self._here = set() if here is None else here

    # -- having --

    async def in_time(self, blob: Cid, most: int, agents: Sequence[AgentId]) -> Model | None:
        """A blob from here or any of these agents, within the time for showing; None when it cannot be had.

        Raises `TooLarge` for one of more than `most` bytes.
        """
        with trio.move_on_after(self._terms.reveal_ms / 1_000):
            return await self._tools.blobs.fetch_mapped(blob, most, agents)
        return None

    async def start(self, base: Cid, sources: Sequence[AgentId]) -> Model | None:
        """What a round began with, checked; None when it cannot be had in time or is none of the task's."""
        try:
            data = await self.in_time(base, update_size(self._terms.arrays), sources)
        except TooLarge:
            return None
        if data is None or base in self._here:
            return data
        return data if await self.begins(data) else None

    async def begins(self, data: Model) -> bool:
        """Whether a round of the task can begin with this; where it cannot, its author or most of a roster
        made it up."""
        terms = self._terms
        fault = await self._tools.run_blocking(inspect, terms.arrays, data, terms.max_abs)
        if fault is not None:
            log.error("the model that a round begins with is none of the task's: %s", fault)
        return fault is None

    async def keep(self, data: bytes) -> Cid | None:
        """Keep a model that was computed; None, a while later, when there is no room for it."""
        try:
            return await self._tools.blobs.put(data)
        except NoRoom as error:
            log.error("a computed model cannot be kept, next try in %.0f s: %s", NO_ROOM_S, error)
            await trio.sleep(NO_ROOM_S)
            return None

    # -- looking --

    async def verdict(
        self, blob: Cid, size: int, agents: Sequence[AgentId], base: Cid, sources: Sequence[AgentId]
    ) -> Verdict:
        """What is wrong with an update, once it is here; `UNAVAILABLE` when it cannot be had in time.

        `base` is what its round began with, to be had from `sources`; for tasks that need it.
        """
        most = most_sent(self._terms)
        return await self.examined(self._terms, blob, (most, size), agents, lambda: self.start(base, sources))

    async def model_verdict(
        self, blob: Cid, agents: Sequence[AgentId], base: Cid, sources: Sequence[AgentId]
    ) -> Verdict:
        """The same of the model of a group."""
        terms = of_models(self._terms)
        most = update_size(terms.arrays)
        return await self.examined(terms, blob, (most, None), agents, lambda: self.start(base, sources))

    async def examined(
        self,
        terms: Task,
        blob: Cid,
        sizes: tuple[int, int | None],
        agents: Sequence[AgentId],
        base_of: Callable[[], Awaitable[Model | None]],
    ) -> Verdict:
        """What is wrong with a blob by some terms; `UNAVAILABLE` when it, or its base, cannot be had in time.

        `sizes`: bytes up to which it is fetched, and those that it must have if they were announced.
        `base_of` is asked where the terms need a base.
        """
        most, announced = sizes
        try:
            data = await self.in_time(blob, most, agents)
        except TooLarge:
            return Fault.SIZE
        if data is None:
            return UNAVAILABLE
        if announced is not None and len(data) != announced:
            return Fault.SIZE
        base: Model | None = None
        if needs_base(terms):
            base = await base_of()
            if base is None:
                return UNAVAILABLE
        return await self._tools.run_blocking(examine, terms, base, data)

    async def handed_in(self, blob: Cid, examples: int) -> Model:
        """The update of this node's own user, posted before; `Refused` when it does not match the task.

        A compressed one is only as good as its base says: that is for the caller to `examine`.
        """
        tools, terms = self._tools, self._terms
        if not 1 <= examples <= terms.max_examples:
            raise Refused(f"examples is {examples}, outside 1 … {terms.max_examples}, which the task allows")
        data = await tools.blobs.map(blob)
        if data is None:
            raise UnknownTask("the update's blob is not here; post it first")
        if not is_compressed(terms):
            try:
                await tools.run_blocking(decode, sent_arrays(terms), data, terms.max_abs)
            except UpdateError as error:
                raise Refused(f"the update does not match the task ({error.fault}): {error}") from error
        return data

    # -- combining --

    async def model_of(self, terms: Task, base: Cid, parts: Sequence[tuple[Cid, int]]) -> bytes | None:
        """What the terms' strategy makes of these (blob, examples); None when a blob is not here."""
        tools = self._tools
        base_data = await tools.blobs.map(base) if builds_on_base(terms) else None
        if builds_on_base(terms) and base_data is None:
            return None
        if terms.rule is None:
            accumulator = await tools.run_blocking(Accumulator, terms)
            for blob, examples in parts:
                data = await tools.blobs.map(blob)
                if data is None:
                    return None
                await tools.run_blocking(accumulator.add, data, examples, base_data)
            return await tools.run_blocking(accumulator.mean)
        mapped = [(blob, await tools.blobs.map(blob)) for blob, _ in parts]
        found = [(blob, data) for blob, data in mapped if data is not None]
        if len(found) < len(mapped) or base_data is None:
            return None
        return await tools.run_blocking(combine, terms, terms.rule, base_data, found)


def of_models(task: Task) -> Task:
    """The terms by which models of groups are judged, and become one: whole models, combined like updates.

    A mean of updates within `max_norm` is within it, what is made coordinate by coordinate (the trimmed mean,
    the median) of n of them within sqrt(n) times as much; more than that is no group's model.
    """
    most = None if task.max_norm is None else isqrt(MAX_MEMBERS) * task.max_norm
    return replace(task, compression=NO_COMPRESSION, max_norm=most)


def builds_on_base(task: Task) -> bool:
    """Whether what updates become rests on what the round began with."""
    return task.rule is not None or is_compressed(task)
