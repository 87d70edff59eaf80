"""What a Flower project says about itself in its pyproject.toml, read without importing flwr or the project.

Flower's own form: `[tool.flwr.app.components]` names `clientapp` and `serverapp` as `module:attribute`,
`[tool.flwr.app.config]` holds the run config, whose nested tables are flattened with dots. Overrides and node
configs are given as `key=value` pairs with TOML values, as on Flower's command line; an override may only
name a key that the project has.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from federated.flower.errors import ProjectError

FILE = "pyproject.toml"
MAX_FILE = 1 << 20
"""Bytes of a pyproject.toml that are read."""
MAX_FILES = 256
"""Python files of a project that are looked at."""

_PAIR = re.compile(r"""([^\s=]+)=('[^']*'|"[^"]*"|\S+)""")

ConfigValue = bool | int | float | str
"""What a run config and a node config may hold."""


@dataclass(frozen=True, slots=True)
class FlowerProject:
    """One Flower project; `clientapp` and `serverapp` are `module:attribute`, empty when not given."""

    root: Path
    name: str
    clientapp: str
    serverapp: str
    config: Mapping[str, ConfigValue] = field(default_factory=dict)

    def with_config(self, overrides: Mapping[str, ConfigValue]) -> FlowerProject:
        """The project with some values of its config replaced. Raises `ProjectError` for an unknown key."""
        unknown = sorted(set(overrides) - set(self.config))
        if unknown:
            known = ", ".join(sorted(self.config)) or "none"
            raise ProjectError(f"the app's config has no {unknown[0]!r}; its keys are: {known}")
        return FlowerProject(
            self.root, self.name, self.clientapp, self.serverapp, {**self.config, **overrides}
        )


def read_project(path: str | Path) -> FlowerProject:
    """The Flower project in the folder `path`. Raises `ProjectError`."""
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ProjectError(f"there is no folder {root}: give the folder of a Flower project")
    data = _toml(root / FILE, f"{root} is no Flower project: ")
    app = _table(_table(_table(data, "tool"), "flwr"), "app")
    if not app:
        raise ProjectError(f"{root / FILE} has no [tool.flwr.app]: {root} is no Flower project")
    components = _table(app, "components")
    name = _table(data, "project").get("name")
    return FlowerProject(
        root=root.absolute(),
        name=name if isinstance(name, str) and name else root.absolute().name,
        clientapp=_reference(root, components, "clientapp"),
        serverapp=_reference(root, components, "serverapp"),
        config=dict(_flat(root / FILE, _table(app, "config"))),
    )


def parse_pairs(texts: Iterable[str], option: str) -> dict[str, ConfigValue]:
    """The pairs of texts like `partition-id=0 name="a b"`; values are TOML. Raises `ProjectError`.

    A text that ends in `.toml` names a file of such values, whose tables are flattened with dots.
    """
    pairs: dict[str, ConfigValue] = {}
    for text in texts:
        if text.endswith(".toml") and "=" not in text:
            path = Path(text).expanduser()
            pairs |= _flat(path, _toml(path, f"{option}: "))
            continue
        rest = _PAIR.sub("", text).strip()
        if rest:
            raise ProjectError(f"{option}: {rest!r} is not key=value")
        for key, value in _PAIR.findall(text):
            pairs[key] = _value(option, key, value)
    return pairs


def _value(option: str, key: str, text: str) -> ConfigValue:
    try:
        value = tomllib.loads(f"value = {text}")["value"] if "\n" not in text else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, ConfigValue):
        raise ProjectError(
            f"{option}: {key}={text} is neither a number, nor true or false, nor a text in quotes of its own,"
            f" as in {option} '{key}=\"text\"'"
        )
    return value


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = data.get(key, {})
    return value if isinstance(value, Mapping) else {}


def _reference(root: Path, components: Mapping[str, Any], key: str) -> str:
    value = components.get(key, "")
    if value == "":
        return ""
    module, _, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not all(part.isidentifier() for name in (module, attribute) for part in name.split(".")):
        raise ProjectError(f"{root / FILE}: {key} = {value!r} is not module:attribute")
    return str(value)


def _toml(path: Path, where: str) -> dict[str, Any]:
    """The content of a TOML file; `where` begins the sentence of the `ProjectError` when there is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE + 1)
        if len(text) > MAX_FILE:
            raise ProjectError(f"{path} is larger than {MAX_FILE} bytes")
        return tomllib.loads(text.decode("utf-8"))
    except OSError as error:
        raise ProjectError(f"{where}{path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ProjectError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise ProjectError(f"{path} is nested too deeply") from error


def _flat(path: Path, table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, ConfigValue]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(path, value, f"{prefix}{key}.")
        elif isinstance(value, ConfigValue):
            yield f"{prefix}{key}", value
        else:
            raise ProjectError(
                f"{path}: the config value {prefix}{key} is neither a number, a text nor true or false"
            )


def number_of(text: str) -> int:
    """63 bits of a hash, never 0: how flwr names runs and nodes."""
    return (int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1) or 1


def files_of(root: Path) -> list[tuple[str, str]]:
    """The project's pyproject.toml and Python files by path, each with its SHA-256: what an app is.

    At most `MAX_FILES`, of at most `MAX_FILE` bytes each; hidden folders and caches are left out.
    """
    paths = [one for one in (root / FILE, *sorted(root.rglob("*.py"))) if not _hidden(one.relative_to(root))]
    return [
        (path.relative_to(root).as_posix(), sha256(path.read_bytes()).hexdigest())
        for path in paths[:MAX_FILES]
        if path.is_file() and path.stat().st_size <= MAX_FILE
    ]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)
