"""Parts of libp2p without the whole: its packages are entered, and their `__init__` waits.

`libp2p/__init__.py` imports all that a host could be made of: QUIC, TLS with its certificate
authorities, an HTTP client, name resolution, relays. Of that this node uses a tenth
(`dht.wire.libp2p_transport`); the rest is half a second of CPU and 30 MB of every daemon. Python runs a
package's `__init__` before any module in it, unless the package is known already: so one is made known
here that runs it at the first access to a name that it lacks, which `from libp2p import new_host` is.
The names of its modules are not lacking.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from types import ModuleType

DEFERRED = ("libp2p", "libp2p.transport")
"""Parents first. The `__init__` of either imports what no module below does that we use."""


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> object:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        object.__setattr__(self, "__class__", ModuleType)
        spec.loader.exec_module(self)
        return getattr(self, name)


def defer_packages() -> None:
    """Make the packages known whose modules will be imported; those that were imported stay as they are."""
    for name in DEFERRED:
        parent, _, last = name.rpartition(".")
        around = sys.modules.get(parent)
        spec = PathFinder.find_spec(name, None if around is None else around.__path__)
        if name not in sys.modules and spec is not None:
            module = module_from_spec(spec)
            module.__class__ = _Deferred
            sys.modules[name] = module
            if around is not None:
                setattr(around, last, module)
