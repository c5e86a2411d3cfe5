"""A request on its way to a cluster: as the words of a command line, and the files that it names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces import dump_yaml, read_yaml_text
from ssl_core import method_file
from tune.definition.option import key_of, option_of
from tune.definition.request import SearchRequest


def take_files(request: SearchRequest, folder: Path) -> bool:
    """Copy what a request names of this machine's files into the folder that the job runs in; False: nothing."""
    if own_space := request.space not in (None, "wide"):
        shutil.copy(str(request.space), folder / "space.yaml")
    if own_points := request.points is not None:
        points = request.points
        text = read_yaml_text(Path(points)) if isinstance(points, str) else dump_yaml(list(points))
        (folder / "points.yaml").write_text(text)
    if own_method := request.method.startswith(method_file.PREFIX):
        path = method_file.path_of(request.method)
        for file in (path, path.with_suffix(".yaml")):
            if file.exists():  # a space may be named instead of lying beside the method
                shutil.copy(file, folder / file.name)
    return own_space or own_points or own_method


def request_words(request: SearchRequest) -> list[str]:
    """A request as it is typed in the job's folder, where `take_files` has put its files; options at their defaults
    and those that are not sent (the address) are left out."""
    model, there = type(request), _as_there(request)
    words = []
    for name, field in model.model_fields.items():
        value = getattr(request, name)
        if (
            option_of(model, name).sent
            and value is not None
            and value != field.get_default(call_default_factory=True)
        ):
            words += _words(f"--{key_of(model, name)}", there.get(name, value))
    return words


def afterwards_words(request: SearchRequest) -> list[str]:
    """Of `request_words` those of what comes after the search, which `resume` takes as well."""
    model = type(request)
    names = [name for name in model.model_fields if option_of(model, name).afterwards]
    return request_words(model(**{name: getattr(request, name) for name in names}))


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag]
    if isinstance(value, Mapping):
        return [word for key, each in value.items() for word in (flag, f"{key}={_one_line(each)}")]
    return [flag, str(value)]


def _one_line(value: Any) -> str:
    """A value as YAML, as it is typed after `--set`."""
    return dump_yaml(value).strip().removesuffix("...").strip()


def _as_there(request: SearchRequest) -> dict[str, str]:
    """Names of files as the job sees them."""
    there = {}
    if request.space not in (None, "wide"):
        there["space"] = "space.yaml"
    if request.points is not None:
        there["points"] = "points.yaml"
    if request.method.startswith(method_file.PREFIX):
        there["method"] = f"{method_file.PREFIX}{method_file.path_of(request.method).name}"
    return there
