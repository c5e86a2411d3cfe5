"""A user's own method in a file outside of the package, named as ``file:my_method.py``.

The file holds a METHOD, like the modules of `ssl_core.methods`. Loading it runs its code. So nothing here loads a file
that was not named to it: what only reads a study takes a description of the method from the study's own text
(`describe`), and the service asks its user before it runs a copy that a study or a run keeps.

Such a method is identified by its file's content, not by its path. Configurations carry the method's name and a digest
of the content. So another machine can run it from the text alone, the same content is loaded once wherever it is, and a
changed file is another method.
"""

from __future__ import annotations

import ast
import hashlib
import keyword
import linecache
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Annotated, Any, NoReturn

from pydantic import BeforeValidator, ConfigDict, create_model

from ssl_core import earlier_methods
from ssl_core.methods import method_names
from ssl_core.methods.base import AnyMethod, LossOutput, Method, Step
from ssl_core.methods.views import KINDS
from ssl_core.schema import MethodConfig, RunConfig
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically

PREFIX = "file:"
COPY = "method.py"
"""Name of the copy that a study or a run keeps in its folder."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")  # it becomes part of names of studies and folders


@dataclass(frozen=True)
class _Loaded:
    method: AnyMethod
    text: str


_loaded: dict[str, _Loaded] = {}  # by digest
_described: dict[str, AnyMethod] = {}  # likewise; what was loaded goes before it


def path_of(reference: str) -> Path:
    """The path in ``file:PATH``, `~` expanded.

    Raises:
        ConfigError: no path.
    """
    text = reference.removeprefix(PREFIX)
    if not text.strip():
        raise ConfigError(f"method {reference!r}: name the file, as in file:my_method.py.")
    return Path(text).expanduser()


def read(path: Path) -> str:
    """The text of a method's file, line ends as they are.

    Raises:
        ConfigError: no such file, or no text.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"method file {path}: there is no such file.") from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"method file {path}: this is not a text file in UTF-8. Python is expected."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"method file {path}: cannot be read: {reason}.") from None


def digest_of(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a file's content."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check_digest(name: str, expected: object, found: str | None, prefix: str = "") -> None:
    """Refuse a method file that is not the one of which a configuration has the digest.

    Args:
        name: the method, as the configuration names it.
        expected: its `method_digest`; None: it has none.
        found: of the file.
        prefix: begins the message.

    Raises:
        ConfigError: they differ.
    """
    if expected not in (None, found):
        raise ConfigError(
            f"{prefix}method = {name!r}: the file was changed: method_digest is {expected}, the file's is now "
            f"{found}. Restore the file, or remove method_digest to use it as it is now."
        )


def load(text: str, where: str) -> AnyMethod:
    """The method of a file's text; the file is run the first time that its content is seen.

    Args:
        text: the file's content.
        where: its path, for messages and tracebacks; there need not be a file.

    Raises:
        ConfigError: it is not Python, raises, or holds no METHOD that can be used; names the line where there is one.
    """
    digest = digest_of(text)
    if digest not in _loaded:
        method = _checked(_run(text, where, f"ssl_tune_method_{digest}"), where)
        method.digest = digest
        _loaded[digest] = _Loaded(method, text)
    return _loaded[digest].method


def loaded(name: str, digest: str) -> AnyMethod:
    """The method of a digest that this process has loaded; else what it has only been told of it (`describe`).

    Raises:
        ConfigError: it has neither, or one of another name.
    """
    method = _loaded[digest].method if digest in _loaded else _described.get(digest)
    if method is None:
        raise ConfigError(
            f"the method {name!r} is not one of the package's, and its file (method_digest {digest}) is not at hand. "
            f"Name the file: method: {PREFIX}PATH."
        )
    if method.name != name:
        raise ConfigError(f"method = {name!r}: the file of method_digest {digest} holds {method.name!r}.")
    return method


class _Described(Method[MethodConfig, None]):
    """A method whose file is not run: its name and its parameters, for what reads configurations of it."""

    def compute_loss(self, config: MethodConfig, step: Step[None]) -> LossOutput[None]:
        raise RuntimeError(f"the file of the method {self.name!r} has not been loaded")


def describe(name: str, digest: str, section: Mapping[str, Any]) -> AnyMethod:
    """Have a method's configurations read without running its file, from one that was checked and completed before.

    Args:
        name: the method's name.
        digest: of its file's content.
        section: its parameters, all of them, as a resolved configuration has them.

    Raises:
        ConfigError: this cannot be a method's name, or these its parameters.
    """
    if digest in _loaded:
        return loaded(name, digest)
    if problem := _problem_of_name(name):
        raise ConfigError(problem.replace("METHOD.name", "method"))
    for key in section:
        if not isinstance(key, str) or not key.isidentifier() or key.startswith(("_", "model_")):
            raise ConfigError(f"{name}.{key} cannot be a parameter of a method.")
    fields: dict[str, Any] = {key: (_typed_as(value), value) for key, value in section.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a parameter may be called as one of pydantic's own functions
        model = create_model(f"{name}Config", __base__=_DescribedConfig, **fields)
    kind = type(f"{name}Described", (_Described,), {"name": name, "summary": name, "Config": model})
    method: AnyMethod = kind()
    method.digest = digest
    _described[digest] = method
    return method


class _DescribedConfig(MethodConfig):
    model_config = ConfigDict(extra="allow")


def _typed_as(known: Any) -> Any:
    """The type of a parameter of which one value is known: any; where it is a float, whole numbers become floats."""
    if not isinstance(known, float):
        return Any
    return Annotated[Any, BeforeValidator(lambda value: float(value) if type(value) is int else value)]


def text_of(digest: str) -> str:
    """The text of a method's file that this process has loaded."""
    return _loaded[digest].text


def keep(folder: Path, digest: str | None) -> None:
    """Write a copy of a loaded method's file into a folder; None: a method of the package, nothing is written."""
    if digest is not None:
        write(folder / COPY, digest)


def write(path: Path, digest: str) -> None:
    """Write a loaded method's file, byte for byte."""
    write_atomically(path, text_of(digest).encode("utf-8"))


def kept_text(folder: Path, name: str, digest: str) -> str:
    """The copy of a method's file that a folder keeps; it is read, not run.

    Raises:
        ConfigError: the copy is missing or was changed.
    """
    path = folder / COPY
    text = read(path)
    if digest_of(text) != digest:
        raise ConfigError(
            f"{path} was changed: it is the copy of the method {name!r} that {folder.name} began with, and its "
            f"digest was {digest}, now it is {digest_of(text)}. Bring the copy back, or start anew."
        )
    return text


def load_kept(folder: Path, name: str, digest: str) -> AnyMethod:
    """Load the copy that a folder keeps: its code is run, whoever wrote it. The service asks its user first.

    Raises:
        ConfigError: the copy is missing or was changed.
    """
    if digest not in _loaded:
        load(kept_text(folder, name, digest), str(folder / COPY))
    return loaded(name, digest)


def _run(text: str, where: str, name: str) -> ModuleType:
    code = _compiled(text, where)
    module = ModuleType(name)
    module.__file__ = where
    sys.modules[name] = module  # dataclasses and pydantic look for the names in annotations there
    # A traceback shows the line that raised, also on a machine that has the text but not the file.
    linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        del sys.modules[name]
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where
        ]
        hint = " The file is all that a worker gets: it can import what is installed, not its neighbours."
        raise ConfigError(
            f"{where}, line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}."
            f"{hint if isinstance(error, ImportError) else ''}"
        ) from error
    return module


def _compiled(text: str, where: str) -> CodeType:
    try:
        tree = ast.parse(text.removeprefix("\ufeff"), where)
        return compile(earlier_methods.with_new_imports(tree), where, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ConfigError(
            f"{where}, line {error.lineno}: this is not Python that can be read: {error.msg}."
        ) from None
    except ValueError as error:  # a null byte
        raise ConfigError(f"{where}: this is not Python that can be read: {error}.") from None


def _checked(module: ModuleType, where: str) -> AnyMethod:
    def fail(message: str) -> NoReturn:
        del sys.modules[module.__name__]
        raise ConfigError(f"{where}: {message}.")

    method: Any = getattr(module, "METHOD", None)
    if method is None:
        fail("there is no METHOD. End the file with METHOD = MyMethod(), an instance of its class")
    if isinstance(method, type):
        fail(f"METHOD is the class {method.__name__} itself. Write METHOD = {method.__name__}()")
    if not isinstance(method, Method):
        fail(f"METHOD = {method!r} is not a method. Derive its class from ssl_core.methods.base.Method")
    if problem := _problem_of_name(getattr(method, "name", None)):
        fail(problem)
    summary = getattr(method, "summary", None)
    if not isinstance(summary, str) or not summary or "\n" in summary:
        fail(f"METHOD.summary = {summary!r}: a sentence on one line is expected")
    if not (isinstance(method.Config, type) and issubclass(method.Config, MethodConfig)):
        fail(
            f"METHOD.Config = {method.Config!r}: a class derived from ssl_core.schema.MethodConfig is expected"
        )
    views: object = method.unlabelled_views
    if not isinstance(views, tuple) or not set(views) <= set(KINDS):
        fail(f"METHOD.unlabelled_views = {views!r}: a tuple of {' and '.join(map(repr, KINDS))} is expected")
    share: object = method.warmup_share
    if not isinstance(share, int | float) or not 0 <= share < 1:
        fail(f"METHOD.warmup_share = {share!r}: a share of the run is expected, from 0 to below 1")
    if not earlier_methods.adapt(method):
        fail("METHOD.compute_loss takes other arguments. Write it as def compute_loss(self, config, step)")
    return method


NAMED_LATER = frozenset({"alphamatch", "freematch", "mean_teacher", "mixmatch", "simple", "softmatch", "uda"})
"""Methods that came to the package when users could have files of these names already. Studies and exports with such a
file are still read: a file is known by its digest."""


def _problem_of_name(name: object) -> str | None:
    """Why a method cannot have this name, which is also that of its section in configurations; None: it can."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name):
        return (
            f"METHOD.name = {name!r}: a plain name is expected, such as 'my_method' (letters, digits and _, the first "
            "a letter, at most 40)"
        )
    if name in set(method_names()) - NAMED_LATER:
        return f"METHOD.name = {name!r}: a method of this name comes with the package. Choose another name"
    if name in RunConfig.model_fields:
        return f"METHOD.name = {name!r}: every configuration has a field of this name. Choose another name"
    return None
