"""What a user's app raised, told to its user: a traceback of its own lines, and one line with the place.

Between our request and the app lie frames of ours, of flwr and of Python's import; none of them helps. What
stands above the app's first frame is left out of the traceback, and a place is named as the project names
its files.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def told(error: BaseException, root: Path | None) -> str:
    """Print the traceback of `error` on standard error; the error in one line, with its place in the project.

    `root` is the project's folder. An error that never passed through it keeps its whole traceback.
    """
    report = traceback.TracebackException.from_exception(error)
    own = [] if root is None else [n for n, frame in enumerate(report.stack) if _inside(frame.filename, root)]
    place = ""
    if own:
        last = report.stack[own[-1]]
        place = _place(last.filename, last.lineno, root)
        report.stack = traceback.StackSummary.from_list(list(report.stack)[own[0] :])
    elif isinstance(error, SyntaxError) and error.filename and _inside(error.filename, root):
        # The parser names the place itself; there is no frame of a file that does not parse.
        report.stack = traceback.StackSummary.from_list([])
        place = _place(error.filename, error.lineno, root)
    print("".join(report.format()), end="", file=sys.stderr, flush=True)
    said = error.msg if isinstance(error, SyntaxError) else error
    return " ".join(f"{type(error).__name__}: {said}{place}{_advice(error, root)}".split())


def _inside(file: str, root: Path | None) -> bool:
    return root is not None and Path(file).is_relative_to(root)


def _place(file: str, line: int | None, root: Path | None) -> str:
    return f" ({Path(file).relative_to(root or '')}, line {line})"


def _advice(error: BaseException, root: Path | None) -> str:
    """A package that is missing is the usual reason, and what to do about it the same for all."""
    if not isinstance(error, ModuleNotFoundError) or root is None or not error.name:
        return ""
    package = error.name.partition(".")[0]
    if (root / package).exists() or (root / f"{package}.py").exists():
        return ""
    return ": install what the project needs where roseforest is installed, pip install PATH say"
