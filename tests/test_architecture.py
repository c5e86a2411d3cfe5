"""The house: which module may import which, how large its parts are, and what a fresh interpreter loads."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import search_spaces
import ssl_core
import tune
from tests.imports import Import, Module, circles, exports, functions, read_imports, read_modules, upward

ROOT = Path(__file__).parent.parent
PACKAGES = ("ssl_core", "search_spaces", "tune")
SERVICE = {"ray", "optuna", "mlflow", "pandas"}
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
]
LAYERS = next(c["layers"] for c in CONTRACTS if c.get("containers") == ["tune"])

LINES_OF_A_MODULE, LINES_OF_A_FUNCTION, MODULES_OF_A_FOLDER = 350, 60, 12
EARLIER = {"ssl_core/earlier_methods.py", "tests/ssl_core/test_earlier_methods.py"}
"""Files that name modules as they were, for method files of an earlier version."""
PLUG_INS = {"ssl_core.methods"}  # as many modules as there are methods


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules loaded after some code."""
    done = python(f"{code}\nimport json, sys\nprint(json.dumps([m.partition('.')[0] for m in sys.modules]))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by_command(*words: object) -> set[str]:
    """Top-level names of the modules that a command of `ssl-tune` has loaded when it ends."""
    return loaded_by(
        f"import sys\nsys.argv = {['ssl-tune', *map(str, words)]!r}\n"
        "from tune.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code"
    )


@cache
def house() -> dict[str, Module]:
    """The modules of the three packages."""
    return read_modules(ROOT, PACKAGES)


def own_imports(modules: dict[str, Module]) -> list[Import]:
    """Imports from one module of a tree to another."""
    return [each for each in read_imports(modules) if each.imported in modules]


# Contracts of import-linter.


def test_imports_keep_to_the_contracts() -> None:
    done = python(LINT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("importer", "line", "said"),
    [
        ("ssl_core.data", "import tune", "ssl_core is not allowed to import tune"),
        ("ssl_core.data", "import search_spaces", "ssl_core is not allowed to import search_spaces"),
        ("search_spaces", "import tune", "search_spaces is not allowed to import tune"),
        (
            "ssl_core.data",
            "from ssl_core.methods import base",
            "ssl_core.data is not allowed to import ssl_core.methods",
        ),
        (
            "ssl_core.methods",
            "from ssl_core import registry",
            "ssl_core.methods is not allowed to import ssl_core.registry",
        ),
        (
            "ssl_core.methods",
            "from ssl_core.training import loop",
            "ssl_core.methods is not allowed to import ssl_core.training.loop",
        ),
        ("ssl_core.training", "import pandas", "ssl_core.training.planted -> pandas"),
        ("tune.store", "from tune.engine import sitting", "tune.store is not allowed to import tune.engine"),
        ("tune.worker", "from tune.figures import run", "tune.worker is not allowed to import tune.figures"),
        (
            "tune.tracking",
            "from tune.trials import record",
            "tune.tracking is not allowed to import tune.trials",
        ),
        ("tune.tracking", "import mlflow", "tune.tracking.planted -> mlflow"),
        ("tune.cli", "import mlflow.tracking", "tune.cli.planted -> mlflow"),
        ("tune.launch", "from ray import tune", "tune.launch.planted -> ray"),
        ("tune.findings", "import torch", "tune.findings.planted -> torch"),
        ("tune.store", "import optuna", "tune.store.planted -> optuna"),
    ],
)
def test_an_import_against_a_contract_is_noticed(tmp_path: Path, importer: str, line: str, said: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / importer.replace(".", "/") / "planted.py").write_text(f"def f():\n    {line}\n")
    done = python(f"import sys; sys.path.insert(0, '.'); {LINT}", cwd=tmp_path)
    assert done.returncode != 0
    assert said in done.stdout


def test_a_package_of_tune_that_is_in_no_layer_is_noticed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tune" / "planted.py").touch()
    done = python(f"import sys; sys.path.insert(0, '.'); {LINT}", cwd=tmp_path)
    assert done.returncode != 0 and "planted" in done.stdout
    with pytest.raises(ValueError, match=r"tune\.planted is in no layer"):
        upward([Import("tune.planted", "tune.errors", 1)], "tune", LAYERS)


# All imports, those inside functions and under TYPE_CHECKING included.


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(own_imports(house())) == []


def test_no_import_of_tune_runs_upwards() -> None:
    assert [str(each) for each in upward(own_imports(house()), "tune", LAYERS)] == []


LAZY = "def f():\n    {}\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"
LITERAL = "import importlib\nx = importlib.import_module('tune.store.b')\n"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import tune.store.b", "import tune.store.a"),
        ("from tune.store.b import f", "from tune.store.a import f"),
        ("from tune.store import b", "from . import a"),
        ("from .b import f", "from ..store.a import f"),
        (LAZY.format("from tune.store.b import f"), LAZY.format("import tune.store.a as other")),
        (TYPES.format("from tune.store.b import f"), "import tune.store.a"),
        (LITERAL, "import tune.store.a"),
        ("import tune.store.b", "from tune.store.c import f"),  # by way of c and the package
        ("import tune.store.b", "from tune.store import g"),  # by way of the package
    ],
)
def test_a_circle_is_found(tmp_path: Path, first: str, second: str) -> None:
    plant(
        tmp_path,
        {"tune/store/a.py": first, "tune/store/b.py": second, "tune/store/d.py": "import tune.store.a"},
    )
    plant(tmp_path, {"tune/store/__init__.py": "from tune.store import a\ndef g(): ...\n"})
    plant(tmp_path, {"tune/store/c.py": "from tune.store import g"})
    (found,) = circles(own_imports(read_modules(tmp_path, ["tune"])))
    assert {"tune.store.a", "tune.store.b"} <= set(found) and "tune.store.d" not in found


def test_a_package_whose_modules_do_not_use_it_is_in_no_circle(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {"tune/store/__init__.py": "from tune.store.a import f\n", "tune/store/a.py": "def f(): ...\n"},
    )
    plant(
        tmp_path,
        {"tune/store/b.py": "from tune.store import a\n", "tune/cli.py": "from tune.store import f\n"},
    )
    assert circles(own_imports(read_modules(tmp_path, ["tune"]))) == []


@pytest.mark.parametrize("form", ["{}\n", LAZY, TYPES])
@pytest.mark.parametrize(
    "line",
    ["from tune.cli import main", "import tune.cli.main", "from tune import figures", "import tune.launch"],
)
def test_an_import_upwards_is_found(tmp_path: Path, form: str, line: str) -> None:
    plant(tmp_path, {"tune/worker/a.py": form.format(line), "tune/cli/main.py": "import tune.worker.a\n"})
    plant(
        tmp_path, {"tune/cli/__init__.py": "", "tune/figures/__init__.py": "", "tune/launch/__init__.py": ""}
    )
    (found,) = upward(own_imports(read_modules(tmp_path, ["tune"])), "tune", LAYERS)
    text = (tmp_path / "tune" / "worker" / "a.py").read_text()
    assert found.importer == "tune.worker.a" and line in text.splitlines()[found.line - 1]


def plant(root: Path, files: dict[str, str]) -> None:
    """Write files below a folder; every folder of theirs is a package."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.relative_to(root).parents:
            if folder.name and not (root / folder / "__init__.py").exists():
                (root / folder / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")


# Sizes.


def test_a_module_is_read_in_one_sitting() -> None:
    lines = {name: len(m.path.read_text(encoding="utf-8").splitlines()) for name, m in house().items()}
    assert {name: n for name, n in lines.items() if n > LINES_OF_A_MODULE} == {}


def test_a_function_fits_a_screen() -> None:
    lines = {f"{name}.{f}": n for name, module in house().items() for f, n in functions(module)}
    assert {name: n for name, n in lines.items() if n > LINES_OF_A_FUNCTION} == {}


def test_a_folder_holds_few_modules() -> None:
    modules = [m for m in house().values() if m.path.name != "__init__.py"]
    counts = Counter(m.package for m in modules)
    assert {name: n for name, n in counts.items() if n > MODULES_OF_A_FOLDER and name not in PLUG_INS} == {}


# Names of modules in strings, comments and pages, which no import shows.

DOTTED = re.compile(r"(?<![\w./:@-])(?:ssl_core|search_spaces|tune|benchmarks|tests)(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(
    r"(?<![\w./:@-])(?:ssl_core|search_spaces|tune|benchmarks|tests|docs|docker)/[\w./-]+\.(?:py|md|yaml|csv|png|svg|sh)\b"
)


@cache
def texts() -> dict[str, str]:
    """The repository's code and pages, by path; this file aside, which names modules that there are not."""
    suffixes = {".py", ".md", ".svg", ".toml", ".yaml", ".yml", ".sh", ""}
    folders = (*PACKAGES, "benchmarks", "tests", "docs", "docker")
    files = [p for folder in folders for p in sorted((ROOT / folder).rglob("*")) if p.is_file()]
    files += [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")]
    return {
        str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
        for p in files
        if p.suffix in suffixes and "__pycache__" not in p.parts and p != Path(__file__)
    }


def missing_names(text: str, modules: dict[str, Module]) -> list[str]:
    """Dotted names in a text that begin with one of our packages and name neither a module nor what is in one."""
    missing = []
    for name in DOTTED.findall(text):
        parts = name.split(".")
        known = max(n for n in range(len(parts) + 1) if n == 0 or ".".join(parts[:n]) in modules)
        module = modules.get(".".join(parts[:known]))
        if module is None or (parts[known:] and parts[known] not in {*exports(module), "__file__"}):
            missing.append(name)
    return missing


def test_modules_that_are_named_in_code_and_pages_exist() -> None:
    modules = read_modules(ROOT, (*PACKAGES, "benchmarks", "tests"))
    found = {path: missing_names(text, modules) for path, text in texts().items() if path not in EARLIER}
    assert {path: names for path, names in found.items() if names} == {}
    assert missing_names("`tune.store.nothing`, tune.store.home.Nothing", modules) == [
        "tune.store.nothing",
        "tune.store.home.Nothing",
    ]
    assert missing_names("tune.store.home.Home.folder_for, ray.tune.nothing, see tune.", modules) == []


def test_files_that_are_named_in_code_and_pages_exist() -> None:
    found = {
        path: [name for name in FILE.findall(text) if "NAME" not in name and not (ROOT / name).exists()]
        for path, text in texts().items()
    }
    assert {path: names for path, names in found.items() if names} == {}


def run_as_modules() -> set[str]:
    """Modules of the three packages that their code starts as processes: what follows "-m" in a list."""
    found = set()
    for module in house().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.List | ast.Tuple):
                words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
                found |= {str(name) for flag, name in pairwise(words) if flag == "-m"}
    return found


def test_modules_that_are_started_as_processes_can_be() -> None:
    started = run_as_modules()
    assert started == {"tune.delivery.sender", "tune.delivery.check", "tune.figures.draw", "mlflow"}
    for name in started - {"mlflow"}:
        last = house()[name].tree.body[-1]
        assert isinstance(last, ast.If) and "__main__" in ast.unparse(last.test), name


def test_names_of_the_packages_are_there() -> None:
    for package in (ssl_core, search_spaces, tune):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'trian'"):
            package.trian  # noqa: B018


# What a fresh interpreter loads.


def test_training_loads_nothing_of_the_service() -> None:
    code = """
import ssl_core, ssl_core.training.loop, ssl_core.training.result
for name in ssl_core.__all__:
    assert getattr(ssl_core, name).__name__ == name
"""
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & (SERVICE | {"tune", "search_spaces"})


def test_a_run_that_is_not_compiled_does_not_load_torchs_compiler() -> None:
    code = """
import ssl_core, sys
config = {"method": "vat", "dataset": "digits", "network": "wrn-10-1", "epochs": 2, "steps_per_epoch": 1}
ssl_core.train(config | {"warmup_epochs": 1, "batch_size": 4, "mu": 1, "threads": 1})
assert "torch" in sys.modules and not {"torch._dynamo", "sympy", "triton"} & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


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


HEAVY = {"torch", "torchvision", "ray", "mlflow", "pandas", "sklearn", "scipy", "matplotlib", "PIL"}


@pytest.mark.parametrize(
    "words", [("--help",), ("search", "--help"), ("methods",), ("spaces", "pseudo_label"), ("studies",)]
)
def test_a_command_that_only_explains_loads_nothing_heavy(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_TUNE_HOME", str(tmp_path))
    loaded = loaded_by_command(*words)
    assert "tune" in loaded
    assert not loaded & (HEAVY | {"sqlalchemy"})


def test_yaml_is_read_and_written_without_optuna() -> None:
    code = "from search_spaces import dump_yaml, load_yaml; assert load_yaml(dump_yaml({'a': 1}), 'text') == {'a': 1}"
    assert not loaded_by(code) & (HEAVY | {"optuna", "numpy"})


def test_status_and_trials_read_a_study_without_what_runs_it(tmp_path: Path) -> None:
    from tests.tune.helpers import make_study
    from tune.store.home import Home
    from tune.trials.study_trials import StudyTrials

    folder, spec = make_study(Home(tmp_path / "home"))
    trials = StudyTrials(folder, spec)
    trials.ask()
    trials.ask()
    for words in (("status", spec.name), ("status", spec.name, "--json"), ("trials", spec.name)):
        loaded = loaded_by_command(*words, "--home", tmp_path / "home")
        assert "optuna" in loaded
        assert not loaded & HEAVY


def test_side_by_side_the_tests_of_a_file_stay_in_one_process(request: pytest.FixtureRequest) -> None:
    """They share clusters, servers and studies, each of which would be made once a process.

    pytest-xdist notes a test's group in its id, which pytest 9.2 does not let it do.
    """
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("the tests run one after the other")
    assert request.node.nodeid.endswith("@test_architecture")
