"""What the modules of a source tree import, read from their syntax trees; nothing is run.

Every import counts: at the top of a file, inside a function, under TYPE_CHECKING, and ``importlib.import_module`` of a
constant. `from package import name` is an import of the module `package.name` where there is one, otherwise of the
package itself (its ``__init__``). That Python runs a package's ``__init__`` before its modules does not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One import: `importer` is a module of the tree, `imported` a module of the tree or the dotted name of another."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} -> {self.imported}"


@dataclass(frozen=True)
class Module:
    """A file of Python: its dotted name (a package's is that of its ``__init__``), its path and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


def read_modules(root: Path, packages: Iterable[str]) -> dict[str, Module]:
    """The modules of some packages below `root`, by name."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


def read_imports(modules: Mapping[str, Module]) -> list[Import]:
    """Every import of these modules, in order; a module's imports of itself are left out."""
    return [
        Import(module.name, imported, node.lineno)
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
        for imported in _imported(node, module, modules)
        if imported != module.name
    ]


def _imported(
    node: ast.Import | ast.ImportFrom | ast.Call, module: Module, modules: Mapping[str, Module]
) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (_known(alias.name, modules) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
        for alias in node.names:
            yield _known(f"{base}.{alias.name}", modules)
    elif node.args and isinstance(node.args[0], ast.Constant):
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
        if called in ("import_module", "__import__"):
            yield _known(str(node.args[0].value), modules)


def _known(name: str, modules: Mapping[str, Module]) -> str:
    """The longest beginning of a dotted name that is a module of the tree; otherwise the name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (beginning := ".".join(parts[:length])) in modules:
            return beginning
    return name


def circles(imports: Iterable[Import]) -> list[list[str]]:
    """Groups of modules each of which imports, directly or not, every other one (strongly connected components)."""
    edges: dict[str, set[str]] = {}
    for each in imports:
        edges.setdefault(each.importer, set()).add(each.imported)
        edges.setdefault(each.imported, set())
    reached = {module: _reached(module, edges) for module in edges}
    left, found = sorted(edges), []
    while left:
        first = left[0]
        group = [
            other for other in left if other == first or (other in reached[first] and first in reached[other])
        ]
        left = [other for other in left if other not in group]
        if len(group) > 1:
            found.append(group)
    return found


def _reached(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for following in edges[waiting.pop()] - seen:
            seen.add(following)
            waiting.append(following)
    return seen


def upward(imports: Iterable[Import], container: str, layers: Sequence[str]) -> list[Import]:
    """Imports within a package that go to an upper layer or to a sibling.

    Args:
        imports: of the whole tree.
        container: the package, such as ``tune``.
        layers: names below it, from the top; as import-linter writes them: ``a | b`` are siblings, ``(a)`` may lack.

    Raises:
        ValueError: a part of the package that is in no layer.
    """
    rank = {
        part.strip(" ()"): level for level, layer in enumerate(reversed(layers)) for part in layer.split("|")
    }
    wrong = []
    for each in imports:
        parts = [name.split(".") for name in (each.importer, each.imported)]
        if any(p[0] != container or len(p) == 1 for p in parts):
            continue
        (_, importer, *_), (_, imported, *_) = parts
        for part in (importer, imported):
            if part not in rank:
                raise ValueError(f"{each}: {container}.{part} is in no layer of pyproject.toml")
        if importer != imported and rank[importer] <= rank[imported]:
            wrong.append(each)
    return wrong


def exports(module: Module) -> set[str]:
    """Names that a module defines or imports at its top level, in branches such as TYPE_CHECKING too."""
    names: set[str] = set()
    waiting: list[ast.stmt] = list(module.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            if isinstance(node, ast.Try):
                waiting += [statement for handler in node.handlers for statement in handler.body]
    return names


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Every function with its lines, from `def` to its last statement, docstring included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
