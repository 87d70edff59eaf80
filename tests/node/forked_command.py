"""Processes of the command line that begin with everything imported.

Of the 1.5 s of CPU that a daemon needs until it answers, imports take 1.3. A fork server of the
standard library imports once for a test run, and each process is a fork of that: with its own pid,
memory, descriptors, signals and exit code, as a process of `python -m node` has. What it does not show
is the imports themselves and what the interpreter does at its very end, so the journey from `init` to
`stop` and all of `tests/sim` begin without.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

IMPORTED = [
    "faiss",
    "node.cli",
    "node.commands.lifecycle",
    "node.commands.passphrase",
    "node.daemon",
    "node.api.server",
    "node.embedding.packaged",
    "dht.wire.libp2p_network",
    "dht.wire.libp2p_transport",
    "pydantic.v1",
]
"""What a daemon imports, some of it late. One that is missing here costs time and nothing else."""
SINGLE_THREADED = "OMP_NUM_THREADS"

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


class Forked:
    """A process of `roseforest ARGUMENTS`, with the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        out: Path,
        err: Path,
        data: Path | None = None,
    ) -> None:
        """Start it; it reads `data` and writes to the other two files, which may be one."""
        self.arguments = tuple(arguments)
        self._process: ForkServerProcess = _context.Process(
            target=_run, args=(self.arguments, dict(environment), os.getcwd(), out, err, data)
        )
        before = os.environ.get(SINGLE_THREADED)
        os.environ[SINGLE_THREADED] = "1"  # the server inherits it: a fork of many threads has one
        try:
            self._process.start()
        finally:
            if before is None:
                del os.environ[SINGLE_THREADED]
            else:
                os.environ[SINGLE_THREADED] = before
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs; minus the number of the signal that ended it."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended; raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    folder: str,
    out: Path,
    err: Path,
    data: Path | None,
) -> None:
    gc.freeze()  # else the first collection would write to all pages that are shared with the server
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for file, path in ((1, out), (2, err)):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, file)
        os.close(opened)
    if data is not None:
        opened = os.open(data, os.O_RDONLY)
        os.dup2(opened, 0)
        os.close(opened)
        sys.stdin = os.fdopen(0, closefd=False)
    from node.cli import main

    main(arguments)
