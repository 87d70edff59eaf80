"""What every benchmark has in common: which machine, which commit, which targets, and how a result is shown.

A result is one JSON object, `{"name", "commit", "machine", "figures", "targets"}`. `emit` prints it as a
table, then as the last line of standard output, and keeps it in a file when given one. Nothing in it names
the host or a path.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PART_TIMEOUT_S = 3_600
PAGE = ROOT / "docs" / "sharding.md"
"""Where the tables of some benchmarks stand."""


class Target(NamedTuple):
    """One promise about one figure: `target` reads like "≥ 50", `met` says whether `value` keeps it."""

    figure: str
    target: str
    value: float
    met: bool


def at_least(figure: str, floor: float, value: float) -> Target:
    """The target that `value` reaches `floor`."""
    return Target(figure, f"≥ {floor:g}", value, value >= floor)


def at_most(figure: str, ceiling: float, value: float) -> Target:
    """The target that `value` stays within `ceiling`."""
    return Target(figure, f"≤ {ceiling:g}", value, value <= ceiling)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and interpreter of this machine; no host name, no user, no path."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checkout's commit, with "+" behind it when files differ from it; "unknown" outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + "+" if _git("status", "--porcelain", "--untracked-files=no") else head


def rounded(value: float, digits: int = 3) -> float:
    """`value` to `digits` significant digits, as results are kept."""
    return float(f"{value:.{digits}g}")


def emit(
    name: str, figures: Mapping[str, Any], targets: Sequence[Target], out: Path | None = None
) -> dict[str, Any]:
    """Print figures and targets, write the result to `out` if given, and print it as one line of JSON,
    last.
    """
    result = {
        "name": name,
        "commit": commit(),
        "machine": machine(),
        "figures": dict(figures),
        "targets": [target._asdict() for target in targets],
    }
    for line in _lines(figures):
        print(line)
    print()
    for target in targets:
        verdict = "met" if target.met else "UNMET"
        print(f"{verdict:<5}  {target.figure}: {target.value:g} (target {target.target})")
    print()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False), flush=True)
    return result


def in_own_process(benchmark: str, *arguments: Any) -> dict[str, Any]:
    """What `python -m benchmarks.BENCHMARK --part ARGUMENTS` prints, JSON in and out: its memory is its own.

    Raises `subprocess.SubprocessError` where it fails or takes more than an hour.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{benchmark}", "--part", json.dumps(arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PART_TIMEOUT_S,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def document(name: str, lines: Iterable[str], page: Path = PAGE) -> None:
    """Put these lines between the two comments in a page of docs/ that bear this name.

    Raises `ValueError` where there are not exactly two.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page.name} has no place for {name}: {begin} and {end} in this order")
    body = "\n".join(lines).strip()
    page.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")


def _lines(figures: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """A line for every figure; those of a group are indented below its name."""
    width = max((len(label) for label in figures), default=0)
    for label, value in figures.items():
        if isinstance(value, Mapping):
            yield f"{before}{label}"
            yield from _lines(value, before + "  ")
        else:
            yield f"{before}{label:<{width}}  {value}"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
