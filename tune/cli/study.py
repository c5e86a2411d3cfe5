"""Commands that run something: plan, search, resume, confirm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tune.cli.options import (
    AddressOption,
    HomeOption,
    JsonOption,
    NameArgument,
    home_of,
    takes_request,
)
from tune.cli.show import console, print_confirmation, print_json, print_study, print_table, typed
from tune.errors import Exit
from tune.request import SearchRequest


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("plan")(takes_request(plan_command))
    app.command("search")(takes_request(search_command))
    app.command("resume")(resume_command)
    app.command("confirm")(confirm_command)


def plan_command(request: SearchRequest, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say what a search would run and cost; runs nothing."""
    from tune.plan import plan

    document = plan(request, home_of(home))
    if as_json:
        print_json(document)
        return
    rows = [
        ["study", document["study"]],
        ["method", document["method"]],
        ["data", f"{document['dataset']}: {_images(document['images'])}"],
        ["network", document["network"]],
        ["trials", f"{document['trials']}, {document['concurrent']} side by side"],
        ["threads, GPUs of a trial", f"{document['threads_per_trial']}, {document['gpus_per_trial']:g}"],
        ["full budget", f"{document['epochs']} epochs of {document['steps_per_epoch']} steps"],
        [
            "rungs",
            f"after {_listed(document['rungs']['after_ssl_epochs'])} epochs past the warm-up, best third goes on",
        ],
        [
            "expected",
            f"{document['expected_epochs']:g} epochs, of {document['epochs_without_stopping']} without stops",
        ],
        ["an epoch", f"at most about {document['seconds_per_epoch']:.1f} s (measured here)"],
        ["the study", f"about {document['expected_seconds'] / 60:.1f} min"],
        ["checkpoints on disk", f"{document['disk_bytes'] / 1e6:.1f} MB"],
    ]
    rows += [[f"searched: {p['name']}", f"{p['range']} ({p['role']})"] for p in document["space"]]
    rows += [
        [f"at an error of {error}", f"validation resolves {points:.2f} points (one standard deviation)"]
        for error, points in document["resolution_points"].items()
    ]
    print_table(["plan", ""], rows)


def _images(counts: dict[str, int]) -> str:
    return (
        f"{counts['labelled']} labelled, {counts['valid']} for validation, {counts['unlabelled']} unlabelled"
    )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def search_command(
    request: SearchRequest,
    with_baseline: Annotated[
        bool, typer.Option("--with-baseline", help="Also tune the supervised baseline, with as many trials")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Search a method's hyperparameters; everything is in MLflow, and the study can be resumed."""
    from tune.baseline import check_can_be_tuned
    from tune.progress import make_progress
    from tune.search import start

    if with_baseline:
        check_can_be_tuned(request, home_of(home))
    outcome = start(request, home_of(home), make_progress())
    _finish(outcome, home, with_baseline=with_baseline)


def resume_command(
    name: NameArgument,
    with_baseline: Annotated[
        bool, typer.Option("--with-baseline", help="Then tune the supervised baseline, as for search")
    ] = False,
    home: HomeOption = None,
    address: AddressOption = None,
) -> None:
    """Carry on a study that was interrupted; `--address local` brings one home from a cluster."""
    from tune.progress import make_progress
    from tune.search import carry_on

    outcome = carry_on(name, home_of(home), make_progress(), address)
    if outcome.seconds == 0.0:
        console().print(f"the study {name!r} is finished already.")
    _finish(outcome, home, with_baseline=with_baseline)


def _finish(outcome: Any, home: Path | None, *, with_baseline: bool = False) -> None:
    from tune.baseline import tune_baseline, worse
    from tune.progress import make_progress

    study, code = outcome.study, outcome.code
    print_study(study)
    interrupted = code in (Exit.INTERRUPTED, Exit.TERMINATED)
    if with_baseline and not interrupted:
        baseline = tune_baseline(study, home_of(home), make_progress())
        print_study(baseline.study)
        _say_pending(baseline, home)
        code = worse(code, baseline.code)
    _say_pending(outcome, home)
    _say_next(study.name, code, home, again=" --with-baseline" if with_baseline else "")
    sys.exit(code)


def _say_pending(outcome: Any, home: Path | None) -> None:
    if outcome.pending:
        command = typed("sync", outcome.study.name, home)
        console().print(f"MLflow lacks {outcome.pending} events; deliver them with: {command}")


def _say_next(name: str, code: Exit, home: Path | None, *, again: str) -> None:
    out = console()
    if code in (Exit.INTERRUPTED, Exit.TERMINATED):
        out.print(f"interrupted. Carry on with: {typed('resume', name, home)}{again}")
    elif code == Exit.NO_TRIAL_SUCCEEDED:
        out.print(f"no trial succeeded. See why with: {typed('trials', name, home)}")
    else:
        out.print(f"compare the trials in MLflow:   {typed('ui', None, home)}")
        out.print(f"confirm it on fresh seeds:      {typed('confirm', name, home)}")
        out.print(f"take the best configuration:    {typed('export', name, home)} -o best.yaml")


def confirm_command(
    name: NameArgument,
    top: Annotated[int, typer.Option(help="How many of the best configurations")] = 1,
    seeds: Annotated[int, typer.Option(help="Fresh seeds for each")] = 5,
    baseline: Annotated[
        str, typer.Option(help="tuned: a supervised study of as many trials, made if need be; or plain")
    ] = "tuned",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the best again on fresh seeds beside the supervised baseline, and read the test set once for each."""
    from tune.confirm import confirm
    from tune.progress import make_progress
    from tune.trainings import resumable

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)  # noqa: T201

    words = f"{typed('confirm', name, home)} --top {top} --seeds {seeds} --baseline {baseline}"
    with resumable(words):
        document = confirm(
            name, top=top, seeds=seeds, baseline=baseline, home=home, say=say, progress=make_progress()
        )
    if as_json:
        print_json(document)
    else:
        print_confirmation(document)
