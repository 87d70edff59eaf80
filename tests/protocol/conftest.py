"""Real daemons for the tests of the protocol."""

from tests.node.conftest import daemons

__all__ = ["daemons"]
