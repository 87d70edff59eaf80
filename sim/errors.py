"""The errors of the simulation floor, one tree under `SimError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class SimError(Exception):
    """Anything that this floor raises on purpose."""


class HostError(SimError):
    """A simulated host is told to do what its state does not allow: start twice, or crash while down."""


class PumpOverflow(SimError):
    """More messages are under way at once than a simulation may hold."""


class ScenarioFailed(SimError):
    """A scenario could not be played to its end: its network did not come to stand."""


class DaemonFailed(SimError):
    """A daemon of a test network did not start, or ended when it should run."""


class PromiseBroken(SimError):
    """The demo saw something that the project promises never to happen."""


@contextmanager
def one_error() -> Iterator[None]:
    """Turn an exception group from inside into the error that matters: the only one, or the first of ours."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        ours = [error for error in errors if isinstance(error, SimError)]
        if len(errors) == 1 or ours:
            raise (ours or errors)[0] from group
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
