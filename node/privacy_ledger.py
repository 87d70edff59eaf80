"""privacy.json of the home: what each learning task may cost this member, and what it has cost so far.

    {"format": 1, "tasks": {TASK: {"clip": …, "noise": …, "delta": …, "epsilon": … or null,
                                   "spent": [[noise, updates], …]}}}

Written whole, with an fsync, before the update that it counts leaves: a crash in between counts one update
too many, never one too few. Several commands on one home take turns by a lock on a file beside it. A file
that cannot be read stops the command: a budget that is not known is spent. It goes into backups; who restores
an old one, or deletes the file, starts from what that says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federated.privacy.accounting import Account
from federated.privacy.errors import PrivacyError
from federated.privacy.noise import Terms
from node.durable_files import read_bounded, write_atomically
from node.errors import HomeDamaged, HomeMissing
from node.home import Home

FORMAT = 1
MAX_FILE = 4 << 20
MAX_TASKS = 4_096
_RECOVERY = "restore it from a backup; without it nobody knows what privacy has been spent"


@dataclass(frozen=True, slots=True)
class PrivacyLedger:
    """One task's account in the file at `path`; every call reads it afresh. Blocking."""

    path: Path
    task: str

    def find(self) -> Account | None:
        """The account, None for a task that this home began without noise or not at all."""
        return self._read().get(self.task)

    def account(self) -> Account:
        """The account of a task that `agree` was called for."""
        found = self.find()
        if found is None:
            raise HomeDamaged(f"{self.path} has lost the account of this task: {_RECOVERY}")
        return found

    def agree(
        self, clip: float | None, noise: float | None, delta: float | None, epsilon: float | None
    ) -> Account:
        """Set the terms for what comes, durably; None leaves one as it was. What was spent stays spent."""

        def change(tasks: dict[str, Account]) -> Account:
            known = tasks.get(self.task)
            if known is None:
                if clip is None or noise is None:
                    raise PrivacyError("privacy begins with both --dp-clip and --dp-noise")
                if len(tasks) >= MAX_TASKS:
                    raise PrivacyError(f"{self.path} has the accounts of {MAX_TASKS} tasks, its limit")
                known = Account(Terms(clip, noise))
            return replace(
                known,
                terms=Terms(
                    known.terms.clip if clip is None else clip, known.terms.noise if noise is None else noise
                ),
                delta=known.delta if delta is None else delta,
                epsilon=known.epsilon if epsilon is None else epsilon,
            )

        return self._change(change)

    def spend(self) -> Account:
        """Count one more update, durably on return. Raises `BudgetSpent`, and then nothing has changed."""
        return self._change(lambda tasks: _of(tasks, self).spend())

    def _change(self, change: Callable[[dict[str, Account]], Account]) -> Account:
        with _turn(self.path.with_name(f".{self.path.name}.lock")):
            tasks = self._read()
            tasks[self.task] = account = change(tasks)
            write_atomically(self.path, _encode(tasks), 0o600)
        return account

    def _read(self) -> dict[str, Account]:
        try:
            data = read_bounded(self.path, MAX_FILE, _RECOVERY)
        except HomeMissing:
            return {}
        try:
            return _decode(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, PrivacyError) as error:
            raise HomeDamaged(f"{self.path} is damaged: {_RECOVERY}") from error


def ledger_of(home: Home, task: str) -> PrivacyLedger:
    """The ledger of a home for one task."""
    return PrivacyLedger(home.root / "privacy.json", task)


def _of(tasks: dict[str, Account], ledger: PrivacyLedger) -> Account:
    if ledger.task not in tasks:
        raise HomeDamaged(f"{ledger.path} has lost the account of this task: {_RECOVERY}")
    return tasks[ledger.task]


def _encode(tasks: dict[str, Account]) -> bytes:
    rows = {
        task: {
            "clip": account.terms.clip,
            "noise": account.terms.noise,
            "delta": account.delta,
            "epsilon": account.epsilon,
            "spent": [list(pair) for pair in account.spent],
        }
        for task, account in tasks.items()
    }
    return (json.dumps({"format": FORMAT, "tasks": rows}, indent=1) + "\n").encode("ascii")


def _decode(value: Any) -> dict[str, Account]:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']}")
    return {task: _account(row) for task, row in value["tasks"].items()}


def _account(row: Any) -> Account:
    spent = tuple((float(noise), int(count)) for noise, count in row["spent"])
    if any(Terms(1.0, noise).noise != noise or count < 1 for noise, count in spent):
        raise ValueError("an update cannot have been spent that way")
    epsilon = row["epsilon"]
    return Account(
        Terms(float(row["clip"]), float(row["noise"])),
        float(row["delta"]),
        None if epsilon is None else float(epsilon),
        spent,
    )


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file beside the ledger; waits for whoever has it, which is never long."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
