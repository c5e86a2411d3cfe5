"""Import direction between the three packages, and what a fresh interpreter loads."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ssl_core

ROOT = Path(__file__).parent.parent
SERVICE = {"ray", "optuna", "mlflow", "pandas"}
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules loaded after some code."""
    done = python(f"{code}\nimport json, sys\nprint(json.dumps([m.partition('.')[0] for m in sys.modules]))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_go_one_way() -> None:
    done = python(LINT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("importer", "imported"), [("ssl_core", "tune"), ("ssl_core", "search_spaces"), ("search_spaces", "tune")]
)
def test_an_import_backwards_is_noticed(tmp_path: Path, importer: str, imported: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    lines = ["[importlinter]", "root_packages =", *(f"    {name}" for name in settings["root_packages"])]
    for number, contract in enumerate(settings["contracts"]):
        lines += [
            f"[importlinter:contract:{number}]",
            f"name = {contract['name']}",
            f"type = {contract['type']}",
        ]
        lines += ["layers =", *(f"    {layer}" for layer in contract["layers"])]
    (tmp_path / ".importlinter").write_text("\n".join(lines))
    for name in settings["root_packages"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / importer / "deep.py").write_text(f"def f():\n    import {imported}\n")
    done = python(f"import sys; sys.path.insert(0, '.'); {LINT}", cwd=tmp_path)
    assert done.returncode != 0
    assert f"{importer} is not allowed to import {imported}" in done.stdout


def test_training_loads_nothing_of_the_service() -> None:
    code = """
import ssl_core, ssl_core.training.loop, ssl_core.training.result
for name in ssl_core.__all__:
    assert getattr(ssl_core, name).__name__ == name
"""
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & (SERVICE | {"tune", "search_spaces"})


def test_a_configuration_is_read_and_resolved_without_torch() -> None:
    code = """
import ssl_core, ssl_core.config, ssl_core.data.datasets, ssl_core.registry
for name in ssl_core.registry.method_names():
    method = ssl_core.registry.get_method(name)
    config = ssl_core.config.from_document({"method": name, "dataset": "digits"})
    resolved = ssl_core.config.resolve(config, ssl_core.data.datasets.describe("digits"))
    ssl_core.config.parameter_names(method), resolved.document()
"""
    assert not loaded_by(code) & (SERVICE | {"torch", "torchvision", "sklearn", "scipy", "PIL"})


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ssl_core' has no attribute 'trian'"):
        ssl_core.trian  # noqa: B018
