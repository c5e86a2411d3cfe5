"""Commands that run something: plan, search, resume, confirm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.system.errors import counted
from tune import api
from tune.cli.jobs import JobsOption
from tune.cli.options import (
    AddressOption,
    BaselineOption,
    ConfirmOption,
    HomeOption,
    JsonOption,
    NameArgument,
    TrustOption,
    home_of,
    takes_request,
)
from tune.cli.show import console, print_confirmation, print_json, print_study, print_table, typed
from tune.definition.request import SearchRequest
from tune.errors import Exit
from tune.findings.words import PROTOCOLS
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
    app.command("stop")(stop_command)
    app.command("confirm")(confirm_command)


def plan_command(request: SearchRequest, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Say what a search would run and cost; runs nothing."""
    document = api.plan_request(request, home)
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
        [
            "rungs",
            f"after {_listed(document['rungs']['after_ssl_epochs'])} epochs past the warm-up, best third goes on",
        ],
        [
            "expected",
            f"{document['expected_epochs']:g} epochs, of {document['epochs_without_stopping']} without stops",
        ],
        [
            "an epoch",
            f"about {document['seconds_per_epoch']:.1f} s, of the warm-up "
            f"{document['seconds_per_warmup_epoch']:.1f} s (measured here)",
        ],
        ["the study", f"about {document['expected_seconds'] / 60:.1f} min"],
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
    with_baseline: BaselineOption = False,
    confirm_seeds: ConfirmOption = None,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
) -> None:
    """Carry on a study that was interrupted; `--address local` brings one home from a cluster."""
    found = api.run_resume(
        name,
        home_of(home),
        _printing(),
        with_baseline=with_baseline,
        confirm_seeds=confirm_seeds,
        address=address,
        trust_method=trust_method,
    )
    _say_end(found, home, with_baseline, confirm_seeds)
    sys.exit(found.code)


def _printing() -> api.Listener:
    """Prints what a search and what comes after it find, as soon as it is known."""
    from tune.engine.progress import make_progress

    return api.Listener(progress=make_progress, searched=_print_search, confirmed=print_confirmation, say=say)


def _print_search(outcome: Outcome) -> None:
    if outcome.was_finished:
        console().print(
            f"the study {outcome.study.name!r} is finished already. For more trials start another that begins from "
            f"what it learned: ssl-tune search --warm-start {outcome.study.name} --name NAME, and the other options as "
            "before."
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
    if not confirmed:
        out.print(f"confirm it on fresh seeds:      {typed('confirm', name, home)}")
    out.print(f"take the best configuration:    {typed('export', name, home)} -o best.yaml")
    uri = study.spec.tracking_uri
    at_home = uri == home_of(home).default_tracking_uri
    where = typed("ui", None, home) if at_home else shown(uri)
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


def stop_command(
    name: NameArgument,
    timeout: Annotated[
        str, typer.Option(metavar="5m", help="How long to wait until its driver has ended")
    ] = "5m",
    home: HomeOption = None,
    address: JobsOption = None,
) -> None:
    """End a study that another process runs, resumably: its trials end their epoch, which is kept."""
    stopped = api.stop(name, timeout=timeout, address=address, home=home)
    if stopped.address is not None:
        again = f"ssl-tune submit --resume {name} --address {stopped.address}"
        ended = f"the job of {name} has ended already: {stopped.state}"
        console().print(f"told to stop. Carry on with: {again}" if stopped.asked else ended)
        return
    if not stopped.asked:
        console().print(f"nobody runs the study {name!r}: it is {stopped.state}.")
        return
    console().print(f"the study {name!r} is {stopped.state}.")
    if stopped.state == "interrupted":
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
