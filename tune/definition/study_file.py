"""A study's file, ``--study FILE``: a search's options as keys of a YAML file, and the JSON schema of such files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces import load_yaml
from ssl_core.config import RunConfig
from ssl_core.system.errors import ConfigError, unknown
from tune.definition.inputs import check_names, parse_sets, read_text
from tune.definition.option import help_of, key_of
from tune.definition.request import SearchRequest


def read_study_file(path: Path, model: type[SearchRequest] = SearchRequest) -> dict[str, Any]:
    """The options that a study's file gives, by field.

    A key is an option's name, with ``-`` or ``_`` between its words. Names below `set` are checked where the method
    is known: by `settings_of`.

    Raises:
        ConfigError: a file that is missing or does not parse, a key that is not an option (with the nearest known
            one), or a value that the option does not accept.
    """
    if not path.is_file():
        raise ConfigError(f"--study {path}: there is no such file.")
    document = load_yaml(read_text(path, "--study"), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a study's file is a mapping of options, such as `method: pseudo_label`.")
    fields = {key_of(model, name): name for name in model.model_fields}
    result = {}
    for key, value in document.items():
        name = fields.get(str(key).replace("_", "-"))
        if name is None:
            raise unknown("key", str(key), fields, where=str(path))
        if name == "settings" and not isinstance(value, Mapping):
            raise ConfigError(f"{path}: set = {value!r}: a mapping such as `set: {{lr: 0.01}}` is expected.")
        try:
            model(**{name: value})
        except ConfigError as error:
            said = str(error)
            if said.startswith(f"{name} = "):  # the key as it is written in the file
                said = f"{key}{said.removeprefix(name)}"
            raise ConfigError(f"{path}: {said}") from None
        result[name] = value
    return result


def settings_of(path: Path, given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What a study's file sets (`set:`), its names checked for a method; text is read as after ``--set``.

    Raises:
        ConfigError: a name that the method does not have; text that is not YAML.
    """
    check_names(map(str, given), method, f"{path}: set")
    typed = [f"{name}={value}" for name, value in given.items() if isinstance(value, str)]
    return dict(given) | parse_sets(typed, method)


def study_schema(model: type[SearchRequest] = SearchRequest) -> dict[str, Any]:
    """The JSON schema of a study's file, for editors and for `check-jsonschema`."""
    own, run = model.model_json_schema(), RunConfig.model_json_schema()
    properties, underscored = {}, {}
    for name, described in own["properties"].items():
        key = key_of(model, name)
        typed = described
        if name in run["properties"] and name in RunConfig.model_fields and "minimum" not in described:
            # a run's own field has its range there
            typed = run["properties"][name] | {"default": described.get("default")}
        kept = {k: v for k, v in typed.items() if k not in ("title", "description")}
        properties[key] = {"description": help_of(model, name)} | kept
        if "_" in name and key != name:
            underscored[f"^{name}$"] = {"$ref": f"#/properties/{key}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study: the options of `ssl-tune search`, for `--study FILE`",
        "description": "Words of a key are joined by - or by _.",
        "type": "object",
        "properties": properties,
        "patternProperties": underscored,
        "additionalProperties": False,
    }
