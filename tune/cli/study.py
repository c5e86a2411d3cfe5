"""Commands that run something: plan, search, resume, confirm."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.comparisons import command as comparison
from tune.cli.options import (
    AddressOption,
    BaselineOption,
    ConfirmOption,
    EpochsBudgetOption,
    GpuHoursOption,
    HomeOption,
    JsonOption,
    NameArgument,
    OnEndOption,
    PatienceOption,
    TimeBudgetOption,
    TotalOption,
    TrustOption,
    WebhookOption,
    home_of,
    takes_request,
)
from tune.cli.planning.plan import plan_command
from tune.cli.show import console, print_confirmation, print_json, print_study, typed
from tune.definition.request import SearchRequest
from tune.errors import Exit
from tune.launch.growing.changes import Change
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
    patience: PatienceOption = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials again that failed for a cause since mended")
    ] = False,
    with_baseline: BaselineOption = False,
    confirm_seeds: ConfirmOption = None,
    on_end: OnEndOption = None,
    webhook: WebhookOption = None,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
) -> None:
    """Carry on a study that was interrupted, or let one grow; `--address local` brings one home from a cluster.

    A study that another process runs is told of its new totals, and goes on there.
    """
    told = SearchRequest(on_end=on_end, webhook=webhook)  # which checks them
    change = Change(
        trials=trials,
        time_budget=time_budget,
        epochs_budget=epochs_budget,
        gpu_hours=gpu_hours,
        patience=patience,
        retry_failed=retry_failed,
    )
    if comparison.is_comparison(name, home_of(home)):
        comparison.refuse_options(name, with_baseline=with_baseline, address=address)
        if change:
            raise ConfigError(f"{name} is a comparison: let its studies grow, each by its own name.")
        comparison.resume(name, home, confirm_seeds=confirm_seeds, trust_method=trust_method, told=told)
        return
    found = api.run_resume(
        name,
        home_of(home),
        _printing(),
        with_baseline=with_baseline,
        confirm_seeds=confirm_seeds,
        address=address,
        trust_method=trust_method,
        change=change,
        on_end=told.on_end,
        webhook=told.webhook,
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
    until_told_apart: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Then go on seed by seed until the two best are told apart, to N seeds at most [default: do not]",
            show_default=False,
        ),
    ] = None,
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
        until_told_apart=until_told_apart,
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
