"""The docstrings of Python's own standard library: a real corpus that every machine already has.

Modules written in Python are read as syntax trees and never imported; those written in C have no source,
so they, and the modules that publish their objects (``posix`` through ``os``, ``_io`` through ``io``), are
imported and inspected. Entries carry the name under which users know a thing: the public module, without
``builtins``. Names that begin with an underscore are left out, except special methods documented in Python
source (those of C types all say the same); so are tests, demos, and modules that do something when
imported. The same interpreter always yields the same entries in the same order.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, PathFinder
from pathlib import Path

from node.corpus.entry import CorpusEntry

DOMAIN = "python"

MAX_SOURCE_BYTES = 2 << 20
"""Larger source files are skipped; the largest of CPython is a quarter of it."""
MAX_TEXT_CHARACTERS = 1200
"""An entry's text is cut here, at the end of a paragraph where there is one: one idea, not a manual."""
MAX_SIGNATURE_CHARACTERS = 300

SKIPPED_FOLDERS = frozenset({"__phello__", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "turtledemo"})
"""Tests, demos, and tools that are not part of the library's interface."""
SKIPPED_MODULES = frozenset({"__hello__", "antigravity", "this"})
"""Jokes."""
NOT_IMPORTED = frozenset({"readline", "tkinter"})
"""Modules that take hold of the terminal or load a graphical toolkit when imported."""

PUBLIC_MODULES = {"_collections_abc": "collections.abc", "genericpath": "os.path", "posixpath": "os.path"}
"""Modules of Python source whose content users know under another name."""

FACES = {
    "_elementtree": "xml.etree.ElementTree",
    "_lsprof": "cProfile",
    "_sre": "re",
    "_thread": "threading",
    "posix": "os",
}
"""Private C modules and the module that publishes their objects; by default ``_x`` is published by ``x``."""


@dataclass(frozen=True, slots=True)
class _Documented:
    """A named thing with its docstring as written."""

    name: str
    module: str
    kind: str
    signature: str
    docstring: str


def entries() -> Iterator[CorpusEntry]:
    """Every documented public module, class, function and method, ordered by name.

    About 7,500 entries (it differs between versions of Python); takes two seconds, most of them for parsing,
    before the first entry comes.
    """
    defined: set[str] = set()
    found: dict[str, _Documented] = {}
    for thing in _from_source(Path(sysconfig.get_path("stdlib")), defined):
        found.setdefault(thing.name, thing)
    for thing in _from_c_modules(defined):
        found.setdefault(thing.name, thing)
    for name in sorted(found):
        yield _entry(found[name])


def _entry(thing: _Documented) -> CorpusEntry:
    head = thing.name
    if len(thing.signature) <= MAX_SIGNATURE_CHARACTERS:
        head += thing.signature
    text = cut_at_paragraph(f"{head}\n\n{inspect.cleandoc(thing.docstring).strip()}", MAX_TEXT_CHARACTERS)
    return CorpusEntry(
        text=text, name=thing.name, tags=tuple(sorted({DOMAIN, thing.module, thing.kind})), domain=DOMAIN
    )


def cut_at_paragraph(text: str, limit: int) -> str:
    """``text``, or its longest beginning of at most ``limit`` characters that ends a paragraph.

    If that would leave less than half, it ends at a line, else at a word, else at ``limit``.
    """
    if len(text) <= limit:
        return text
    for border in ("\n\n", "\n", " "):
        end = text.rfind(border, limit // 2, limit + 1)
        if end > 0:
            return text[:end].rstrip()
    return text[:limit]


# Python source


def _from_source(root: Path, defined: set[str]) -> Iterator[_Documented]:
    """Documented things in the modules under ``root``; ``defined`` receives every name that they define."""
    for path, name in _source_files(root, ""):
        if path.stat().st_size > MAX_SOURCE_BYTES:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError):
            continue  # a template or data file that only looks like a module
        public = _public_module(root, name)
        if public is not None:
            yield from _from_module(tree, public, name, root, defined)


def _source_files(folder: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """Source files of the packages under ``folder`` with their dotted module names, ordered by name."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in SKIPPED_FOLDERS and (path / "__init__.py").is_file():
                yield from _source_files(path, f"{prefix}{path.name}.")
        elif path.suffix == ".py" and path.stem not in SKIPPED_MODULES:
            name = prefix[:-1] if path.stem == "__init__" else prefix + path.stem
            yield path, name


def _public_module(root: Path, name: str) -> str | None:
    """The name under which users know module ``name``, or None if it is private.

    A private submodule belongs to its package if the package's ``__init__`` imports from it.
    """
    if name in PUBLIC_MODULES:
        return PUBLIC_MODULES[name]
    package, _, last = name.rpartition(".")
    if not any(_is_private(part) for part in name.split(".")):
        return name
    if not package or not _is_private(last) or any(_is_private(part) for part in package.split(".")):
        return None
    tree = ast.parse((root.joinpath(*package.split(".")) / "__init__.py").read_bytes())
    return package if _reexports(tree, package, last) is not None else None


def _reexports(package_tree: ast.Module, package: str, submodule: str) -> frozenset[str] | None:
    """Names that a package takes from one of its submodules ("*" for all), None if it takes nothing."""
    names: set[str] = set()
    for node in ast.walk(package_tree):
        if isinstance(node, ast.ImportFrom):
            relative = node.level == 1 and node.module == submodule
            absolute = node.level == 0 and node.module == f"{package}.{submodule}"
            if relative or absolute:
                names.update(alias.name for alias in node.names)
    return frozenset(names) or None


def _from_module(
    tree: ast.Module, public: str, name: str, root: Path, defined: set[str]
) -> Iterator[_Documented]:
    taken: frozenset[str] = frozenset({"*"})
    if public == name:
        docstring = ast.get_docstring(tree, clean=False)
        if docstring:
            yield _Documented(public, public, "module", "", docstring)
    elif name not in PUBLIC_MODULES:
        package, _, last = name.rpartition(".")
        package_tree = ast.parse((root.joinpath(*package.split(".")) / "__init__.py").read_bytes())
        taken = _reexports(package_tree, package, last) or frozenset()
    yield from _from_body(tree.body, public, public, False, taken, defined)


def _from_body(
    body: Iterable[ast.stmt],
    prefix: str,
    module: str,
    in_class: bool,
    taken: frozenset[str],
    defined: set[str],
) -> Iterator[_Documented]:
    """Documented definitions in ``body`` and in its conditional and guarded blocks, in source order."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _from_body([*node.body, *node.orelse], prefix, module, in_class, taken, defined)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            blocks = [*node.body, *handlers, *node.orelse, *node.finalbody]
            yield from _from_body(blocks, prefix, module, in_class, taken, defined)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if _is_private(node.name) and not (in_class and _is_special(node.name)):
                continue
            if not ("*" in taken or node.name in taken):
                continue
            name = f"{prefix}.{node.name}"
            defined.add(name)
            docstring = ast.get_docstring(node, clean=False)
            if isinstance(node, ast.ClassDef):
                if docstring:
                    yield _Documented(name, module, "class", _constructor(node), docstring)
                yield from _from_body(node.body, name, module, True, frozenset({"*"}), defined)
            elif docstring:
                kind = "method" if in_class else "function"
                yield _Documented(name, module, kind, _signature(node, in_class), docstring)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    if in_class and decorators & {
        "property",
        "cached_property",
        "functools.cached_property",
        "types.DynamicClassAttribute",
    }:
        return ""
    arguments = ast.unparse(node.args)
    if in_class and "staticmethod" not in decorators:
        first, _, rest = arguments.partition(",")
        arguments = (
            rest.strip().removeprefix("/").lstrip(", ") if first.strip() in ("self", "cls") else arguments
        )
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


def _constructor(node: ast.ClassDef) -> str:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _signature(statement, True)
    return ""


def _is_private(name: str) -> bool:
    return name.startswith("_") and name != "__future__"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


# C modules


def _from_c_modules(defined: set[str]) -> Iterator[_Documented]:
    """Documented things that C code defines and a public module shows; leaves out names in ``defined``."""
    for name, origins in sorted(_publishers().items()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(name)
        except ImportError:
            continue  # built without the library that this module wraps
        if name in origins and module.__doc__:
            yield _Documented(name, name, "module", "", module.__doc__)
        prefix = "" if name == "builtins" else f"{name}."
        for attribute, value in sorted(vars(module).items()):
            known_as = prefix + attribute
            # A hook that this process has replaced keeps its original here, such as sys.__excepthook__.
            value = vars(module).get(f"__{attribute}__", value)
            if _is_private(attribute) or known_as in defined:
                continue
            if getattr(value, "__module__", None) not in origins | {name}:
                continue
            if isinstance(value, types.BuiltinFunctionType):
                yield from _from_c_object(value, known_as, name, "function")
            elif isinstance(value, type) and f"{value.__module__}.{value.__qualname__}" not in defined:
                yield from _from_c_class(value, known_as, name)


def _publishers() -> dict[str, frozenset[str]]:
    """Public module → the C modules (itself included, if it is one) whose objects it shows."""
    origins: dict[str, set[str]] = {}
    for name in sorted(sys.stdlib_module_names):
        if name.startswith(("_test", "_xx", "xx")) or name.endswith("_test") or not _is_c_module(name):
            continue
        public = name
        if name in FACES or _is_private(name):
            public = FACES.get(name, name.removeprefix("_"))
            if public.partition(".")[0] not in sys.stdlib_module_names:
                continue
        if public in NOT_IMPORTED:
            continue
        origins.setdefault(public, set()).add(name)
    return {public: frozenset(names) for public, names in origins.items()}


def _is_c_module(name: str) -> bool:
    """Whether ``name`` is built in or an extension of the standard library; looks, imports nothing."""
    if BuiltinImporter.find_spec(name) is not None:
        return True
    # Not "platstdlib": in a virtual environment that is the environment, which has no extensions.
    library = Path(sysconfig.get_path("stdlib"))
    folders = [str(library), str(library / "lib-dynload")]
    spec = PathFinder.find_spec(name, folders)
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


def _from_c_class(cls: type, name: str, module: str) -> Iterator[_Documented]:
    yield from _from_c_object(cls, name, module, "class")
    for attribute, value in sorted(vars(cls).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if _is_private(attribute) or inspect.isfunction(value):
            continue
        if inspect.isroutine(value) or inspect.isdatadescriptor(value):
            yield from _from_c_object(value, f"{name}.{attribute}", module, "method")


def _from_c_object(value: object, name: str, module: str, kind: str) -> Iterator[_Documented]:
    docstring = getattr(value, "__doc__", None)
    if isinstance(docstring, str) and docstring.strip():
        yield _Documented(name, module, kind, _text_signature(value), docstring)


def _text_signature(value: object) -> str:
    """The signature as the C source words it; `inspect.signature` would show addresses of defaults."""
    signature = getattr(value, "__text_signature__", None)
    if not isinstance(signature, str):
        return ""
    inner = signature.removeprefix("(").removesuffix(")")
    parts = [part.strip() for part in inner.split(",")]
    if parts[0].startswith("$") or parts[0] in ("self", "cls", "type"):
        parts = parts[1:]
        if parts and parts[0] == "/":
            parts = parts[1:]
    return f"({', '.join(parts)})"
