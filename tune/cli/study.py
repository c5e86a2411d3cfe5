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


def search_command(request: SearchRequest, home: HomeOption = None) -> None:
    """Search a method's hyperparameters; everything is in MLflow, and the study can be resumed."""
    from tune.progress import make_progress
    from tune.search import start

    _finish(start(request, home_of(home), make_progress()), home)


def resume_command(name: NameArgument, home: HomeOption = None, address: AddressOption = None) -> None:
    """Carry on a study that was interrupted; `--address local` brings one home from a cluster."""
    from tune.progress import make_progress
    from tune.search import carry_on

    outcome = carry_on(name, home_of(home), make_progress(), address)
    if outcome.seconds == 0.0:
        console().print(f"the study {name!r} is finished already.")
    _finish(outcome, home)


def _finish(outcome: Any, home: Path | None) -> None:
    study, out = outcome.study, console()
    print_study(study)
    if outcome.pending:
        out.print(
            f"MLflow lacks {outcome.pending} events; deliver them with: {typed('sync', study.name, home)}"
        )
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        out.print(f"interrupted. Carry on with: {typed('resume', study.name, home)}")
    elif outcome.code == Exit.NO_TRIAL_SUCCEEDED:
        out.print(f"no trial succeeded. See why with: {typed('trials', study.name, home)}")
    else:
        out.print(f"compare the trials in MLflow:   {typed('ui', None, home)}")
        out.print(f"confirm it on fresh seeds:      {typed('confirm', study.name, home)}")
        out.print(f"take the best configuration:    {typed('export', study.name, home)} -o best.yaml")
    sys.exit(outcome.code)


def confirm_command(
    name: NameArgument,
    top: Annotated[int, typer.Option(help="How many of the best configurations")] = 1,
    seeds: Annotated[int, typer.Option(help="Fresh seeds for each")] = 5,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the best again on fresh seeds beside the supervised baseline, and read the test set once for each."""
    from tune.confirm import confirm

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)  # noqa: T201

    try:
        document = confirm(name, top=top, seeds=seeds, home=home, say=say)
    except KeyboardInterrupt:
        say(
            f"interrupted; what is trained is kept. Carry on with: {typed('confirm', name, home)}"
            f" --top {top} --seeds {seeds}"
        )
        sys.exit(Exit.INTERRUPTED)
    if as_json:
        print_json(document)
    else:
        print_confirmation(document)
