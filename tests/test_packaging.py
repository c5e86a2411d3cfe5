"""What pyproject.toml declares is what the three packages import and carry."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import ssl_core

ROOT = Path(__file__).parent.parent
PACKAGES = ("ssl_core", "search_spaces", "tune")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports() -> Iterator[tuple[str, Path]]:
    """Top-level names that the packages import, at the head of a file or within a function, with the file."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from ((alias.name.partition(".")[0], path) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    yield str(node.module).partition(".")[0], path


def plain(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {plain(re.match(r"[\w.-]+", text)[0]) for text in requirements}  # type: ignore[index]


def declared() -> set[str]:
    """What is installed for users: the dependencies, and the extras other than the developers' own."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    optional = [text for name, texts in extras.items() if name != "dev" for text in texts]
    return named(PYPROJECT["project"]["dependencies"] + optional)


def test_the_version_in_the_code_is_the_one_that_is_declared() -> None:
    assert ssl_core.__version__ == PYPROJECT["project"]["version"]


def test_everything_imported_is_declared() -> None:
    found = {name: path for name, path in imports() if name not in {*sys.stdlib_module_names, *PACKAGES}}
    assert {"scipy", "jinja2", "sqlalchemy", "torch", "yaml"} <= set(found)
    distributions = importlib.metadata.packages_distributions()
    missing = {
        name: str(path.relative_to(ROOT))
        for name, path in found.items()
        if not {plain(d) for d in distributions.get(name, [name])} & declared()
    }
    assert missing == {}, "imported, but not among the dependencies of pyproject.toml"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.partition("==")[0]) for line in lines if "==" in line}
    assert declared() - pinned == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_files_that_are_not_python_are_carried(package: str) -> None:
    """Each must match a pattern of package-data, or a wheel lacks it."""
    patterns = {
        name.replace(".", "/") + "/" + pattern
        for name, globs in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in globs
    }
    listed = subprocess.run(
        ["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert f"{package}/__init__.py" in listed
    files = [path for path in listed if not path.endswith(".py")]
    left_out = [
        path
        for path in files
        if not any(fnmatch(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
    ]
    assert left_out == []
