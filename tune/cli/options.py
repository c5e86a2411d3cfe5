"""Options of the commands: those of a request, made from its fields, and those that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ssl_core import method_file
from ssl_core.trusted import load_named
from tune.cli.line.completion import complete_study, completer_of
from tune.definition.inputs import parse_sets
from tune.definition.option import help_of, key_of, option_of, typed_as
from tune.definition.request import SearchRequest
from tune.definition.study_file import read_study_file, settings_of
from tune.store.home import Home


def option(name: str, model: type[SearchRequest] = SearchRequest) -> Any:
    """What Typer needs to know of the option that a field of a request is."""
    return typer.Option(
        f"--{key_of(model, name)}",
        metavar=option_of(model, name).metavar,
        help=help_of(model, name),
        autocompletion=completer_of(name, model),
    )


HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home", help="Folder of all state, or s3://BUCKET/FOLDER [SSL_TUNE_HOME, else ./ssl-tune-home]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output")]
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The study's name", autocompletion=complete_study)
]
DataRootOption = Annotated[Path | None, option("data_root")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter, such as lr=0.01")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT|auto", help="A Ray cluster that this machine belongs to"),
]
DatasetOption = Annotated[str | None, option("dataset")]
LabelsOption = Annotated[int | None, option("labels")]
NetworkOption = Annotated[str | None, option("network")]
EpochsOption = Annotated[int | None, option("epochs")]
MethodOption = Annotated[str | None, option("method")]
PresetOption = Annotated[str | None, option("preset")]
BaselineOption = Annotated[bool, option("with_baseline")]
ConfirmOption = Annotated[int | None, option("confirm_seeds")]
TotalOption = Annotated[
    int | None,
    typer.Option("--trials", metavar="N", help="The new total of trials, also of a finished study"),
]
TimeBudgetOption = Annotated[str | None, option("time_budget")]
EpochsBudgetOption = Annotated[int | None, option("epochs_budget")]
GpuHoursOption = Annotated[float | None, option("gpu_hours")]
PatienceOption = Annotated[int | None, option("patience")]
WarmupCacheOption = Annotated[str | None, option("warmup_cache")]
OnEndOption = Annotated[str | None, option("on_end")]
WebhookOption = Annotated[str | None, option("webhook")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-method", help="Run a method file that is not your own: you have looked at what it does"
    ),
]
_StudyOption = Annotated[
    Path | None,
    typer.Option(
        "--study",
        metavar="FILE.yaml",
        help="The same keys from a YAML file; options win over it (its schema: `ssl-tune schema`)",
    ),
]


def request_parameters(
    model: type[SearchRequest] = SearchRequest, *, afterwards: bool = True, leave_out: Container[str] = ()
) -> list[inspect.Parameter]:
    """A parameter for each field of a request, as Typer reads them, and one for ``--study``.

    All are None where they are not given, so that the file's value holds.

    Args:
        model: of the request.
        afterwards: also those that ask for something after the search.
        leave_out: fields that are no options here.
    """
    names = [n for n in model.model_fields if afterwards or not option_of(model, n).afterwards]
    names = [n for n in names if n not in leave_out]
    annotations: dict[str, Any] = {n: Annotated[_type(model, n), option(n, model)] for n in names}
    annotations["study"] = _StudyOption
    annotations["trust_method"] = TrustOption
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(n, kind, default=False if n == "trust_method" else None, annotation=a)
        for n, a in annotations.items()
    ]


def _type(model: type[SearchRequest], name: str) -> Any:
    typed = typed_as(model, name)
    return list[str] | None if typed is list else typed | None


def takes_request(
    command: Callable[..., None],
    model: type[SearchRequest] = SearchRequest,
    *,
    afterwards: bool = True,
    leave_out: Container[str] = (),
    make: Callable[..., SearchRequest] | None = None,
) -> Callable[..., None]:
    """Give a command `(request, home, ...)` all options of a request on the command line.

    The command is called with the request that they make, and with its own options.

    Args:
        command: whose first argument is the request.
        model: of the request.
        afterwards: it takes also what asks for something after the search.
        leave_out: fields of the request that are no options of this command.
        make: makes the request of what was typed; None: `request_of`.
    """
    made_of = make or request_of
    hints = get_type_hints(command, include_extras=True)
    own = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in list(inspect.signature(command).parameters.values())[1:]
    ]

    def run(**values: Any) -> None:
        mine = {p.name: values[p.name] for p in own}
        values = {name: value for name, value in values.items() if name not in mine or name in shared}
        command(made_of(values, model), **mine)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    of_request = request_parameters(model, afterwards=afterwards, leave_out=leave_out)
    shared = {p.name for p in of_request} & {p.name for p in own}  # the command wants to know them, too
    parameters = [*(p for p in of_request if p.name not in shared), *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def request_of(values: dict[str, Any], model: type[SearchRequest] = SearchRequest) -> SearchRequest:
    """A request from options and, below them, from the file of ``--study``.

    Raises:
        ConfigError: a file that is missing or does not parse, a key that is not an option, a value that cannot be, or
            a method file that the file names and this user has not run before.
    """
    path, sets = values.pop("study"), values.pop("settings") or []
    trust_method = values.pop("trust_method", False)
    given = {name: value for name, value in values.items() if value is not None}
    from_file = read_study_file(path, model) if path is not None else {}
    merged = from_file | given
    if (named := str(from_file.get("method", ""))).startswith(method_file.PREFIX) and "method" not in given:
        load_named(method_file.path_of(named), str(path), trust_method=trust_method)
    method = merged.get("method", model.model_fields["method"].default)
    in_file = settings_of(path, merged.pop("settings"), method) if "settings" in merged else {}
    settings = in_file | parse_sets(sets, method)
    if settings:
        merged["settings"] = settings
    return model(**merged)


def home_of(path: str | None) -> Home:
    """The home of a command."""
    return Home(path)
