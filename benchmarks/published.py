"""Published projects of Flower, unedited, over four daemons; a run whose coordinator is killed in the middle.

    python -m benchmarks.published CHECKOUT [--only PROJECT[,PROJECT]]

CHECKOUT is a folder with Flower's `examples/`, such as a git checkout of its repository adap/flower, at
commit fdef7af (March 2026). The projects are quickstart-numpy, quickstart-sklearn and, where torch is
installed, advanced-pytorch, which has a Strategy with a `start` of its own, a state on each client, and logs
to W&B (which is disabled here). Each is copied, and the copy's files are held against the SHA-256 that they
have at that commit, before and after all runs. No dataset is downloaded: `benchmarks/standins` lies on the
path in front of the packages `datasets` and `flwr_datasets` and serves scikit-learn's data, to plain Flower
as well. Where a project is to run otherwise than its pyproject.toml says, that comes by `--run-config`.

For each project four daemons are started over loopback, and `roseforest fl run` on all of them, each with its
part; afterwards `fl audit --app` on two nodes. Beside it stand runs of the same project on the same parts in
plain Flower's simulation (`benchmarks.published_apps`), where Ray is installed; both sides' models are judged
by the same code. Apps draw numbers that nobody seeds, so figures of two runs differ as those of two seeds do.

Then quickstart-numpy once more: in the middle of call `CUT_CALL` the daemon that coordinates and its `fl run`
are ended by SIGKILL. That it is the middle is made sure of by stopping another member (SIGSTOP) once it has
answered the call before; it goes on as soon as the others are gone. What stood on record then is held against
the end.

Needs the extras `fl` and `examples`; quickstart-sklearn also pandas; advanced-pytorch torch, torchvision and
wandb; the comparison `flwr[simulation]`. `--only` measures these projects and keeps no result.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import trio

from benchmarks.report import RESULTS, ROOT, Target, at_least, at_most, emit, rounded
from federated.flower.project import files_of, read_project
from node.api_client import ApiError
from sim.testnet import RunningNode, open_test_network

STANDINS = ROOT / "benchmarks/standins"
NODES = 4
SECONDS = 1_800.0
"""For any one command, or run of plain Flower; far more than it takes."""
LOOK_S = 0.01
JOIN_BITS = "2"
DEADLINE_S = 300.0
CUT_PROJECT = "quickstart-numpy"
CUT_CALL = 3
CUT_ROUNDS = 6
CUT_TERMS = ("--deadline", "15", "--lease", "5")
CALLS_A_ROUND = 2
"""One to train, one to evaluate."""
NEAR = 1.1
"""How many times plain Flower's worst figure ours may be, or it ours."""
DEVIATIONS = 4.0
"""How far a sum of draws may lie from its mean, in its standard deviations."""

MODULES = {"scikit-learn": "sklearn"}
"""What a package is imported as, where it is not its name."""


@dataclass(frozen=True, slots=True)
class Project:
    """A published project: what its files hash to, and what is measured of the model, which it writes to
    `file`."""

    name: str
    digest: str
    file: str
    measure: str
    rounds: int
    config: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Packages beside Flower and NumPy."""
    plain_runs: int = 2


PROJECTS = (
    Project(
        "quickstart-numpy",
        "fe422569405528fef70da669a0c996335b85943b8a8141d42175cf8e2018d81d",
        "final_model.npz",
        "value",
        rounds=3,
    ),
    Project(
        "quickstart-sklearn",
        "302c326e6339be12323855631165cbe89e6fc1022a98fbb80b9236a1133553a3",
        "logreg_model.pkl",
        "log_loss",
        rounds=25,
        needs=("pandas", "scikit-learn"),
        plain_runs=3,
    ),
    Project(
        "advanced-pytorch",
        "f5eacef1c46e9963fede7f5f5d3418670c911735daa71088ecd00a94d56d6fa6",
        "final_model.pt",
        "accuracy",
        rounds=10,
        config=("fraction-train=1.0", "fraction-evaluate=1.0"),
        needs=("torch", "torchvision", "wandb", "scikit-learn"),
    ),
)


class Unfit(Exception):
    """The benchmark cannot be run like this; one line that says why."""


@dataclass(slots=True)
class Members:
    """The commands of one run by node, the task, and the folder in which each has one of its own."""

    nodes: Sequence[RunningNode]
    processes: list[trio.Process]
    task: str
    folder: Path

    async def calls(self, number: int) -> list[dict[str, Any]]:
        """The calls of the run as a node knows them; none before it follows the task."""
        return list((await self.log(number))["calls"])

    async def log(self, number: int) -> dict[str, Any]:
        """All that a node knows of the run."""
        try:
            log: dict[str, Any] = await self.nodes[number].get(f"/v1/learning/tasks/{self.task}/calls")
        except ApiError:
            return {"calls": [], "given": None}
        return log


Meanwhile = Callable[[Members], Awaitable[dict[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("checkout", type=Path, help="a folder with Flower's examples/, as of commit fdef7af")
    parser.add_argument("--only", default=",".join(one.name for one in PROJECTS), metavar="PROJECT[,PROJECT]")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    chosen = [one for one in PROJECTS if one.name in names]
    if len(chosen) != len(names):
        parser.error(f"--only: there are {', '.join(one.name for one in PROJECTS)}")
    figures: dict[str, Any] = {"flower": version("flwr"), "nodes": NODES}
    targets: list[Target] = []
    try:
        with tempfile.TemporaryDirectory(prefix="roseforest-published-") as place:
            for project in chosen:
                print(f"{project.name} …", file=sys.stderr, flush=True)
                found, promised = measure(project, options.checkout, Path(place) / project.name)
                figures[project.name] = found
                targets += [one._replace(figure=f"{project.name}: {one.figure}") for one in promised]
    except Unfit as problem:
        print(f"benchmarks.published: {problem}", file=sys.stderr)
        return 2
    whole = len(chosen) == len(PROJECTS)
    emit("published", figures, targets, RESULTS / "published.json" if whole else None)
    return 0 if all(target.met for target in targets) else 1


def measure(project: Project, checkout: Path, folder: Path) -> tuple[dict[str, Any], list[Target]]:
    """Figures and targets of one project. Raises `Unfit`."""
    missing = [name for name in project.needs if not _there(MODULES.get(name, name))]
    if missing:
        return {"not_run": f"needs {', '.join(missing)}: pip install {' '.join(missing)}"}, []
    root = folder / project.name
    source = checkout / "examples" / project.name
    if not source.is_dir():
        raise Unfit(f"{source} is not there: CHECKOUT is a folder with Flower's examples/")
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("__pycache__"))
    _check(project, root)
    settings = " ".join(project.config) or "the project's own"
    figures: dict[str, Any] = {"files_sha256": project.digest, "run_config": settings}
    ran = trio.run(run, project, root, folder / "run", ("--deadline", f"{DEADLINE_S:g}"), project.config)
    figures |= ran
    targets = _targets(ran, project.rounds * CALLS_A_ROUND)
    plain, seconds = plainly(project, root, folder)
    if plain:
        figures |= {"plain_flower": [rounded(one, 4) for one in plain], "plain_flower_seconds": seconds}
    else:
        figures["plain_flower"] = "not measured: pip install 'flwr[simulation]'"
    targets += _compared(project, ran[project.measure], plain)
    if project.name == CUT_PROJECT:
        config = (f"num-server-rounds={CUT_ROUNDS}",)
        cut = trio.run(run, project, root, folder / "cut", CUT_TERMS, config, kill_coordinator)
        figures["coordinator_killed"] = cut
        targets += [
            one._replace(figure=f"coordinator killed: {one.figure}")
            for one in (
                at_most("calls on record that are lost", CALLS_A_ROUND, cut["lost_calls"]),
                at_least("calls in the end", CUT_ROUNDS * CALLS_A_ROUND, cut["calls"]),
                at_least("audits that find all alike", 2, cut["audits_alike"]),
                at_least("members that are left and ended well", NODES - 1, cut["ended_well"]),
                _chance(cut[project.measure], CUT_ROUNDS),
            )
        ]
    _check(project, root)
    return figures, targets


async def run(
    project: Project,
    root: Path,
    folder: Path,
    terms: Sequence[str],
    config: Sequence[str],
    meanwhile: Meanwhile | None = None,
) -> dict[str, Any]:
    """One run of the project over four daemons, and two audits of it; `meanwhile` is done while it runs."""
    settings = [word for pair in config for word in ("--run-config", pair)]
    found_network(folder / "net")
    async with open_test_network(NODES, folder / "net") as network:
        nodes = network.nodes
        create = ["create", str(root), "--mode", "server-app", "--min-members", str(NODES)]
        made = await command(nodes[0], folder / "create", *create, *terms, *settings, "--json")
        task = made["id"]
        for node in nodes:
            await until(_heard(node, task))
        began = time.perf_counter()
        members = Members(nodes, [], task, folder)
        try:
            for part, node in enumerate(nodes):
                own = ["--partition-id", str(part), "--num-partitions", str(NODES), "--json"]
                members.processes.append(
                    await begin(node, folder / f"member-{part}", "run", str(root), task, *own)
                )
            found = {} if meanwhile is None else await meanwhile(members)
            with trio.fail_after(SECONDS):
                for process in members.processes:
                    await process.wait()
        finally:
            for process in members.processes:
                if process.poll() is None:
                    process.kill()
        seconds = time.perf_counter() - began
        ends = [_last(folder / f"member-{part}/out") for part in range(NODES)]
        left = [part for part, end in enumerate(ends) if end is not None]
        if not left:
            raise RuntimeError(f"no member ended well:\n{(folder / 'member-0/err').read_text()[-2_000:]}")
        calls = await members.calls(left[-1])
        audits = [
            await command(nodes[part], folder / f"audit-{part}", "audit", task, "--app", str(root), "--json")
            for part in left[-2:]
        ]
        (led,) = [part for part in left if (ends[part] or {})["coordinated"]]
        alike = sum(not one["differences"] and one["same_result"] is not None for one in audits)
        if meanwhile is not None:
            found |= await _kept(members, left[-1], found.pop("stood"), ends[led])
        return {
            **found,
            "seconds": rounded(seconds),
            "calls": len(calls),
            "answers": [len(one["answers"]) for one in calls],
            "ended_well": sum(process.returncode == 0 for process in members.processes),
            "audits_alike": alike if audits[0] == audits[1] else 0,
            "result_byte_for_byte": all(one["same_result"] for one in audits),
            project.measure: rounded(await judged(project, root, folder / f"member-{led}"), 4),
        }


def found_network(folder: Path) -> None:
    """The founder's home; others join at little cost, which is not what is measured here."""
    home = folder / "node-1"
    home.parent.mkdir(parents=True)
    line = ["init", "--home", str(home), "--name", "published", "--join-bits", JOIN_BITS]
    subprocess.run(
        [sys.executable, "-P", "-m", "node", *line], env=environment(), check=True, capture_output=True
    )


async def kill_coordinator(members: Members) -> dict[str, Any]:
    """End the coordinator's daemon and its `fl run` while a call is open; what stood then, and when the next
    call came."""
    nodes = members.nodes
    await until(_called(members, 0, 1))
    coordinator = (await members.calls(0))[0]["coordinator"]
    dead = [node.started.agent for node in nodes].index(coordinator)
    *_, watcher, slow = [part for part in range(NODES) if part != dead]

    async def answered() -> bool:
        calls = await members.calls(watcher)
        last = calls[CUT_CALL - 2]["answers"] if len(calls) >= CUT_CALL - 1 else []
        return nodes[slow].started.agent in [one["agent"] for one in last]

    await until(answered)
    members.processes[slow].send_signal(signal.SIGSTOP)
    try:
        await until(_called(members, watcher, CUT_CALL))
        members.processes[dead].send_signal(signal.SIGKILL)
        await nodes[dead].kill()
        killed = time.perf_counter()
        stood = await members.calls(watcher)
    finally:
        members.processes[slow].send_signal(signal.SIGCONT)

    async def taken_over() -> bool:
        return any(one["coordinator"] != coordinator for one in await members.calls(watcher))

    await until(taken_over)
    return {
        "stood": stood,
        "killed_in_call": len(stood),
        "answers_when_killed": [len(one["answers"]) for one in stood],
        "seconds_to_next_call": rounded(time.perf_counter() - killed),
    }


async def _kept(
    members: Members, number: int, stood: Sequence[Mapping[str, Any]], led: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What became of the calls and answers that stood on record at the kill."""
    log = await members.log(number)
    calls = log["calls"]
    records = {one["call"] for one in calls}
    given = {record for one in calls for record in one["given"]} | set(log["given"] or ())
    return {
        "lost_calls": sum(one["call"] not in records for one in stood),
        "lost_answers": sum(one["record"] not in given for call in stood for one in call["answers"]),
        "coordinators": len({one["coordinator"] for one in calls}),
        "replayed_calls": (led or {}).get("replayed"),
    }


def plainly(project: Project, root: Path, folder: Path) -> tuple[list[float], float]:
    """The measure of each run in plain Flower, and the seconds that one takes; none where Ray is missing."""
    if not _there("ray"):
        return [], 0.0
    found, seconds = [], []
    for number in range(project.plain_runs):
        place = folder / f"plain-{number}"
        place.mkdir()
        began = time.perf_counter()
        arguments = ["simulate", str(root), str(NODES), *project.config]
        done = _apps(arguments, root, place)
        if done.returncode or not (place / project.file).exists():
            raise RuntimeError(f"plain Flower's run of {project.name} failed:\n{done.stderr[-2_000:]}")
        seconds.append(time.perf_counter() - began)
        found.append(_measured(project, root, place))
    return found, rounded(median(seconds))


async def judged(project: Project, root: Path, place: Path) -> float:
    """The measure of the model that the project's ServerApp wrote in this folder."""
    return await trio.to_thread.run_sync(_measured, project, root, place)


def _measured(project: Project, root: Path, place: Path) -> float:
    done = _apps(["judge", project.name, str(place / project.file)], root, place)
    if done.returncode:
        raise RuntimeError(f"the model of {project.name} was not judged:\n{done.stderr[-2_000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _apps(arguments: Sequence[str], root: Path, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.published_apps", *arguments],
        cwd=place,
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


async def command(node: RunningNode, place: Path, *arguments: str) -> dict[str, Any]:
    """What `roseforest fl ARGUMENTS` prints on a node's home, as JSON; it works in a folder of its own."""
    process = await begin(node, place, *arguments)
    with trio.fail_after(SECONDS):
        code = await process.wait()
    value = _last(place / "out")
    if value is None:
        raise RuntimeError(f"fl {arguments[0]} ended with {code}: {(place / 'err').read_text()[-2_000:]}")
    return value


async def begin(node: RunningNode, place: Path, *arguments: str) -> trio.Process:
    """Start `roseforest fl ARGUMENTS` on a node's home, in a new folder that its output goes to."""
    place.mkdir()  # noqa: ASYNC240
    line = [sys.executable, "-P", "-m", "node", "fl", *arguments, "--home", str(node.home.root)]
    with open(place / "out", "wb") as out, open(place / "err", "wb") as err:  # noqa: ASYNC230
        return await trio.lowlevel.open_process(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=place, env=environment()
        )


def environment(*more: Path) -> dict[str, str]:
    """This process's environment without settings for a node; stand-ins in front, W&B and telemetry off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROSEFOREST_")}
    path = os.pathsep.join(str(one) for one in (STANDINS, *more, ROOT))
    off = {"WANDB_MODE": "disabled", "WANDB_SILENT": "true", "FLWR_TELEMETRY_ENABLED": "0"}
    return {**kept, **off, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so. Raises `trio.TooSlowError`."""
    with trio.fail_after(SECONDS):
        while not await probe():  # noqa: ASYNC110
            await trio.sleep(LOOK_S)


def _heard(node: RunningNode, task: str) -> Callable[[], Awaitable[bool]]:
    async def heard() -> bool:
        try:
            await node.get(f"/v1/learning/tasks/{task}")
        except ApiError:
            return False
        return True

    return heard


def _called(members: Members, number: int, calls: int) -> Callable[[], Awaitable[bool]]:
    async def called() -> bool:
        return len(await members.calls(number)) >= calls

    return called


def _targets(ran: Mapping[str, Any], calls: int) -> list[Target]:
    missing = NODES * calls - sum(ran["answers"])
    return [
        at_least("members that ended well", NODES, ran["ended_well"]),
        at_least("calls", calls, ran["calls"]),
        at_most("answers that are missing", 0, missing),
        at_least("audits that find all alike", 2, ran["audits_alike"]),
    ]


def _compared(project: Project, ours: float, plain: Sequence[float]) -> list[Target]:
    """Ours beside plain Flower's worst; a sum of draws beside what it is on average."""
    if project.measure == "value":
        return [_chance(ours, project.rounds)]
    if not plain:
        return []
    if project.measure == "log_loss":
        return [at_most("log loss, times that of plain Flower's worst run", NEAR, ours / max(plain))]
    return [at_most("accuracy of plain Flower's worst run, times ours", NEAR, min(plain) / ours)]


def _chance(value: float, rounds: int) -> Target:
    """Each round adds the mean of four (where one is gone, three) draws from [0, 1)."""
    apart = abs(value - 1 - rounds / 2) / (rounds / 12 / NODES) ** 0.5
    return at_most("apart from the mean of its draws, in standard deviations", DEVIATIONS, rounded(apart))


def _check(project: Project, root: Path) -> None:
    found = _digest(root)
    if found != project.digest:
        raise Unfit(f"{project.name} is not that of Flower's commit fdef7af: its files hash to {found}")


def _digest(root: Path) -> str:
    """One hash of a project's pyproject.toml and Python files, by path and content."""
    read_project(root)
    return sha256("".join(f"{digest}  {file}\n" for file, digest in files_of(root)).encode()).hexdigest()


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _last(file: Path) -> dict[str, Any] | None:
    """The last line of a command's output as JSON; None without one."""
    lines = file.read_text(encoding="utf-8").splitlines()
    value: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return value


if __name__ == "__main__":
    sys.exit(main())
