"""Names `UserConfig` where Flower had it before 1.41, and advanced-pytorch looks for it: in
`flwr.common.typing`.

Python imports this module when it starts with this folder on its path. Nothing of Flower is imported before
somebody asks for that module. Plain Flower needs it as well.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULE = "flwr.common.typing"


class _Named(Loader):
    """Loads the module as `loader` does, and gives it the name."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if not hasattr(module, "UserConfig"):
            from flwr.app.user_config import UserConfig

            module.UserConfig = UserConfig  # type: ignore[attr-defined]


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Named(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
