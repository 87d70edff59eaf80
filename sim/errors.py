"""The errors of the simulation floor, one tree under `SimError`."""

from __future__ import annotations


class SimError(Exception):
    """Anything that this floor raises on purpose."""


class HostError(SimError):
    """A simulated host is told to do what its state does not allow: start twice, or crash while down."""


class PumpOverflow(SimError):
    """More messages are under way at once than a simulation may hold."""
