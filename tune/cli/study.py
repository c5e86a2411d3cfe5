"""Commands that run something: plan, search, resume, confirm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.system.errors import counted
from tune import api
from tune.cli.options import (
    AddressOption,
    BaselineOption,
    ConfirmOption,
    EpochsBudgetOption,
    GpuHoursOption,
    HomeOption,
    JsonOption,
    NameArgument,
    TimeBudgetOption,
    TotalOption,
    TrustOption,
    home_of,
    takes_request,
)
from tune.cli.show import console, print_confirmation, print_json, print_study, print_table, typed, waiting
from tune.definition.request import SearchRequest
from tune.errors import Exit
from tune.findings.words import PROTOCOLS, duration
from tune.launch.changes import Change
from tune.launch.counts import CLASSES_SHOWN, counts_in_words
from tune.tracking.uri import shown

if TYPE_CHECKING:
    from tune.engine.outcome import Outcome
    from tune.findings.study import Study


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("plan")(takes_request(plan_command, afterwards=False))
    app.command("search")(takes_request(search_command))
    app.command("resume")(resume_command)
    app.command("repair")(repair_command)
    app.command("confirm")(confirm_command)


def plan_command(
    request: SearchRequest,
    home: HomeOption = None,
    within: Annotated[
        str | None, typer.Option("--within", metavar="2h", help="Also propose what fits this time")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a search would run and cost; runs nothing."""
    with waiting("the images, and for a few steps of training to be measured"):
        document = api.plan_request(request, home, within=within)
    if as_json:
        print_json(document)
        return
    rows = [
        ["study", document["study"]],
        ["method", document["method"]],
        ["data", f"{document['dataset']}: {_images(document['images'])}"],
        ["protocol", PROTOCOLS[document["protocol"]]],
        *[[f"class {row['class']}", counts_in_words(row)] for row in document["classes"][:CLASSES_SHOWN]],
        ["network", document["network"]],
        ["trials", f"{document['trials']}, {document['concurrent']} side by side"],
        ["threads, GPUs of a trial", f"{document['threads_per_trial']}, {document['gpus_per_trial']:g}"],
        [
            "full budget",
            f"{counted(document['epochs'], 'epoch')} of {counted(document['steps_per_epoch'], 'step')}",
        ],
        *_stopping_rows(document["rungs"]),
        [
            "expected",
            f"{document['expected_epochs']:g} epochs, of {document['epochs_without_stopping']} without stops",
        ],
        [
            "an epoch",
            f"about {document['seconds_per_epoch']:.1f} s, of the warm-up "
            f"{document['seconds_per_warmup_epoch']:.1f} s (measured here)",
        ],
        ["the study", f"about {duration(document['expected_seconds'])}"],
        ["memory", _memory(document)],
        ["checkpoints on disk", f"{document['disk_bytes'] / 1e6:.1f} MB"],
    ]
    rows += [[f"searched: {p['name']}", f"{p['range']} ({p['role']})"] for p in document["space"]]
    rows += [
        [f"at an error of {error}", f"validation resolves {points:.2f} points (one standard deviation)"]
        for error, points in document["resolution_points"].items()
    ]
    print_table(["plan", ""], rows)
    if (more := len(document["classes"]) - CLASSES_SHOWN) > 0:
        console().print(f"and {more} more classes (all with --json)")
    for line in document["notes"]:
        console().print(line)
    for line in document["warnings"]:
        console().print(f"warning: {line}")
    if within is not None:
        console().print(_proposed(document["within"], within))


def _proposed(found: dict[str, Any] | None, within: str) -> str:
    """What fits a time, as options to type."""
    if found is None:
        return f"nothing fits {within}: even a few epochs of a small network take longer. Allow more time."
    took = duration(found["expected_seconds"])
    if not found["options"]:
        return f"within {within}: it fits as it is (about {took})"
    words = [f"--set {n}={v}" if "." in n else f"--{n} {v}" for n, v in found["options"].items()]
    return f"within {within}: {' '.join(words)} (about {took})"


def _memory(document: dict[str, Any]) -> str:
    """What trials take of the memory, side by side, beside what there is."""
    trial, places = document["memory_bytes"], document["concurrent"]
    if trial is None:
        return "not known here"
    free = document["memory_available"]
    fits = "" if trial * places <= free else ": too much, a search takes fewer --concurrent"
    device = f"; {document['device_bytes'] / 1e9:.1f} GB of the GPU each" if document["device_bytes"] else ""
    needed = f"{trial * places / 1e9:.1f} of {free / 1e9:.1f} GB that are free"
    return f"about {trial / 1e9:.1f} GB a trial, {needed}{fits}{device}"


def _stopping_rows(rungs: dict[str, Any]) -> list[list[str]]:
    """Early stopping, and where there are several brackets each of them."""
    brackets = [
        [
            f"bracket {number}",
            f"{100 * bracket['share']:.0f} % of the trials: rungs after {_listed(bracket['after_ssl_epochs'])}",
        ]
        for number, bracket in enumerate(rungs.get("brackets", []), start=1)
    ]
    return [["rungs", _stopping(rungs)], *brackets]


def _stopping(rungs: dict[str, Any]) -> str:
    """Where trials are stopped early, in words."""
    if rungs["scheduler"] == "none":
        return "none, every trial runs its whole budget"
    at = f"after {_listed(rungs['after_ssl_epochs'])} epochs past the warm-up"
    if rungs["scheduler"] == "median":
        return f"none; {at}, whatever is worse than the median of the others ends"
    return f"{at}, {'best third' if rungs['kept'] == 'best 1/3' else rungs['kept']} goes on"


def _images(counts: dict[str, int]) -> str:
    return (
        f"{counts['labelled']} labelled, {counts['valid']} for validation, {counts['unlabelled']} unlabelled"
    )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def search_command(request: SearchRequest, home: HomeOption = None) -> None:
    """Search a method's hyperparameters; everything is in MLflow, and the study can be resumed."""
    found = api.run_search(request, home_of(home), _printing())
    _say_end(found, home, request.with_baseline, request.confirm_seeds)
    sys.exit(found.code)


def resume_command(
    name: NameArgument,
    trials: TotalOption = None,
    time_budget: TimeBudgetOption = None,
    epochs_budget: EpochsBudgetOption = None,
    gpu_hours: GpuHoursOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials again that failed for a cause since mended")
    ] = False,
    with_baseline: BaselineOption = False,
    confirm_seeds: ConfirmOption = None,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
) -> None:
    """Carry on a study that was interrupted, or let one grow; `--address local` brings one home from a cluster.

    A study that another process runs is told of its new totals, and goes on there.
    """
    found = api.run_resume(
        name,
        home_of(home),
        _printing(),
        with_baseline=with_baseline,
        confirm_seeds=confirm_seeds,
        address=address,
        trust_method=trust_method,
        change=Change(
            trials=trials,
            time_budget=time_budget,
            epochs_budget=epochs_budget,
            gpu_hours=gpu_hours,
            retry_failed=retry_failed,
        ),
    )
    if found.search.told:
        for said in found.search.told:
            console().print(f"{said}. It is being run: see {typed('status', name, home)}")
        sys.exit(found.code)
    _say_end(found, home, with_baseline, confirm_seeds)
    sys.exit(found.code)


def _printing() -> api.Listener:
    """Prints what a search and what comes after it find, as soon as it is known."""
    from tune.engine.progress import make_progress

    return api.Listener(progress=make_progress, searched=_print_search, confirmed=print_confirmation, say=say)


def _print_search(outcome: Outcome) -> None:
    if outcome.was_finished:
        console().print(
            f"the study {outcome.study.name!r} is finished already. For more trials give it a new total, such as "
            f"{outcome.study.folder.command('resume', '--trials', str(2 * outcome.study.spec.trials))}, or start "
            f"another that begins from what it learned: ssl-tune search --warm-start {outcome.study.name} --name NAME, "
            "and the other options as before."
        )
    print_study(outcome.study)


def _say_end(found: api.Searched, home: str | None, with_baseline: bool, confirm_seeds: int | None) -> None:
    """What MLflow lacks, and what to do next."""
    for study, (pending, refused) in found.undelivered.items():
        command = typed("sync", study, home)
        if pending:
            console().print(f"MLflow lacks {counted(pending, 'event')}; deliver them with: {command}")
        if refused:
            console().print(f"MLflow refused {counted(refused, 'event')} for good; see which with: {command}")
    name, trouble = found.study.name, found.search.trouble
    if trouble is not None:
        say(f"ssl-tune: storage: {trouble}. What was written so far is whole; mend it, then")
        say(f"carry on with: {typed('resume', name, home)}")
    elif found.interrupted:
        again = " --with-baseline" if with_baseline else ""
        again += f" --confirm-seeds {confirm_seeds}" if confirm_seeds is not None else ""
        console().print(f"interrupted. Carry on with: {typed('resume', name, home)}{again}")
    elif found.code == Exit.NO_TRIAL_SUCCEEDED:
        console().print(f"no trial succeeded. See why with: {typed('trials', name, home)}")
    else:
        _say_next(found.study, home, confirmed=confirm_seeds is not None)


def _say_next(study: Study, home: str | None, *, confirmed: bool) -> None:
    out, name = console(), study.name
    if not confirmed and not study.doubts():
        out.print(f"confirm it on fresh seeds:      {typed('confirm', name, home)}")
    out.print(f"take the best configuration:    {typed('export', name, home)} -o best.yaml")
    uri = study.spec.tracking_uri
    at_home = uri == home_of(home).default_tracking_uri
    where = typed("ui", name, home) if at_home else shown(uri)
    out.print(f"compare the trials in MLflow:   {where}")


def repair_command(name: NameArgument, trust_method: TrustOption = False, home: HomeOption = None) -> None:
    """Make damaged files of a study again from those that are whole; nothing is done where all are."""
    repaired = api.repair(name, trust_method=trust_method, home=home)
    for line in repaired.mended:
        console().print(f"made again: {line}")
    if not repaired.mended:
        console().print(f"the study {name!r} is whole: there is nothing to repair.")
        return
    console().print("The damaged files are kept beside the new ones; they end in .damaged.")
    if repaired.study.status()["state"] != "finished":
        console().print(f"carry on with: {typed('resume', name, home)}")


def say(message: str) -> None:
    """A line on standard error."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def confirm_command(
    name: NameArgument,
    top: Annotated[int, typer.Option(help="How many of the best configurations")] = 1,
    seeds: Annotated[int, typer.Option(help="Fresh seeds for each")] = 5,
    baseline: Annotated[
        str, typer.Option(help="tuned: a supervised study of as many trials, made if need be; or plain")
    ] = "tuned",
    resample: Annotated[
        bool, typer.Option("--resample", help="Each seed draws labelled and validation images anew")
    ] = False,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="Then train the winner on the validation images too, once for each seed"
        ),
    ] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Make a model of each of the winner's trainings, for `predict`")
    ] = False,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the best again on fresh seeds beside the supervised baseline, and read the test set once for each."""
    from tune.engine.progress import make_progress

    document = api.run_confirm(
        name,
        home_of(home),
        make_progress(),
        top=top,
        seeds=seeds,
        baseline=baseline,
        resample=resample,
        refit=refit,
        models=models,
        say=say,
        address=address,
        trust_method=trust_method,
    )
    if as_json:
        print_json(document)
    else:
        print_confirmation(document)
        if models:
            _say_models(document, home_of(home).study_folder(name))
    _say_what_mlflow_lacks(name, home)


def _say_models(document: dict[str, Any], folder: Path) -> None:
    best = document.get("models", {}).get("best")
    if best is None:
        console().print("there is no model: no training has a result.")
        return
    console().print(f"models: {folder / 'models'}; the best on validation images: {folder / best}")
    console().print(f"label images with: {shlex.join(['ssl-tune', 'predict', str(folder / best)])} IMAGES")


def _say_what_mlflow_lacks(name: str, home: str | None) -> None:
    """Exit with the code for it where something of a study is still to be delivered, or was refused."""
    from tune.findings.study import load_study

    tracking = load_study(name, home=home).status()["tracking"]
    if not tracking["pending"] and not tracking["refused"]:
        return
    say(
        f"MLflow lacks {counted(tracking['pending'], 'event')} and refused {tracking['refused']} for good; deliver "
        f"them, or see which, with: {typed('sync', name, home)}"
    )
    sys.exit(Exit.TRACKING_PENDING)
