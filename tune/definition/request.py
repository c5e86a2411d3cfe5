"""A request: everything that a person can ask of a study, one field for each option.

To add an option, add its field here and use its value. What else it needs is made from the field: its option of
`ssl-tune plan`, `search` and `submit` with help and checks, its key in a study's file and in the JSON schema
(`ssl-tune schema`), and what `submit` sends and the tuned baseline takes over. In detail:

1. A field of `KeptOptions` if the study keeps the value as it is asked for: it is then also a field of
   `tune.definition.spec.StudySpec`, needs a default that suits studies made before, and `resolve_request` copies it.
   A field of `SearchRequest` (or of `Setting`, for what is trained) if it has to be resolved first, in
   `tune.launch.request`. A field with the name of one of `ssl_core.config.RunConfig` goes into every trial's
   configuration by itself, and has its range from there.
2. In its annotation an `Option` with at least `baseline=`, a description, and its range, if it has one.
3. ``python -m tune.definition.signature``, which writes the Python signature (`tune.definition.request_options`).
4. The place that uses the value, and its test.

The home, and whether progress is shown, are no part of a request: they say where a study lies and how it is watched,
not what it is. Every function and command takes them beside it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo, WithJsonSchema

from ssl_core.config import Section
from ssl_core.system.errors import ConfigError
from tune.definition.inputs import DURATION, SIZE, parse_duration, parse_size, preset_of
from tune.definition.objective import BOTH, Objective
from tune.definition.option import INHERITED, Option
from tune.definition.refusals import refused

if TYPE_CHECKING:
    from tune.definition.request_options import RequestOptions

STARTUP_TRIALS = 5
"""Random trials at the beginning of a study, whose length does not matter: it may grow (Optuna's default is 10)."""
_UNCUT = "it runs as many trials as the method's study, and none may be cut off"
ON_END, WEBHOOK = "SSL_TUNE_ON_END", "SSL_TUNE_WEBHOOK"
"""Variables of the environment that stand for the options of these names where those are not given."""
Sampler = Literal["auto", "tpe", "random", "gp", "grid"]
Scheduler = Literal["asha", "median", "none"]


def _seconds(value: object, info: ValidationInfo) -> float | None:
    """Seconds of a number or of text such as ``2h``."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return float(value)
    return parse_duration(str(value), f"--{str(info.field_name).replace('_', '-')}")


def _not_zero(value: float | None) -> float | None:
    if value == 0:
        raise ConfigError(
            "--time-budget 0: no trial fits into it. Write a time such as 90s, 15m, 2h or 1h30m."
        )
    return value


def _bytes(value: object, info: ValidationInfo) -> object:
    """Bytes of a number or of text such as ``2GiB``; the field refuses anything else."""
    if isinstance(value, str):
        return parse_size(value, f"--{str(info.field_name).replace('_', '-')}")
    return value


def _text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _command(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise ConfigError(
            "--on-end is empty: write a command, such as --on-end 'mail -s done me@example.org'."
        )
    return value


def _web_address(value: str | None) -> str | None:
    """A web address, which may be a secret: no message shows it."""
    if value is not None:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--webhook: an address that begins with http:// or https:// is expected.")
    return value


_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": f"^({DURATION})$"}
_TIMEOUT_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "number", "minimum": 0}, _TEXT_SCHEMA]}
_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": f"^({SIZE})$"},
        {"type": "null"},
    ]
}
_BUDGET_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, _TEXT_SCHEMA, {"type": "null"}]
}


def _with_preset(values: dict[str, Any], model: type[SearchRequest]) -> dict[str, Any]:
    """The values of a request, with the parameters of its preset below those that are set."""
    preset = values.get("preset")
    if not isinstance(preset, str):
        return values
    method = values.get("method", model.model_fields["method"].default)
    return {**values, "settings": {**preset_of(preset, method), **(values.get("settings") or {})}}


class Setting(Section):
    """What is trained, and under which name it is searched."""

    method: Annotated[str, Option(baseline="it is supervised")] = Field(
        "pseudo_label", description="See `ssl-tune methods`; or file:PATH, a method of your own"
    )
    dataset: Annotated[str, Option(baseline=INHERITED)] = Field(
        "digits", description="digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE"
    )
    labels: Annotated[int | None, Option(baseline=INHERITED, otherwise="the data set's usual number")] = (
        Field(None, description="Labelled images, the same number for every class")
    )
    network: Annotated[str | None, Option(baseline=INHERITED, otherwise="suits the data set")] = Field(
        None, description="wrn-DEPTH-WIDTH, such as wrn-28-2"
    )
    epochs: Annotated[int | None, Option(baseline=INHERITED, otherwise="suits the data set")] = Field(
        None, description="Epochs of a run, warm-up included"
    )
    name: Annotated[str | None, Option(baseline="it has its own", otherwise="DATASET@LABELS-METHOD")] = Field(
        None, description="The study's name"
    )
    space: Annotated[
        str | None,
        Option(
            baseline="the supervised space is searched", metavar="FILE|wide", otherwise="the method's default"
        ),
    ] = Field(None, description="Search space")
    preset: Annotated[
        str | None, Option(baseline="it is of the method's own parameters", otherwise="the method's defaults")
    ] = Field(
        None, description="A set of the method's parameters, such as vat's `report`; `--set` goes before it"
    )
    settings: Annotated[
        Mapping[str, Any],
        Option(
            baseline="it fixes every common setting of the study but those that it searches",
            spelling="set",
            metavar="NAME=VALUE",
        ),
    ] = Field(default_factory=dict, description="Fix a parameter, such as lr=0.01; it is then not searched")


class KeptOptions(Section):
    """What a study keeps as it was asked for: these are fields of the request and of the specification."""

    trials: Annotated[int, Option(baseline=INHERITED)] = Field(
        16, ge=1, le=1_000_000, description="Configurations to try"
    )
    sampler: Annotated[Sampler, Option(baseline=INHERITED)] = Field(
        "auto", description="What proposes the next configuration"
    )
    objective: Annotated[Objective, Option(baseline=INHERITED)] = Field(
        BOTH, description="What the search, early stopping and the choice of the best go by"
    )
    startup_trials: Annotated[int | None, Option(baseline=INHERITED, otherwise=str(STARTUP_TRIALS))] = Field(
        None, ge=0, le=1_000_000, description="Random trials before the sampler models anything"
    )
    repeats: Annotated[int, Option(baseline=INHERITED)] = Field(
        1, ge=1, le=100, description="Training seeds of a trial, whose mean is its result"
    )
    folds: Annotated[int, Option(baseline=INHERITED)] = Field(
        1,
        ge=1,
        le=10,
        description="Divisions of the labelled and validation images that a trial trains on in turn, whose mean is its "
        "result",
    )
    scheduler: Annotated[Scheduler, Option(baseline=INHERITED)] = Field(
        "asha", description="What stops trials early"
    )
    eta: Annotated[int, Option(baseline=INHERITED)] = Field(
        3, ge=2, le=100, description="Of ASHA: one of so many trials goes on at a rung"
    )
    grace: Annotated[int | None, Option(baseline=INHERITED, otherwise="a share of the run")] = Field(
        None, ge=1, le=1_000_000, description="Epochs after the warm-up before which no trial is stopped"
    )
    brackets: Annotated[int, Option(baseline=INHERITED)] = Field(
        1, ge=1, le=10, description="Of ASHA: several are Hyperband's, each with fewer of the lowest rungs"
    )
    warm_start: Annotated[
        str | None, Option(baseline="its trials are of the method's space", metavar="NAME")
    ] = Field(None, description="Start from what an earlier study of an overlapping space learned")
    seed: Annotated[int, Option(baseline=INHERITED)] = Field(
        0, ge=0, lt=2**31, description="Seed of the sampler and of every training"
    )
    max_failures: Annotated[int, Option(baseline=INHERITED)] = Field(
        1, ge=0, le=1000, description="How often a trial that raises is tried again"
    )
    time_budget: Annotated[
        float | None,
        BeforeValidator(_seconds),
        AfterValidator(_not_zero),
        WithJsonSchema(_BUDGET_SCHEMA),
        Option(
            baseline=_UNCUT,
            metavar="TIME",
            typed=str,
            accepts="float | str | None",
            otherwise="no limit",
        ),
    ] = Field(None, description="End the study after this time, such as 90s, 15m or 2h")
    epochs_budget: Annotated[int | None, Option(baseline=_UNCUT, otherwise="no limit")] = Field(
        None, ge=1, le=1_000_000_000, description="End the study after so many epochs, of all trials together"
    )
    gpu_hours: Annotated[float | None, Option(baseline=_UNCUT, metavar="HOURS", otherwise="no limit")] = (
        Field(
            None,
            gt=0,
            le=10_000_000,
            description="End the study after so many GPU hours: hours of training, times the GPUs of a trial",
        )
    )
    patience: Annotated[int | None, Option(baseline=_UNCUT, metavar="N", otherwise="no limit")] = Field(
        None,
        ge=1,
        le=1_000_000,
        description="End the study when N trials in a row have not improved the best beyond what the validation images "
        "resolve",
    )
    storage: Annotated[
        str | None, Option(baseline=INHERITED, metavar="URL", otherwise="a file in the study's folder")
    ] = Field(None, description="Database for the trials")
    tracking_timeout: Annotated[
        float,
        BeforeValidator(_seconds),
        WithJsonSchema(_TIMEOUT_SCHEMA),
        Option(baseline=INHERITED, metavar="TIME", typed=str, accepts="float | str", unit="s"),
    ] = Field(300.0, description="How long to wait for MLflow at the end, such as 90s or 15m")
    require_tracking: Annotated[
        bool, Option(baseline="the study has found MLflow there; what is missing can be sent later")
    ] = Field(False, description="Do not start where MLflow cannot be reached")
    system_metrics: Annotated[bool, Option(baseline=INHERITED)] = Field(
        False, description="Also log what trials use of processor, memory and GPU"
    )
    data_root: Annotated[
        str | None,
        BeforeValidator(_text),
        Option(baseline=INHERITED, metavar="FOLDER", accepts="str | Path | None", otherwise="SSL_TUNE_DATA"),
    ] = Field(None, description="Where downloaded data lie")
    warmup_cache: Annotated[
        int | None,
        BeforeValidator(_bytes),
        WithJsonSchema(_SIZE_SCHEMA),
        Option(
            baseline=INHERITED,
            metavar="SIZE",
            typed=str,
            accepts="int | str | None",
            otherwise="5 % of the free disk",
        ),
    ] = Field(
        None,
        ge=0,
        description="What warm-ups that trials share may take of the home's disk, such as 2GiB; 0: none are shared",
    )
    address: Annotated[
        str | None,
        Option(baseline=INHERITED, metavar="HOST:PORT|auto", otherwise="this machine", sent=False),
    ] = Field(None, description="A Ray cluster that this machine belongs to")


class SearchRequest(KeptOptions, Setting):
    """What `ssl-tune plan`, `search` and `submit` take; None: a default that fits data and machine.

    Raises:
        ConfigError: a value that cannot be; says which, and what is accepted.
    """

    concurrent: Annotated[int | None, Option(baseline=INHERITED, otherwise="what the machine holds")] = Field(
        None, ge=1, le=10_000, description="Trials side by side"
    )
    gpus_per_trial: Annotated[
        float | None, Option(baseline=INHERITED, otherwise="1 where there are GPUs")
    ] = Field(None, ge=0, le=1, description="Of a trial: a whole GPU, or a fraction to share one")
    points: Annotated[
        str | Sequence[Mapping[str, Any]] | None,
        Option(baseline="they are of the method's space", metavar="FILE.yaml", typed=str),
    ] = Field(None, description="Configurations to try first, after the baseline")
    tracking_uri: Annotated[
        str | None,
        Option(baseline=INHERITED, metavar="URI", otherwise="MLFLOW_TRACKING_URI, else HOME/mlflow.db"),
    ] = Field(None, description="MLflow's server or database")
    with_baseline: Annotated[bool, Option(baseline="it is the baseline", afterwards=True)] = Field(
        False, description="Also tune the supervised baseline, with as many trials"
    )
    confirm_seeds: Annotated[
        int | None,
        Option(baseline="the confirmation trains it beside the method's best", metavar="N", afterwards=True),
    ] = Field(
        None,
        ge=1,
        description="Then confirm the best on N fresh seeds, beside the supervised baseline (tuned where "
        "--with-baseline is)",
    )

    on_end: Annotated[
        str | None,
        AfterValidator(_command),
        Option(
            baseline="its end is part of the study's",
            metavar="CMD",
            otherwise=f"{ON_END}, else none",
            afterwards=True,
        ),
    ] = Field(None, description="Run this command at the end, with the outcome as JSON on its standard input")
    webhook: Annotated[
        str | None,
        AfterValidator(_web_address),
        Option(
            baseline="its end is part of the study's",
            metavar="URL",
            otherwise=f"{WEBHOOK}, else none",
            afterwards=True,
        ),
    ] = Field(None, description="Send the outcome to this address at the end, as JSON")

    if TYPE_CHECKING:

        def __init__(
            self, *, method: str = ..., dataset: str = ..., **options: Unpack[RequestOptions]
        ) -> None: ...

    else:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**_with_preset(values, type(self)))
            except ValidationError as error:
                raise refused(error, type(self), values) from None
