"""The command `compare`, and `resume` and `status` of a comparison."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.comparisons.show import print_comparison, print_next
from tune.cli.options import HomeOption, JsonOption, home_of, takes_request
from tune.cli.show import console, print_json, print_table, typed
from tune.comparison.progress import make_shown
from tune.comparison.record import is_comparison
from tune.comparison.request import LEFT_OUT, CompareRequest, parse_shared_sets
from tune.definition.request import SearchRequest
from tune.definition.study_file import read_study_file
from tune.errors import Exit

if TYPE_CHECKING:
    from tune.comparison.run import Compared


__all__ = ["is_comparison", "refuse_options", "register", "resume"]


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    command = takes_request(compare_command, CompareRequest, leave_out=LEFT_OUT, make=request_of)
    app.command("compare")(command)


def compare_command(request: CompareRequest, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Which of several methods is best on these images: studies side by side, then their best on fresh seeds."""
    end(api.run_compare(request, home_of(home), make_shown(), say), home, as_json=as_json)


def request_of(values: dict[str, Any], model: type[CompareRequest] = CompareRequest) -> CompareRequest:
    """A comparison from options and, below them, from the file of ``--study``.

    Raises:
        ConfigError: a file or a value that cannot be; says which, and what is accepted.
    """
    path, sets = values.pop("study"), values.pop("settings") or []
    values.pop("trust_method", None)
    given = {name: value for name, value in values.items() if value is not None}
    merged = (read_study_file(path, model) if path is not None else {}) | given
    in_file = dict(merged.pop("settings", {}))
    request = model(**merged)
    settings = in_file | parse_shared_sets(sets, request.all_methods())
    return request.model_copy(update={"settings": settings})


def refuse_options(name: str, **given: object) -> None:
    """Refuse options that a study takes and a comparison does not.

    Raises:
        ConfigError: names the first that was given.
    """
    for option, value in given.items():
        if value:
            raise ConfigError(
                f"--{option.replace('_', '-')}: {name!r} is a comparison, which does not take it. Its studies do, "
                "each by its own name."
            )


def resume(
    name: str, home: str | None, *, confirm_seeds: int | None, trust_method: bool, told: SearchRequest
) -> None:
    """Carry on a comparison that was interrupted; `told` has who is told of its end."""
    found = api.run_resume_comparison(
        name,
        home_of(home),
        make_shown(),
        say,
        confirm_seeds=confirm_seeds,
        trust_method=trust_method,
        on_end=told.on_end,
        webhook=told.webhook,
    )
    end(found, home)


def end(found: Compared, home: str | None, *, as_json: bool = False) -> None:
    """Print a comparison as it stands and what to do next; ends the command."""
    status = api.status(found.comparison.name, home=home_of(home).shown)
    if as_json:
        print_json(status)
        sys.exit(found.code)
    if found.was_finished:
        console().print(f"the comparison {found.comparison.name!r} is finished already.")
    print_comparison(status, home)
    for study, (pending, refused) in found.undelivered.items():
        if pending or refused:
            console().print(
                f"MLflow lacks {counted(pending, 'event')} and refused {refused} for good; deliver them, or see which, "
                f"with: {typed('sync', study, home)}"
            )
    if found.interrupted:
        trouble = next((o.trouble for o in found.outcomes if o.trouble is not None), None)
        why = (
            "interrupted"
            if trouble is None
            else f"storage: {trouble}. What was written so far is whole; mend it"
        )
        console().print(f"{why}. Carry on with: {typed('resume', found.comparison.name, home)}")
    elif found.code == Exit.NO_TRIAL_SUCCEEDED:
        console().print(f"no trial of a method succeeded. See why with: {typed('trials', 'STUDY', home)}")
    else:
        print_next(status, home)
    sys.exit(found.code)


def print_status(status: dict[str, Any], home: str | None, *, as_json: bool) -> None:
    """How a comparison stands, also while it runs."""
    if as_json:
        print_json(status)
        return
    rows = [
        [
            row["method"],
            row["study"],
            row["state"],
            ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in row["trials"].items()),
        ]
        for row in status["methods"]
    ]
    print_table(
        ["method", "study", "state", "trials"], rows, f"comparison {status['comparison']}: {status['state']}"
    )
    print_comparison(status, home)
    if status["state"] == "interrupted":
        console().print(f"carry on with: {typed('resume', status['comparison'], home)}")


def say(message: str) -> None:
    """A line on standard error."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201
