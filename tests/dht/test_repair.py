"""The decision to repair: whatever comes and goes, R of the nearest hold everything, and nothing is lost.

A model network without messages: nodes are positions, what they hold are sets, and time is looks. It runs the
decision as the driver does, with views that lag, and liars that claim what they do not hold.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dht.overlay.distance import closest
from dht.repair.decision import DROP_AFTER_S, Decision, Situation, decide

LOOK_S = 60.0
LAG_LOOKS = 2
"""Looks after which everybody has heard of a change of membership: far less than `DROP_AFTER_S`."""
BASES = [bytes([17 * number]) + bytes(31) for number in range(6)]


def key(number: int) -> bytes:
    return random.Random(number).randbytes(32)


@dataclass
class Node:
    held: dict[bytes, set[int]] = field(default_factory=dict)
    view: list[bytes] = field(default_factory=list)
    before: dict[bytes, set[int]] = field(default_factory=dict)
    waited: dict[bytes, int] = field(default_factory=dict)
    holders: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    since: dict[bytes, float] = field(default_factory=dict)
    vouched: dict[bytes, float] = field(default_factory=dict)
    rests: dict[bytes, float] = field(default_factory=dict)
    liar: bool = False


class Model:
    def __init__(self, replication: int) -> None:
        self.replication = replication
        self.nodes: dict[bytes, Node] = {}
        self.written: dict[bytes, set[int]] = {basis: set() for basis in BASES}
        self.now = 0.0
        self.changed_at = -1e9
        self.sent = 0

    def holders(self, basis: bytes) -> list[bytes]:
        return closest(basis, self.nodes, lambda agent: agent, self.replication)

    def copies(self, basis: bytes) -> list[bytes]:
        return [a for a, node in self.nodes.items() if node.held.get(basis, set()) >= self.written[basis]]

    def join(self, agent: bytes, liar: bool = False) -> None:
        self.nodes.setdefault(agent, Node(liar=liar))
        self.changed_at = self.now

    def write(self, basis: bytes, item: int) -> None:
        self.written[basis].add(item)
        for agent in self.holders(basis):
            self.nodes[agent].held.setdefault(basis, set()).add(item)

    def can_go(self, agent: bytes) -> bool:
        """One live holder of everything is left, whoever goes."""
        return all(set(self.copies(basis)) - {agent} for basis in BASES if self.written[basis])

    def crash(self, agent: bytes) -> None:
        if agent in self.nodes and self.can_go(agent):
            del self.nodes[agent]
            self.changed_at = self.now

    def leave(self, agent: bytes) -> None:
        node = self.nodes.get(agent)
        if node is None or len(self.nodes) == 1:
            return
        node.view = sorted(self.nodes)
        for basis in sorted(node.held):
            situation = replace(self.situation(agent, basis), leaving=True)
            for target in decide(situation).send:
                self.give(agent, target, basis)
            assert not decide(replace(self.situation(agent, basis), leaving=True)).send
            stay = [one for one in self.nodes if one != agent]
            for heir in closest(basis, stay, lambda one: one, self.replication):
                given = self.nodes[heir].held.get(basis, set())
                assert self.nodes[heir].liar or given >= node.held[basis], "handed over first"
        del self.nodes[agent]
        self.changed_at = self.now

    def give(self, sender: bytes, target: bytes, basis: bytes) -> None:
        if target in self.nodes:
            self.sent += 1
            self.nodes[target].held.setdefault(basis, set()).update(self.nodes[sender].held[basis])

    def situation(self, me: bytes, basis: bytes, proven: frozenset[bytes] = frozenset()) -> Situation:
        node = self.nodes[me]
        near = tuple(closest(basis, node.view, lambda agent: agent, self.replication + 2))
        alive = [agent for agent in near if agent in self.nodes and agent != me]
        covers = frozenset(
            agent
            for agent in alive
            if self.nodes[agent].liar or self.nodes[agent].held.get(basis, set()) >= node.held[basis]
        )
        return Situation(
            me=me,
            replication=self.replication,
            near=near,
            covers=covers,
            lacks=frozenset(alive) - covers,
            proven=proven,
            steady=int(node.before.get(basis) == node.held[basis]),
            waited=node.waited.get(basis, 0),
            beyond_s=self.now - node.since.get(basis, self.now),
            vouched=self.now < node.vouched.get(basis, -1.0),
        )

    def look(self, me: bytes) -> bool:
        """One look of one node; whether it did or still has to do anything."""
        node = self.nodes[me]
        if self.now >= self.changed_at + LAG_LOOKS * LOOK_S or not node.view:
            node.view = sorted(self.nodes)
        busy = False
        for basis in sorted(node.held):
            holders = tuple(closest(basis, node.view, lambda agent: agent, self.replication))
            if node.holders.get(basis) != holders:
                node.holders[basis], node.since[basis] = holders, self.now
                node.rests.pop(basis, None)
            if self.now < node.rests.get(basis, 0.0) and node.before.get(basis) == node.held[basis]:
                busy = True  # as the driver does: all have it, and before it may be dropped nothing is asked
                continue
            decision = decide(self.situation(me, basis))
            assert decision == decide(self.situation(me, basis))
            assert me not in (*decision.send, *decision.prove)
            node.rests[basis] = node.since[basis] + DROP_AFTER_S if decision == Decision() else 0.0
            proven = set()
            if decision.prove:
                assert self.now - node.since[basis] >= DROP_AFTER_S
                for agent in decision.prove:
                    other = self.nodes.get(agent)
                    if other is not None and other.held.get(basis, set()) >= node.held[basis]:
                        other.vouched[basis] = self.now + LOOK_S / 2
                        proven.add(agent)
                decision = decide(self.situation(me, basis, frozenset(proven)))
            if decision.drop:
                assert proven.issuperset(holders), "a copy goes only when each of the R has proven its own"
                assert len(holders) == self.replication
            self.act(me, basis, decision)
            busy |= not decision.settled
        return busy

    def act(self, me: bytes, basis: bytes, decision: Decision) -> None:
        node = self.nodes[me]
        node.waited[basis] = node.waited.get(basis, 0) + 1 if decision.short else 0
        node.before[basis] = set(node.held[basis])
        for target in decision.send:
            self.give(me, target, basis)
        if decision.drop:
            there = node.held.pop(basis)
            others = [a for a, other in self.nodes.items() if other.held.get(basis, set()) >= there]
            assert len(others) >= self.replication, "a drop leaves R copies of what was dropped"

    def looks(self, rounds: int, seed: int) -> bool:
        busy = True
        for number in range(rounds):
            self.now += LOOK_S
            order = sorted(self.nodes)
            random.Random(seed + number).shuffle(order)
            busy = False
            for agent in order:
                busy |= self.look(agent)
        return busy


NODE = st.integers(0, 11).map(key)
STEP = st.one_of(
    st.tuples(st.just("join"), NODE),
    st.tuples(st.just("leave"), NODE),
    st.tuples(st.just("crash"), NODE),
    st.tuples(st.just("write"), st.sampled_from(BASES)),
    st.tuples(st.just("look"), st.integers(1, 8)),
)


def run(model: Model, steps: list[tuple[str, object]], seed: int) -> None:
    for number, (name, what) in enumerate(steps):
        if name == "look":
            model.looks(int(str(what)), seed + 100 * number)
        elif name == "write":
            model.write(bytes(what), number)  # type: ignore[call-overload]
        else:
            getattr(model, name)(what)


@given(st.integers(1, 3), st.lists(STEP, max_size=30), st.integers(0, 1_000))
@settings(max_examples=120, deadline=None)
def test_at_rest_the_nearest_hold_everything_and_nobody_else_does(
    replication: int, steps: list[tuple[str, object]], seed: int
) -> None:
    model = Model(replication)
    model.join(key(100))
    run(model, steps, seed)
    assert not model.looks(40, seed), "it comes to rest"
    sent = model.sent
    assert not model.looks(5, seed)
    assert model.sent == sent, "at rest nothing is sent"
    for basis in BASES:
        if model.written[basis]:
            holding = [agent for agent, node in model.nodes.items() if basis in node.held]
            assert sorted(holding) == sorted(model.holders(basis))
            assert len(holding) == min(replication, len(model.nodes))
            assert sorted(model.copies(basis)) == sorted(holding), "nothing is lost"


@given(st.lists(STEP, max_size=20), st.integers(0, 1_000))
@settings(max_examples=60, deadline=None)
def test_claims_alone_never_cost_a_copy(steps: list[tuple[str, object]], seed: int) -> None:
    """Three nodes say they hold everything and keep nothing; what honest nodes hold stays at R of them."""
    model = Model(3)
    model.join(key(100))
    for number in (0, 1, 2):
        model.join(key(number), liar=True)

    def forget() -> None:
        for node in model.nodes.values():
            if node.liar:
                node.held.clear()

    for name, what in [*steps, ("look", 30)]:
        if name in ("leave", "crash") and what in model.nodes and model.nodes[bytes(what)].liar:  # type: ignore[call-overload]
            continue
        before = {basis: len(model.copies(basis)) for basis in BASES}
        run(model, [(name, what)], seed)
        forget()
        if name == "look":
            for basis in BASES:
                if model.written[basis]:
                    assert len(model.copies(basis)) >= min(3, before[basis])


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_a_node_that_flaps_costs_one_copy_and_no_churn(flaps: list[bool], seed: int) -> None:
    model = Model(3)
    for number in range(6):
        model.join(key(number))
    model.write(BASES[0], 1)
    model.looks(3, seed)
    flapping = model.holders(BASES[0])[0]
    node = model.nodes[flapping]
    for up in flaps:
        if up:
            model.nodes[flapping] = node
        else:
            model.nodes.pop(flapping, None)
        model.changed_at = model.now - LAG_LOOKS * LOOK_S  # everybody sees it at once
        model.looks(1, seed)
    assert model.sent <= 3, "the one who stands in got a copy from each who thought it their turn, once"


def test_the_nearest_who_has_it_sends_and_the_next_only_after_a_look() -> None:
    a, b, c, d = (bytes([n]) * 32 for n in range(4))
    seen = Situation(c, 3, (a, b, c, d), covers=frozenset((b,)), lacks=frozenset((a,)), steady=1)
    assert decide(seen).send == ()
    assert decide(replace(seen, waited=1)).send == (a,)
    assert decide(replace(seen, me=b, covers=frozenset((c,)))).send == (a,)
    sends = [decide(replace(seen, waited=looks)).send != () for looks in range(10)]
    assert [looks for looks, sent in enumerate(sends) if sent] == [1, 2, 4, 8]
    assert decide(replace(seen, waited=1, steady=0)).send == (), "not in the middle of a burst"
    assert decide(replace(seen, leaving=True, steady=0)).send == (a,), "who goes does not wait"


def test_nothing_is_dropped_before_all_have_proven_and_for_long_enough() -> None:
    a, b, c, me = (bytes([n]) * 32 for n in range(4))
    ready = Situation(
        me, 3, (a, b, c, me), covers=frozenset((a, b, c)), proven=frozenset((a, b, c)), beyond_s=DROP_AFTER_S
    )
    assert decide(ready).drop
    for change in (
        {"beyond_s": DROP_AFTER_S - 1},
        {"vouched": True},
        {"proven": frozenset((a, b))},
        {"covers": frozenset((a, b)), "proven": frozenset((a, b))},
        {"covers": frozenset((a, b)), "lacks": frozenset((c,))},
        {"near": (a, b, me)},
        {"near": (a, b)},
        {"leaving": True},
    ):
        assert not decide(replace(ready, **change)).drop, change  # type: ignore[arg-type]


def test_who_does_not_answer_is_neither_trusted_nor_sent_anything() -> None:
    a, b, c, me = (bytes([n]) * 32 for n in range(4))
    for near in ((a, b, me), (a, b, c, me)):
        silent = Situation(me, 3, near, covers=frozenset((a,)), steady=1, beyond_s=2 * DROP_AFTER_S)
        assert decide(silent) == Decision(short=len(near) - 2)
