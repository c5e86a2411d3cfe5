"""A study's ``study.yaml``, as it is read."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from search_spaces import load_yaml, read_yaml_text
from ssl_core import method_file
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.store.integrity import damaged
from tune.store.layout import STUDY_FILE, check_name, uri_here


def read_spec(folder: Path) -> StudySpec:
    """The specification in a study's folder. No code of the study is run: of a method of the user's own it takes what
    the specification says of it. Whoever trains loads the method: see `ssl_core.trusted`.

    Raises:
        DamagedError: the file is damaged.
        ServiceError: it cannot be read.
    """
    path = folder / STUDY_FILE
    try:
        document = load_yaml(read_yaml_text(path), str(path))
    except UnicodeDecodeError:
        raise damaged(path, "it is no text in UTF-8") from None
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except OSError as error:
        raise ServiceError(f"{path} cannot be read: {error.strerror}.", Exit.STORAGE) from None
    except ConfigError as error:
        raise damaged(path, str(error).removeprefix(f"{path}: ").rstrip(".")) from None
    try:
        spec = StudySpec.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise damaged(path, f"{place}: {problem['msg']}" if place else problem["msg"]) from None
    try:
        _check_names(spec, folder)
    except ConfigError as error:
        raise damaged(path, str(error).rstrip(".")) from None
    uri = uri_here(spec.tracking_uri, folder.parent.parent, spec.name)
    return spec.model_copy(update={"tracking_uri": uri})


def _check_names(spec: StudySpec, folder: Path) -> None:
    """Refuse names that are none, or another study's: files and folders are called after them.

    Raises:
        ConfigError: such a name.
    """
    check_name(spec.name)
    if spec.name != folder.name:
        raise ConfigError(
            f"name = {spec.name!r}, but the folder is called {folder.name!r}: a study keeps its name, and a copy of it "
            "has another home"
        )
    if spec.warm_start is not None:
        check_name(spec.warm_start)
    method, digest = spec.config.get("method"), spec.config.get("method_digest")
    if digest is None:
        get_method(str(method))
        return
    section = spec.config.get(method) if isinstance(method, str) else None
    if not isinstance(digest, str) or not isinstance(section, dict):
        raise ConfigError(f"method = {method!r}, method_digest = {digest!r}: these cannot be a method's")
    method_file.describe(str(method), digest, section)
