"""What the project says about itself agrees with itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from node.commands.exit_codes import ExitCode
from node.config import KEYS, Settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_in_the_tree_is_packaged_and_held_to_the_floors(project: dict[str, Any]) -> None:
    """A new top-level package that nobody lists would work in a checkout and be missing once installed."""
    present = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert present <= {pattern.rstrip("*.") for pattern in patterns}
    assert present <= set(project["tool"]["importlinter"]["root_packages"])
    layers = " ".join(project["tool"]["importlinter"]["contracts"][0]["layers"])
    assert present <= set(re.findall(r"\w+", layers))


def test_every_folder_of_modules_is_a_package() -> None:
    """Package discovery passes over a folder without `__init__.py`."""
    for top in ("chain", "crdt", "dht", "node", "sharding", "sim", "validation"):
        folders = {path.parent for path in (ROOT / top).rglob("*.py")}
        assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_package_data_is_matched(project: dict[str, Any]) -> None:
    data = project["tool"]["setuptools"]["package-data"]
    for file in [*(ROOT / "node/embedding/data").iterdir(), *(ROOT / "sim").glob("*.json")]:
        top = file.relative_to(ROOT).parts[0]
        inside = file.relative_to(ROOT / top)
        assert any(inside.match(pattern) for pattern in data[top]), file


def test_commands_are_where_the_table_says(project: dict[str, Any]) -> None:
    for name, value in project["project"]["entry-points"]["roseforest.commands"].items():
        module, _, attribute = value.partition(":")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert re.search(rf"^def {attribute}\(", source, re.MULTILINE), name


def test_exit_codes_and_settings_are_documented_as_they_are() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert set(re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", text, re.MULTILINE)) == {
        (str(code.value), code.name) for code in ExitCode
    }
    documented = re.findall(r"^\| `([a-z_]+)` \| `(ROSEFOREST_[A-Z_]+)` \| (\S.*?) \|", text, re.MULTILINE)
    assert tuple(key for key, _, _ in documented) == KEYS
    for key, variable, default in documented:
        assert variable == f"ROSEFOREST_{key.upper()}"
        value = getattr(Settings(), key)
        value = str(value).lower() if isinstance(value, bool) else value
        shown = "none" if value is None else default.strip("`")
        assert shown == (
            "none" if value is None else str(value) if not isinstance(value, tuple) else _list(value)
        )


def test_the_unit_file_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """Its program is replaced by one that is there; everything else is checked as it stands."""
    text = (ROOT / "docs/roseforest.service").read_text()
    codes = re.search(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
    assert codes is not None
    assert {int(code) for code in codes[1].split()} <= {code.value for code in ExitCode}
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "roseforest.service"
    unit.write_text(text.replace("/opt/roseforest/bin/roseforest", sys.executable))
    verdict = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in verdict.stderr.splitlines() if str(unit) in line or unit.name in line]
    assert (verdict.returncode, said) == (0, [])


def _list(value: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in value) + "]"


@pytest.mark.parametrize(("header", "package"), [("gmp.h", "libgmp-dev"), ("Python.h", "python3-dev")])
def test_a_missing_header_is_named_before_pip_runs(tmp_path: Path, header: str, package: str) -> None:
    """A compiler that does not find `header` stands in for a machine that lacks it."""
    compiler = tmp_path / "cc"
    compiler.write_text(
        f'#!/bin/sh\nfor file; do case $file in *.c) grep -q "<{header}>" "$file" && exit 1;; esac; done\n'
        'exec cc "$@"\n'
    )
    compiler.chmod(0o755)
    assert check_system().returncode == 0, "this machine has what the tests were built with"
    lacking = check_system(CC=str(compiler))
    (line,) = lacking.stderr.splitlines()
    assert lacking.returncode != 0
    assert header in line
    assert line.endswith(f"apt install {package}")
    makefile = (ROOT / "Makefile").read_text()
    assert makefile.index(".ci/check-system") < makefile.index("-m venv") < makefile.index("$(PIP) -e")


def test_a_missing_compiler_and_an_old_python_are_named(tmp_path: Path) -> None:
    assert "build-essential" in check_system(CC=str(tmp_path / "none")).stderr
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    for python, words in ((old, "Python 3.9.2"), (tmp_path / "none", "is not there")):
        lacking = check_system(python)
        assert lacking.returncode != 0
        assert words in lacking.stderr
        assert "Python 3.11 or newer" in lacking.stderr


def check_system(python: str | Path = sys.executable, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the Makefile runs before it makes an environment."""
    environment = {**os.environ, **variables}
    command = [str(ROOT / ".ci/check-system"), str(python)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
