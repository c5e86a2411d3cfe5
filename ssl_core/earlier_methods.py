"""Method files that were written for an earlier version of this package, adapted to run to the same bits.

Studies, runs and exported configurations keep a copy of their method's file, and are resumed and repeated long after
the package has changed. Three things have changed that such a file depends on:

- `compute_loss` took ``(config, forward, batch, state, progress, generator)``, where it now takes ``(config, step)``.
  `adapt` recognises the earlier form by its signature and unpacks the step.
- a head on the network was asked for as a number of attention maps, `attention_maps(config)`, and read as
  `output.attention`. `adapt` makes `head` of it, and `NetworkOutput` still has the name.
- modules have moved. `with_new_imports` replaces their earlier names, wherever the file imports them: in functions
  too, which run long after the file was loaded.

`ssl_core.method_file` calls both when it loads a file. The file and its digest stay as they are. One thing is not
adapted: a file that calls `compute_loss` of a method of the package has to pass a `Step`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from ssl_core.methods.base import AnyMethod, LossOutput, Step, has_own_head

if TYPE_CHECKING:
    from ssl_core.networks.base import Head

MOVED = {
    "ssl_core._lazy": "ssl_core.system.lazy_torch",
    "ssl_core.errors": "ssl_core.system.errors",
    "ssl_core.passes": "ssl_core.methods.consistency",
    "ssl_core.randaugment": "ssl_core.augment.randaugment",
    "ssl_core.rng": "ssl_core.training.rng",
}
"""Earlier names of modules, and where they are now."""

NOW_PACKAGES = {
    "ssl_core.augment": "ssl_core.augment.weak",
    "ssl_core.methods": "ssl_core.registry",
    "ssl_core.networks": "ssl_core.networks.wide_resnet",
}
"""Modules whose name is that of a package now, and where their functions and classes are now."""


def adapt(method: AnyMethod) -> bool:
    """Make a method whose `compute_loss` has the earlier form take a `Step`.

    Returns:
        Whether it can be used: False where `compute_loss` has neither form.
    """
    _adapt_head(method)
    arguments = inspect.signature(method.compute_loss)
    if _takes(arguments, 2):
        return True
    if not _takes(arguments, 6):
        return False
    earlier: Any = method.compute_loss

    def compute_loss(config: Any, step: Step[Any]) -> LossOutput[Any]:
        output: LossOutput[Any] = earlier(
            config, step.forward, step.batch, step.state, step.progress, step.generator
        )
        return output

    method.compute_loss = compute_loss  # type: ignore[method-assign]
    return True


def _adapt_head(method: AnyMethod) -> None:
    earlier: Any = getattr(method, "attention_maps", None)
    if earlier is None or has_own_head(method):
        return

    def head(config: Any, channels: int) -> Head | None:
        from ssl_core.networks.attention import attention_head

        return attention_head(earlier(config))(channels)

    method.head = head  # type: ignore[method-assign]


def _takes(signature: inspect.Signature, positional: int) -> bool:
    try:
        signature.bind(*[None] * positional)
    except TypeError:
        return False
    return True


def with_new_imports(tree: ast.Module) -> ast.Module:
    """A file's syntax tree in which modules that have moved are imported from where they are now."""
    _Imports().visit(tree)  # in place
    return ast.fix_missing_locations(tree)


class _Imports(ast.NodeTransformer):
    """Replaces earlier names in `from M import x`, `from ssl_core import m`, `import M` and `import M as m`."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        """`from M import x`: from where M is now, or from the module of a package that has x."""
        if node.level or node.module is None:
            return node
        if node.module in MOVED:
            return _from(node, MOVED[node.module], node.names)
        if node.module in NOW_PACKAGES:
            parts = {m.name for m in pkgutil.iter_modules(importlib.import_module(node.module).__path__)}
            return [
                _from(node, node.module if alias.name in parts else NOW_PACKAGES[node.module], [alias])
                for alias in node.names
            ]
        if node.module == "ssl_core":
            return [self._member(node, alias) for alias in node.names]
        return node

    def visit_Import(self, node: ast.Import) -> ast.Import:
        """`import M` and `import M as m`."""
        names = [ast.alias(MOVED.get(alias.name, alias.name), alias.asname) for alias in node.names]
        return ast.copy_location(ast.Import(names), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """`ssl_core.rng.generator`, after `import ssl_core.rng`."""
        is_package = isinstance(node.value, ast.Name) and node.value.id == "ssl_core"
        if is_package and (new := MOVED.get(f"ssl_core.{node.attr}")):
            return ast.copy_location(ast.parse(new, mode="eval").body, node)
        self.generic_visit(node)
        return node

    @staticmethod
    def _member(node: ast.ImportFrom, alias: ast.alias) -> ast.ImportFrom:
        """`from ssl_core import rng` as `from ssl_core.training import rng`."""
        package, _, name = MOVED.get(f"ssl_core.{alias.name}", f"ssl_core.{alias.name}").rpartition(".")
        bound = alias.asname or (None if name == alias.name else alias.name)
        return _from(node, package, [ast.alias(name, bound)])


def _from(node: ast.ImportFrom, module: str, names: list[ast.alias]) -> ast.ImportFrom:
    return ast.copy_location(ast.ImportFrom(module, names, 0), node)
