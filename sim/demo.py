"""The main job, shown on real daemons: load a corpus through five nodes, ask from a sixth that holds nothing.

Every step goes the way a user's would: separate processes, the HTTP API, questions fixed beforehand in
`questions.json`. Then one daemon is killed and the questions are asked again. In the second half
(`sim.demo_learning`) daemons that are left train a model together. The report states what was seen
as figures; a promise that did not hold (an answer that is unverified, missing, or not the same after the
kill) raises `PromiseBroken`.
"""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any, Protocol

import trio

from node.api_client import ApiError
from node.corpus import CorpusEntry, entries
from sim import demo_learning
from sim.errors import PromiseBroken
from sim.testnet import NetworkEvent, RunningNode, open_test_network

BATCH = 250
"""Entries in one request."""
ASKED = 10
"""Hits asked for with each question; all of them must be the same after the kill."""
TOP = 3
"""Hits among which an accepted name counts, and that are shown."""
LOAD_TIMEOUT_S = 60.0
"""For one batch to be on disk."""
POLL_S = 0.2
MEET_TIMEOUT_S = 30.0
"""Until all nodes know each other."""
SETTLE_TIMEOUT_S = 120.0
"""So long no record may reach one of its holders before the demonstration is given up; a machine that is busy
with other things takes longer for all of them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the names that a Python user would accept as its answer."""

    question: str
    accepted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownHit:
    """One hit of an answer; `name` is what the corpus calls the entry, `author` a peer id."""

    id: str
    name: str
    score: float
    author: str
    verified: bool


@dataclass(frozen=True, slots=True)
class ShownAnswer:
    """An answer and its cost as the asked node states it; `accepted`: a right name is in the top three."""

    question: str
    accepted: bool
    hits: tuple[ShownHit, ...]
    cost: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """All figures of one run."""

    seed: int
    nodes: int
    cores: int
    entries: int
    rejected: int
    seconds: dict[str, float]
    entries_per_s: float
    rss_mb: dict[str, float]
    killed: str
    before: tuple[ShownAnswer, ...]
    after: tuple[ShownAnswer, ...]
    lost: int = 0
    """Entries that were shown before the kill, are not afterwards, and cannot be fetched either."""
    learning: demo_learning.LearningReport | None = None
    learning_skipped: str = ""

    @property
    def same(self) -> int:
        """How many questions have the same answer, ids and order, after the kill."""
        return sum(ids(one) == ids(other) for one, other in zip(self.before, self.after, strict=True))

    def figures(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            **asdict(self),
            "before": [_shown(answer) for answer in self.before],
            "after": [_shown(answer) for answer in self.after],
            "same_answers": self.same,
            "questions": len(self.before),
            "summary": {"before": summary(self.before), "after": summary(self.after)},
            "ok": True,
        }


class DemoView(Protocol):
    """Where the demo shows what it does."""

    def phase(self, title: str, total: int | None = None) -> None:
        """A step begins; `total` is how much there is to do."""
        ...

    def progress(self, done: int) -> None:
        """So much of the step's total is done."""
        ...

    def event(self, event: NetworkEvent) -> None:
        """A daemon came or went."""
        ...

    def answer(self, number: int, answer: ShownAnswer) -> None:
        """A question was answered."""
        ...


async def run_demo(
    seed: int, nodes: int, questions: int, view: DemoView, learning: bool = True
) -> DemoReport:
    """Play the whole demo and return its figures; its second half if `learning` and what it needs is there.

    Raises `PromiseBroken`, and `DaemonFailed` when a daemon does not start.
    """
    watch = _StopWatch()
    rng = random.Random(seed)
    chosen = rng.sample(load_questions(), questions)
    view.phase("Reading the docstrings of the standard library")
    corpus = await trio.to_thread.run_sync(lambda: list(entries()))
    watch.lap("read")

    view.phase(f"Starting {nodes} daemons")
    async with open_test_network(nodes, on_event=view.event) as network:
        storing = list(network.nodes)
        await _until_met(storing, nodes - 1)
        watch.lap("start")

        view.phase("Loading them, each node a part", len(corpus))
        names, rejected = await _load(storing, corpus, view)
        load_s = watch.lap("load")

        view.phase("Placing every record on three nodes", len(corpus))
        await _until_settled(storing, len(corpus), view)
        watch.lap("settle")

        view.phase("Starting a node with capacity 0, which holds nothing")
        asker = await network.start(f"node-{nodes + 1}", join=network.bootstrap, flags=["--capacity", "0"])
        await _until_met([asker], nodes)
        await _until_sketched(asker, len(names))
        watch.lap("join")

        view.phase(f"Asking it {questions} questions")
        before = await _ask(asker, chosen, names, view)
        watch.lap("ask")

        victim = rng.choice(storing)
        view.phase(f"Killing {victim.name} with SIGKILL, asking again")
        rss_mb = {node.name: float((await node.get("/v1/status"))["rss_mb"]) for node in network.nodes}
        watch.lap("status")
        await victim.kill()
        after = await _ask(asker, chosen, names, view)
        watch.lap("ask_again")
        lost = await _lost(asker, before, after)
        report = DemoReport(
            seed=seed,
            nodes=nodes,
            cores=os.cpu_count() or 1,
            entries=len(names),
            rejected=rejected,
            seconds=watch.laps,
            entries_per_s=round(len(names) / load_s, 1),
            rss_mb=rss_mb,
            killed=victim.name,
            before=before,
            after=after,
            lost=lost,
        )
        check_promises(report)
        left = [node for node in storing if node is not victim]
        skipped = _why_no_learning(left, learning)
        if not skipped:
            report = replace(report, learning=await demo_learning.run_learning(left, seed, view))
            watch.lap("learn")
        view.phase("Stopping the daemons")
    watch.laps["total"] = watch.total()
    return replace(report, learning_skipped=skipped)


def _why_no_learning(left: Sequence[RunningNode], learning: bool) -> str:
    if not learning:
        return "--no-learning was given"
    if len(left) < demo_learning.LEAST_MEMBERS:
        return f"{len(left)} daemon is left; two are needed"
    return demo_learning.missing()


def load_questions() -> list[Question]:
    """The questions that were fixed before the first query was run."""
    data = json.loads(resources.files("sim").joinpath("questions.json").read_text("utf-8"))
    return [Question(item["question"], tuple(item["accepted"])) for item in data]


def ids(answer: ShownAnswer) -> list[str]:
    """The ids of an answer's hits, best first."""
    return [hit.id for hit in answer.hits]


def summary(answers: Sequence[ShownAnswer]) -> dict[str, Any]:
    """Shares, medians and maxima over the answers to all questions."""
    costs = [answer.cost for answer in answers]
    return {
        "accepted_in_top_3": sum(answer.accepted for answer in answers),
        "ms_median": round(statistics.median(cost["ms"] for cost in costs), 1),
        "ms_max": round(max(cost["ms"] for cost in costs), 1),
        "shards_contacted_median": statistics.median(cost["shards_contacted"] for cost in costs),
        "shards_total": costs[0]["shards_total"],
        "nodes_contacted_median": statistics.median(cost["nodes_contacted"] for cost in costs),
        "shards_missed": sum(cost["shards_missed"] for cost in costs),
        "deadlines_hit": sum(cost["deadline_hit"] for cost in costs),
    }


def check_promises(report: DemoReport) -> None:
    """Raise `PromiseBroken` for the first promise that the figures contradict."""
    if report.rejected:
        raise PromiseBroken(f"{report.rejected} entries of the standard library were rejected")
    for when, answers in (("before", report.before), ("after", report.after)):
        for answer in answers:
            if not answer.hits:
                raise PromiseBroken(f"no answer to {answer.question!r} {when} the kill")
            unverified = [hit for hit in answer.hits if not hit.verified]
            if unverified:
                raise PromiseBroken(f"hit {unverified[0].id} for {answer.question!r} is not verified")
    if report.lost:
        raise PromiseBroken(
            f"{report.lost} entries that were shown cannot be had any more since {report.killed} was killed"
        )


async def _until_met(nodes: Sequence[RunningNode], peers: int) -> None:
    """Wait until each of `nodes` knows `peers` others."""
    with trio.move_on_after(MEET_TIMEOUT_S):
        for node in nodes:
            await _until_knows(node, peers)
        return
    raise PromiseBroken(f"the nodes did not all find each other within {MEET_TIMEOUT_S:g} s")


async def _until_knows(node: RunningNode, peers: int) -> None:
    status = await node.get("/v1/status")
    while status["peers"] < peers:
        await trio.sleep(POLL_S)
        status = await node.get("/v1/status")


async def _until_sketched(asker: RunningNode, total: int) -> None:
    """Ask something, so that the node fetches sketches of what the others hold, and wait until they are here.

    Without them it would ask more shards at first, and answers would change as they come.
    """
    await asker.post("/v1/query", {"text": "what is known here", "k": 1, "cache": False})
    rows = 0
    with trio.move_on_after(MEET_TIMEOUT_S):
        while rows < total:
            await trio.sleep(POLL_S)
            rows = (await asker.get("/v1/status"))["counters"]["summary_rows_held"]


async def _lost(asker: RunningNode, before: Sequence[ShownAnswer], after: Sequence[ShownAnswer]) -> int:
    """How many entries shown before and not afterwards cannot be fetched: which shards are asked may change,
    what the network knows may not."""
    away = {cid for one, other in zip(before, after, strict=True) for cid in {*ids(one)} - {*ids(other)}}
    return sum([not await _is_there(asker, cid) for cid in sorted(away)])


async def _is_there(asker: RunningNode, cid: str) -> bool:
    try:
        await asker.get(f"/v1/entries/{cid}")
    except ApiError:
        return False
    return True


async def _load(
    nodes: Sequence[RunningNode], corpus: Sequence[CorpusEntry], view: DemoView
) -> tuple[dict[str, str], int]:
    """Add the corpus, entry i through node i mod len(nodes); the names by id, and how many were rejected."""
    names: dict[str, str] = {}
    rejected = 0

    async def load(node: RunningNode, part: Sequence[CorpusEntry]) -> None:
        nonlocal rejected
        for start in range(0, len(part), BATCH):
            batch = part[start : start + BATCH]
            body = {"entries": [_body(entry) for entry in batch]}
            answer = await node.post("/v1/entries/batch", body, LOAD_TIMEOUT_S)
            for entry, result in zip(batch, answer["results"], strict=True):
                if "id" in result:
                    names[result["id"]] = entry.name
                else:
                    rejected += 1
            view.progress(len(names) + rejected)

    async with trio.open_nursery() as nursery:
        for index, node in enumerate(nodes):
            nursery.start_soon(load, node, corpus[index :: len(nodes)])
    return names, rejected


def _body(entry: CorpusEntry) -> dict[str, Any]:
    return {
        "text": entry.text,
        "tags": list(entry.tags),
        "domain": entry.domain,
        "key": entry.import_key.hex(),
    }


async def _until_settled(nodes: Sequence[RunningNode], total: int, view: DemoView) -> None:
    """Wait until no node has a record that is missing on one of its holders."""
    pending = least = total
    with trio.move_on_after(SETTLE_TIMEOUT_S) as patience:
        while pending:
            await trio.sleep(POLL_S)
            pending = sum([(await node.get("/v1/status"))["pending"] for node in nodes])
            if pending < least:
                least, patience.deadline = pending, trio.current_time() + SETTLE_TIMEOUT_S
            view.progress(max(0, total - pending))
    if pending:
        raise PromiseBroken(
            f"{pending} records were not on all their holders, and no more arrived for {SETTLE_TIMEOUT_S:g} s"
        )


async def _ask(
    node: RunningNode, questions: Sequence[Question], names: dict[str, str], view: DemoView
) -> tuple[ShownAnswer, ...]:
    answers: list[ShownAnswer] = []
    for number, question in enumerate(questions, 1):
        reply = await node.post("/v1/query", {"text": question.question, "k": ASKED, "cache": False})
        hits = tuple(
            ShownHit(hit["id"], names.get(hit["id"], "?"), hit["score"], hit["author"], hit["verified"])
            for hit in reply["hits"]
        )
        accepted = any(hit.name in question.accepted for hit in hits[:TOP])
        answers.append(ShownAnswer(question.question, accepted, hits, reply["cost"]))
        view.answer(number, answers[-1])
    return tuple(answers)


def _shown(answer: ShownAnswer) -> dict[str, Any]:
    return {**asdict(answer), "hits": [asdict(hit) for hit in answer.hits[:TOP]], "ids": ids(answer)}


class _StopWatch:
    """Seconds of each step, on trio's clock."""

    def __init__(self) -> None:
        self._began = self._last = trio.current_time()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> float:
        now = trio.current_time()
        self.laps[name] = round(now - self._last, 2)
        self._last, took = now, now - self._last
        return took

    def total(self) -> float:
        return round(trio.current_time() - self._began, 2)
