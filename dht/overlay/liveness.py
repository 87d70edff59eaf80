"""Liveness: whom to believe alive, how long to wait for them, and when to ask a silent one again.

A dead peer must cost one timeout in total, not one in every request. So a peer that fails once is *suspected*
at once, though it was alive a moment ago; suspects are left out until a probe finds them answering, and
probes back off exponentially (as SWIM separates suspicion from death; Das, Gupta and Motivala, 2002). How
long to wait follows from what the peer's own answers to that method took: the 99th percentile of its recent
history times a margin, between a floor and a cap; a request that timed out enters the history with the time
it was given, so that the next one gets more. Of a peer without a history the others' is expected: what this
method takes, or, if it never answered anything, what first answers take, connecting included; of a method
that nobody has answered yet, the cap. Slow is not
dead: when the peer answered something else in the latter half of that wait, it takes several such failures in
a row. When our own machine is late, all waits are longer. Who comes back and speaks is trusted at once,
unless that proved wrong twice since its last answer (it reaches us, we do not reach it). Old failures fade.
Not to be asked is one thing, not to be counted on another: a single lost message makes a suspect, but what
lies where is only decided anew once a peer is *gone*: it could not be reached, or a second request to it
timed out as well, or it said good-bye. Where messages get lost two are not enough: of every few hundred
living peers one would be gone with each round of probes. So suspicions that soon proved wrong are counted,
and as many timeouts in a row are asked for as chance makes rarer than `FALSE_GONE` (as Lifeguard does for a
node that is slow itself; Dadgar, Phillips and Currey, 2017).
Pure: `now` is an argument, in seconds of a monotonic clock; state is kept of a bounded number of peers.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from chain.identity import AgentId

MAX_PEERS = 4096
"""Peers with a state; one more forgets the one that was silent longest."""
MAX_SERIES = 8
"""Methods with a history of their own for one peer; one more forgets the one used least recently."""
HISTORY = 48
"""Round-trip times kept of one peer and method."""
MIN_HISTORY = 4
"""Round-trip times needed before they are trusted; until then the cap applies."""
SHARED_HISTORY = 256
"""Round-trip times kept of all peers together, for each method and for first answers."""
MAX_SHARED = 64
"""Methods of which they are kept; one more forgets the one used least recently."""
PERCENTILE = 0.99
MARGIN = 3.0
TIMEOUT_FLOOR = 0.3
"""Shortest adaptive timeout in seconds: what a busy machine may pause without being dead."""
STRANGER_FLOOR = 0.5
"""The same for a peer that never answered: it has to take part in a handshake, too."""
WORK_FLOOR = 2.0
"""The same for work, which waits for disks, and behind the work of others."""
TIMEOUT_CAP = 2.0
"""Longest adaptive timeout in seconds of a question; work is given longer (`most`)."""
LAG_MARGIN = 2.0
LAG_CAP = 3.0
"""Seconds that are added to any wait at most because our own machine is late."""
LAG_FADE = 0.7
"""What is left of a lag with each later look that finds less."""
HEDGE_PERCENTILE = 0.95
"""Share of answers that have come by the time that somebody else is asked beside a peer."""
HEDGE_FLOOR = 0.05
HEDGE_DEFAULT = 0.25
"""Seconds after which somebody else is asked beside a peer, when nothing is known of anybody's answers."""
SMOOTHING = 0.125
"""Weight of a new round-trip time in the moving average (as TCP's; RFC 6298)."""
GONE_AFTER = 2
"""Failures since the last answer that make a peer gone; one is enough when it cannot be reached at all."""
GONE_AFTER_MOST = 5
"""So many at most where messages get lost."""
FALSE_GONE = 1e-4
"""How likely so many losses in a row may be."""
FALSE_WITHIN = 10.0
"""Who shows life so soon after it became a suspect was alive all the time: messages failed, not the peer."""
LOSS_WEIGHT = 1 / 512
"""Weight of one answer, or of one timeout of a living peer, in the share of requests that get lost."""
SLOW_STRIKES = 3
"""Timeouts of one method in a row that make a peer suspect although it answers other methods."""
BACKOFF_FIRST = 0.25
"""Seconds from the first failure to the first probe; doubles with every failed probe."""
BACKOFF_CAP = 15.0
"""Longest wait between two probes: so long a fault that is over may still be believed in, when the peer does
not speak to us itself."""
DEPARTED_FOR = 60.0
"""Seconds until a peer that said good-bye is probed."""
PARTING = 5.0
"""Seconds after a good-bye in which what still arrives is no sign of life."""
BROKEN_PROMISES = 2
"""Times that a peer may be trusted for speaking and then fail, until only an answer counts."""
FADE_AFTER = 600.0
"""Seconds since the last failure after which past ones no longer lengthen the back-off."""


@dataclass(slots=True)
class _Series:
    times: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    strikes: int = 0


@dataclass(slots=True)
class _Peer:
    rtt: float | None = None
    heard_at: float = -math.inf
    failures: int = 0
    failed_at: float = -math.inf
    suspect: bool = False
    suspect_at: float = -math.inf
    gone: bool = False
    misses: int = 0
    unanswered: int = 0
    """How many of the misses were timeouts."""
    probe_at: float = -math.inf
    departed_at: float = -math.inf
    on_its_word: bool = False
    broken: int = 0
    series: OrderedDict[str, _Series] = field(default_factory=OrderedDict)


class Liveness:
    """What past requests say about peers. Every method is O(1), `suspects` sorts."""

    def __init__(self, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._peers: OrderedDict[AgentId, _Peer] = OrderedDict()
        self._suspects: set[AgentId] = set()
        self._shared: OrderedDict[str, deque[float]] = OrderedDict()
        self._first: deque[float] = deque(maxlen=SHARED_HISTORY)
        self._lag = 0.0
        self.loss = 0.0
        """Share of requests to living peers that get lost, as it has been lately."""

    def __len__(self) -> int:
        return len(self._peers)

    def timeout(self, agent: AgentId, method: str, most: float = TIMEOUT_CAP) -> float:
        """Seconds to wait for an answer of `agent` to `method`, at most `most`."""
        times, failures = self._expected(agent, method)
        slack = min(LAG_CAP, LAG_MARGIN * self._lag)
        if len(times) < MIN_HISTORY:
            return most + slack
        peer = self._peers.get(agent)
        floor = STRANGER_FLOOR if peer is None or peer.rtt is None else TIMEOUT_FLOOR
        if most > TIMEOUT_CAP:
            floor = WORK_FLOOR
        wait = max(floor, MARGIN * _percentile(times, PERCENTILE))
        # what others take may be too little for this one: each failure doubles it
        return min(most, wait * 2.0 ** min(failures, 4)) + slack

    def lagged(self, seconds: float) -> None:
        """Something of our own happened so much later than it was due: to us everybody looks as late as
        that."""
        self._lag = max(min(seconds, LAG_CAP), LAG_FADE * self._lag)

    def hedge(self, agent: AgentId, method: str) -> float:
        """Seconds after which somebody else may be asked beside `agent`: it is later than most answers
        are."""
        times, _ = self._expected(agent, method)
        if len(times) < MIN_HISTORY:
            return HEDGE_DEFAULT
        return min(TIMEOUT_CAP, max(HEDGE_FLOOR, _percentile(times, HEDGE_PERCENTILE)))

    def latency(self, agent: AgentId) -> float | None:
        """Smoothed round-trip time in seconds; None before the first answer."""
        peer = self._peers.get(agent)
        return None if peer is None else peer.rtt

    def answered(self, agent: AgentId, method: str, seconds: float, now: float) -> bool:
        """`agent` answered `method` after `seconds`. Returns whether it was suspected until now."""
        peer = self._touch(agent)
        series = self._series(peer, method)
        series.times.append(seconds)
        series.strikes = 0
        if peer.rtt is None:
            self._first.append(seconds)
        else:
            self._share(method).append(seconds)
        peer.rtt = seconds if peer.rtt is None else (1 - SMOOTHING) * peer.rtt + SMOOTHING * seconds
        self.loss *= 1 - LOSS_WEIGHT
        return self.replied(agent, now)

    def replied(self, agent: AgentId, now: float) -> bool:
        """`agent` replied to something, however. Returns whether it was suspected until now."""
        peer = self._touch(agent)
        peer.on_its_word, peer.broken = False, 0
        return self._alive(agent, peer, now)

    def heard(self, agent: AgentId, now: float, anew: bool = False) -> bool:
        """`agent` spoke to us. Returns whether it was suspected until now, and is not any more.

        A suspect is trusted for that, or else it may at least be probed at once. `anew`: it connected or
        introduced itself, so that a good-bye is void.
        """
        peer = self._touch(agent)
        if peer.suspect:
            if now < peer.departed_at + PARTING and not anew:
                return False
            if peer.broken >= BROKEN_PROMISES:
                self.hasten(agent, now)
                return False
            peer.on_its_word = True
        return self._alive(agent, peer, now)

    def timed_out(self, agent: AgentId, method: str, waited: float, sent_at: float, now: float) -> bool:
        """A request sent at `sent_at` was given up after `waited` s. Returns whether suspicion is new."""
        peer = self._touch(agent)
        series = self._series(peer, method)
        series.times.append(waited)
        series.strikes += 1
        if peer.heard_at > now - waited / 2 and series.strikes < SLOW_STRIKES:
            return False
        return self._suspect(agent, peer, sent_at, now, sure=False)

    def unreachable(self, agent: AgentId, sent_at: float, now: float) -> bool:
        """No connection could be had, or it broke. Returns whether suspicion is new."""
        return self._suspect(agent, self._touch(agent), sent_at, now, sure=True)

    def departed(self, agent: AgentId, now: float) -> None:
        """`agent` said that it goes: suspect it, and do not probe it soon."""
        peer = self._touch(agent)
        peer.suspect, peer.probe_at, peer.departed_at = True, now + DEPARTED_FOR, now
        peer.misses, peer.gone = max(GONE_AFTER, peer.misses), True
        self._suspects.add(agent)

    def is_suspect(self, agent: AgentId) -> bool:
        """Whether the last we know of `agent` is a failure."""
        return agent in self._suspects

    @property
    def suspected(self) -> int:
        """How many are suspected."""
        return len(self._suspects)

    def is_gone(self, agent: AgentId) -> bool:
        """Whether `agent` is a suspect, and more than lost messages speaks against it."""
        return agent in self._suspects and self._peers[agent].gone

    @property
    def gone_after(self) -> int:
        """So many failures in a row make a peer gone as things are."""
        if self.loss**GONE_AFTER <= FALSE_GONE:
            return GONE_AFTER
        return min(GONE_AFTER_MOST, math.ceil(math.log(FALSE_GONE) / math.log(min(self.loss, 0.5))))

    def misses(self, agent: AgentId) -> int:
        """How often `agent` has failed since it last showed life."""
        peer = self._peers.get(agent)
        return 0 if peer is None else peer.misses

    def backoff(self, agent: AgentId, now: float) -> float:
        """Seconds until a suspect may be asked again; 0 when it may, and for whom nothing speaks against."""
        peer = self._peers.get(agent)
        return max(0.0, peer.probe_at - now) if peer is not None and peer.suspect else 0.0

    def failures(self, agent: AgentId) -> int:
        """How often `agent` has failed lately."""
        peer = self._peers.get(agent)
        return 0 if peer is None else peer.failures

    def heard_at(self, agent: AgentId) -> float:
        """When `agent` last showed life; minus infinity when never."""
        peer = self._peers.get(agent)
        return -math.inf if peer is None else peer.heard_at

    def suspects(self) -> list[AgentId]:
        """All suspects, ascending."""
        return sorted(self._suspects)

    def hasten(self, agent: AgentId, now: float) -> None:
        """There is a sign of `agent`'s return (it connected): its back-off ends now."""
        peer = self._peers.get(agent)
        if peer is not None and peer.suspect:
            peer.probe_at = min(peer.probe_at, now)

    def forget(self, agent: AgentId) -> None:
        """Drop all state of `agent`."""
        self._peers.pop(agent, None)
        self._suspects.discard(agent)

    def _alive(self, agent: AgentId, peer: _Peer, now: float) -> bool:
        was_suspect = peer.suspect
        if was_suspect and now <= peer.suspect_at + FALSE_WITHIN:
            self.loss = 1 - (1 - self.loss) * (1 - LOSS_WEIGHT) ** peer.unanswered
        peer.heard_at = now
        peer.suspect, peer.gone, peer.misses, peer.unanswered = False, False, 0, 0
        self._suspects.discard(agent)
        if now - peer.failed_at > FADE_AFTER:
            peer.failures = 0
        return was_suspect

    def _suspect(self, agent: AgentId, peer: _Peer, sent_at: float, now: float, *, sure: bool) -> bool:
        if peer.suspect and sent_at < peer.failed_at:
            return False  # one of many requests that were under way when it failed: the same failure
        is_new = not peer.suspect
        peer.misses = max(peer.misses + 1, GONE_AFTER if sure else 0)
        peer.unanswered += not sure
        peer.gone |= sure or peer.misses >= self.gone_after
        if is_new:
            peer.suspect_at = now
        if peer.on_its_word:
            peer.on_its_word = False
            peer.broken += 1
        if is_new and now - peer.failed_at > FADE_AFTER:
            peer.failures = 0
        wait = min(BACKOFF_CAP, BACKOFF_FIRST * 2.0 ** min(peer.failures, 16))
        peer.failures += 1
        peer.failed_at = now
        peer.suspect, peer.probe_at = True, now + wait
        self._suspects.add(agent)
        return is_new

    def _expected(self, agent: AgentId, method: str) -> tuple[deque[float], int]:
        """The times by which to judge `agent`, and its failures if these are not its own."""
        peer = self._peers.get(agent)
        if peer is None:
            return self._first, 0
        series = peer.series.get(method)
        if series is not None and len(series.times) >= MIN_HISTORY:
            return series.times, 0
        if peer.rtt is None:
            return self._first, peer.failures
        return self._shared.get(method, deque()), peer.failures

    def _share(self, method: str) -> deque[float]:
        times = self._shared.get(method)
        if times is None:
            if len(self._shared) >= MAX_SHARED:
                self._shared.popitem(last=False)
            times = self._shared[method] = deque(maxlen=SHARED_HISTORY)
        self._shared.move_to_end(method)
        return times

    def _series(self, peer: _Peer, method: str) -> _Series:
        series = peer.series.get(method)
        if series is None:
            if len(peer.series) >= MAX_SERIES:
                peer.series.popitem(last=False)
            series = peer.series[method] = _Series()
        peer.series.move_to_end(method)
        return series

    def _touch(self, agent: AgentId) -> _Peer:
        peer = self._peers.get(agent)
        if peer is None:
            if len(self._peers) >= self._max_peers:
                oldest, _ = self._peers.popitem(last=False)
                self._suspects.discard(oldest)
            peer = self._peers[agent] = _Peer()
        self._peers.move_to_end(agent)
        return peer


def _percentile(times: Iterable[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[math.ceil(share * len(ordered)) - 1]
