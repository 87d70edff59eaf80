"""Exit codes: what a script may rely on; `docs/cli.md` explains each.

The table names error classes instead of importing them, because the command line must start fast and most
commands meet no error. The most specific class in it decides. An error of a
floor above says its own code in the attribute `exit_code`.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_DAEMON = 4
    REFUSED = 5
    IN_USE = 6
    DAMAGED = 7
    NETWORK = 8
    READ_ONLY = 9
    PARTLY_DONE = 10
    LOCKED = 11
    CONFLICT = 12
    ASSERTION = 13
    INTERRUPTED = 130


EXIT_CODES = MappingProxyType(
    {
        "node.errors.HomeError": ExitCode.DAMAGED,
        "node.errors.KeyLocked": ExitCode.LOCKED,
        "node.errors.ConfigError": ExitCode.DAMAGED,
        "node.errors.InUse": ExitCode.IN_USE,
        "node.errors.InvalidInput": ExitCode.REFUSED,
        "node.errors.NotFound": ExitCode.NOT_FOUND,
        "node.errors.VersionConflict": ExitCode.CONFLICT,
        "node.errors.Forbidden": ExitCode.REFUSED,
        "node.errors.Gone": ExitCode.REFUSED,
        "node.errors.Erased": ExitCode.NOT_FOUND,
        "node.errors.DaemonNotRunning": ExitCode.NO_DAEMON,
        "node.errors.NotReady": ExitCode.NO_DAEMON,
        "node.errors.JoinFailed": ExitCode.NETWORK,
        "node.errors.NotInvited": ExitCode.REFUSED,
        "node.errors.ReadOnly": ExitCode.READ_ONLY,
        "node.storage.errors.DatabaseCorrupt": ExitCode.DAMAGED,
        "node.storage.errors.SchemaTooNew": ExitCode.DAMAGED,
        "node.storage.errors.ForeignChain": ExitCode.DAMAGED,
        "node.storage.errors.DatabaseUnavailable": ExitCode.DAMAGED,
        "node.storage.errors.DiskFull": ExitCode.READ_ONLY,
        "node.storage.errors.ReadOnly": ExitCode.READ_ONLY,
        "node.embedding.errors.DamagedData": ExitCode.DAMAGED,
        "node.embedding.errors.EmbedderFailed": ExitCode.NETWORK,
        "node.embedding.errors.EmbeddingError": ExitCode.REFUSED,
        "node.founding.SpaceError": ExitCode.REFUSED,
        "chain.errors.ChainError": ExitCode.REFUSED,
        "dht.errors.DhtError": ExitCode.NETWORK,
        "dht.errors.ListenError": ExitCode.IN_USE,
    }
)

STATUS_CODES = MappingProxyType(
    {
        400: ExitCode.REFUSED,
        401: ExitCode.DAMAGED,
        403: ExitCode.REFUSED,
        404: ExitCode.NOT_FOUND,
        409: ExitCode.REFUSED,
        410: ExitCode.NOT_FOUND,
        412: ExitCode.CONFLICT,
        413: ExitCode.REFUSED,
        422: ExitCode.REFUSED,
        503: ExitCode.NO_DAEMON,
        507: ExitCode.READ_ONLY,
    }
)


def exit_code_of(error: BaseException) -> ExitCode:
    """The code for an error; `UNEXPECTED` for one that no table knows."""
    own = getattr(error, "exit_code", None)
    if isinstance(own, int) and own in set(ExitCode):
        return ExitCode(own)
    if getattr(error, "code", None) == "damaged":
        return ExitCode.DAMAGED
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return STATUS_CODES.get(status, ExitCode.UNEXPECTED)
    for kind in type(error).__mro__:
        code = EXIT_CODES.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is not None:
            return code
    return ExitCode.UNEXPECTED
