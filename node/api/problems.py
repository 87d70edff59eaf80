"""Errors as HTTP: a status, a code for programs, and the error's own line for people.

| status | code | when |
|---|---|---|
| 400 | bad_request, bad_host | not JSON, an id that is none, an address in Host that is not this machine |
| 401 | unauthorized | the bearer token is missing or wrong |
| 404, 405 | not_found, method_not_allowed | no such entry, path or method |
| 403 | forbidden | a retract by another than the entry's creator |
| 409 | gone | the entry is deleted or retracted |
| 409 | conflict | a learning task is not at the round, or this node not in the state, that is needed |
| 410 | erased | its author has purged what the entry said |
| 412 | changed | the entry is no longer at the version in If-Match; the message says what changed |
| 408 | too_slow | the body did not arrive in time |
| 413 | too_large | the body is over the limit |
| 422 | refused | understood and refused: wrong shape, a limit, a vector that is no direction |
| 500 | damaged | a database contradicts itself; the message says which, and how to recover |
| 500 | unexpected | a defect of this program; the log has the traceback |
| 503 | not_ready | the node starts or stops |
| 503 | busy | too many requests are under way, or another process has locked a database |
| 503 | embedder | the network's embedder does not answer this node, or with nonsense |
| 507 | read_only, disk_full | nothing was written; the message says what to do |
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.blob import OversizedBlobError
from chain.errors import ChainError
from dht.blobs.service import BlobUnavailable
from federated.errors import LearningError, UnknownTask, WrongState
from federated.ports import NoRoom
from node.embedding.errors import DamagedData, EmbedderFailed, EmbeddingError
from node.errors import Erased, Forbidden, Gone, InvalidInput, NotFound, NotReady, ReadOnly, VersionConflict
from node.storage import errors as storage

MAX_MESSAGE = 500
"""Characters of a message that leave the process."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, as a response."""

    status: int
    code: str
    message: str
    retry_after: int | None = None
    """Seconds after which to ask again, if it depends."""

    @property
    def retry_after_s(self) -> int | None:
        """What `Retry-After` says; who is only busy may ask again in a second."""
        return 1 if self.retry_after is None and self.status == 503 else self.retry_after

    def body(self) -> dict[str, dict[str, str]]:
        """`{"error": {"code", "message"}}`; the message is one line."""
        return {"error": {"code": self.code, "message": " ".join(self.message.split())[:MAX_MESSAGE]}}


class BadId(InvalidInput):
    """An id in the path is not one of the kind that belongs there."""


_TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (NotFound, 404, "not_found"),
    (Forbidden, 403, "forbidden"),
    (Gone, 409, "gone"),
    (Erased, 410, "erased"),
    (VersionConflict, 412, "changed"),
    (UnknownTask, 404, "not_found"),
    (WrongState, 409, "conflict"),
    (LearningError, 422, "refused"),
    (NoRoom, 507, "disk_full"),
    (NotReady, 503, "not_ready"),
    (storage.StorageClosed, 503, "not_ready"),
    (storage.DatabaseUnavailable, 503, "busy"),
    (storage.DiskFull, 507, "disk_full"),
    (storage.ReadOnly, 507, "read_only"),
    (ReadOnly, 507, "read_only"),
    (storage.BlobsFull, 507, "disk_full"),
    (storage.BlobGone, 404, "not_found"),
    (storage.DatabaseCorrupt, 500, "damaged"),
    (DamagedData, 500, "unexpected"),
    (EmbedderFailed, 503, "embedder"),
    (OversizedBlobError, 413, "too_large"),
    (BlobUnavailable, 404, "not_found"),
    (BadId, 400, "bad_request"),
    (InvalidInput, 422, "refused"),
    (EmbeddingError, 422, "refused"),
    (ChainError, 422, "refused"),
)

KNOWN: tuple[type[Exception], ...] = tuple(error for error, _, _ in _TABLE)
"""The errors that `problem_of` has a row for."""


def problem_of(error: Exception) -> Problem:
    """The response to an error; anything unknown is a 500 that does not repeat the error's text.

    A group of one, as concurrent work raises it, counts as its member.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return Problem(status, code, str(error))
    return Problem(500, "unexpected", "an unexpected error; the daemon's log has the details")
