"""Options that several commands share, and the ones that `plan` and `search` build their request from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError

from search_spaces import load_yaml
from ssl_core.system.errors import ConfigError, unknown
from tune.definition.inputs import parse_sets, read_text
from tune.launch.request import SearchRequest
from tune.store.home import Home

HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home", help="Folder of all state, or s3://BUCKET/FOLDER [SSL_TUNE_HOME, else ./ssl-tune-home]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name")]
DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Where downloaded data lie [SSL_TUNE_DATA]")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter, such as lr=0.01")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT|auto", help="A Ray cluster that this machine belongs to"),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="digits (default), cifar10, cifar100 or folder:PATH")
]
LabelsOption = Annotated[
    int | None, typer.Option("--labels", help="Labelled images, the same for every class")
]
NetworkOption = Annotated[str | None, typer.Option("--network", help="wrn-DEPTH-WIDTH, such as wrn-28-2")]
EpochsOption = Annotated[int | None, typer.Option("--epochs", help="Epochs of a run, warm-up included")]
MethodOption = Annotated[
    str | None, typer.Option("--method", help="See `ssl-tune methods`; or file:PATH, a method of your own")
]


def _options(
    method: MethodOption = None,
    dataset: DatasetOption = None,
    labels: LabelsOption = None,
    network: NetworkOption = None,
    epochs: EpochsOption = None,
    trials: Annotated[int | None, typer.Option(help="Configurations to try [16]")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name [DATASET@LABELS-METHOD]")] = None,
    space: Annotated[
        str | None, typer.Option(metavar="FILE|wide", help="Search space [the method's default]")
    ] = None,
    settings: SetOption = None,
    concurrent: Annotated[
        int | None, typer.Option(help="Trials side by side [what the machine holds]")
    ] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs of a trial, fractions allowed")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampler and of every training [0]")] = None,
    time_budget: Annotated[
        str | None, typer.Option(metavar="2h", help="End the study after this time")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="tpe (default), random, gp or grid")] = None,
    startup_trials: Annotated[
        int | None, typer.Option(help="Random trials before the sampler models [a third, 4 to 10]")
    ] = None,
    points: Annotated[
        str | None, typer.Option(metavar="FILE.yaml", help="Configurations to try first, after the baseline")
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Start from what an earlier study of this space learned"),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Database for the trials [a file in the study's folder]")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="How often a trial that raises is tried again [1]")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow [MLFLOW_TRACKING_URI, else HOME/mlflow.db]")
    ] = None,
    tracking_timeout: Annotated[
        str | None, typer.Option(metavar="300s", help="How long to wait for MLflow at the end")
    ] = None,
    require_tracking: Annotated[
        bool | None, typer.Option("--require-tracking", help="Do not start where MLflow cannot be reached")
    ] = None,
    system_metrics: Annotated[
        bool | None,
        typer.Option("--system-metrics", help="Also log what trials use of processor, memory and GPU"),
    ] = None,
    data_root: DataRootOption = None,
    address: AddressOption = None,
    study: Annotated[
        Path | None, typer.Option("--study", metavar="FILE.yaml", help="The same keys from a YAML file")
    ] = None,
) -> None:
    """The signature that `takes_request` lends to `plan` and `search`."""


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `(request, home, ...)` all options of a search on the command line.

    The command is called with the SearchRequest that they make, and with its own options.
    """
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(_options).parameters.values())
    hints = get_type_hints(_options, include_extras=True) | get_type_hints(command, include_extras=True)

    def run(**values: Any) -> None:
        mine = {p.name: values.pop(p.name) for p in own}
        command(request_of(values), **mine)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    parameters = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in [*shared, *own]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def request_of(values: dict[str, Any]) -> SearchRequest:
    """A request from options and, below them, from the file of ``--study``.

    Raises:
        ConfigError: a file that is missing or does not parse, or a key that is not an option.
    """
    path, sets = values.pop("study"), values.pop("settings") or []
    given = {k: v for k, v in values.items() if v is not None}
    from_file = _study_file(path) if path is not None else {}
    merged = from_file | given
    assignments = [*_file_sets(from_file, path), *sets]
    merged.pop("set", None)
    method = merged.get("method", SearchRequest.method)
    if assignments:
        merged["settings"] = parse_sets(assignments, method)
    return SearchRequest(**merged)


def _study_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"--study {path}: there is no such file.")
    document = load_yaml(read_text(path, "--study"), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a study's file is a mapping of options, such as `method: pseudo_label`.")
    known = {p for p in SearchRequest.__dataclass_fields__ if p != "settings"} | {"set"}
    result = {}
    for key, value in document.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise unknown("key", str(key), {k.replace("_", "-") for k in known}, where=str(path))
        _check_type(path, str(key), name, value)
        result[name] = value
    return result


def _check_type(path: Path, key: str, name: str, value: object) -> None:
    if name == "set":
        return
    try:
        TypeAdapter(get_type_hints(SearchRequest)[name]).validate_python(value, strict=True)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(p["msg"].removeprefix("Input should be ") for p in error.errors()))
        raise ConfigError(f"{path}: {key} = {value!r}: {wanted} is expected.") from None


def _file_sets(document: dict[str, Any], path: Path | None) -> list[str]:
    sets = document.get("set", {})
    if not isinstance(sets, dict):
        raise ConfigError(f"{path}: set = {sets!r}: a mapping such as `set: {{lr: 0.01}}` is expected.")
    return [f"{name}={value}" for name, value in sets.items()]


def home_of(path: str | None) -> Home:
    """The home of a command."""
    return Home(path)
