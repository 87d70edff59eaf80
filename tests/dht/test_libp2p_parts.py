"""A node imports what it uses of libp2p, and who wants the rest of it still gets it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from dht.wire.libp2p_parts import defer_packages
defer_packages()
import dht.wire.libp2p_transport
few = len(sys.modules)
assert not {"requests", "httpx", "libp2p.host.basic_host", "libp2p.relay"} & set(sys.modules)
import libp2p
assert libp2p.transport is sys.modules["libp2p.transport"] and libp2p.abc is sys.modules["libp2p.abc"]
assert not hasattr(libp2p, "__nothing__")
from libp2p import new_host
from libp2p.transport import TransportManager
assert new_host.__module__ == "libp2p" and "libp2p.host.basic_host" in sys.modules
assert len(sys.modules) > few + 200
"""


def test_packages_are_entered_without_what_they_import_until_that_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
