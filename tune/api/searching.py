"""Search a study, tune its baseline and confirm its best: one command's worth of work, in one sitting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from tune.api.confirming import run_confirm
from tune.definition.inputs import parse_duration
from tune.definition.request import SearchRequest
from tune.definition.request_options import RequestOptions
from tune.engine.outcome import Outcome, worse
from tune.engine.progress import Progress, make_progress
from tune.engine.sitting import Sitting
from tune.errors import Exit
from tune.findings.study import Study
from tune.launch.growing.changes import NO_CHANGE, Change, checked
from tune.launch.start import finished_before, is_finished, new_sitting, resumed_sitting, tune_baseline
from tune.launch.telling.ending import study_outcome, telling
from tune.store.home import Home


def _nothing(_: object) -> None:
    """What is done with news that nobody wants."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told what, as soon as it is known.

    Attributes:
        progress: makes what shows how a search goes, one for each.
        searched: told how each search ended, the baseline's too.
        confirmed: told what the confirmation found.
        say: told as each training of the confirmation ends.
    """

    progress: Callable[[], Progress] = Progress
    searched: Callable[[Outcome], None] = _nothing
    confirmed: Callable[[dict[str, Any]], None] = _nothing
    say: Callable[[str], None] = _nothing


@dataclass(frozen=True)
class _Afterwards:
    """What is done after a search: see the fields of a request of the same names."""

    with_baseline: bool
    confirm_seeds: int | None
    trust_method: bool = False


@dataclass(frozen=True, kw_only=True)
class Searched:
    """How a search ended, with all that came after it.

    Attributes:
        search: of the study itself.
        baseline: of the supervised baseline's study, where that was tuned.
        confirmation: what `tune.confirmation.confirm.confirm` returned, where it was called.
        code: what the command exits with.
        undelivered: for each study, how many events MLflow still lacks and how many it refused for good.
    """

    search: Outcome
    baseline: Outcome | None = None
    confirmation: dict[str, Any] | None = None
    code: Exit
    undelivered: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def study(self) -> Study:
        """The study."""
        return self.search.study

    @property
    def interrupted(self) -> bool:
        """Whether the work ended early, and can be carried on."""
        return self.code in (Exit.INTERRUPTED, Exit.TERMINATED, Exit.STORAGE)


SILENT = Listener()


def run_search(request: SearchRequest, home: Home, listener: Listener = SILENT) -> Searched:
    """Make the study that is asked for, run it, then tune the baseline and confirm the best where that is asked for.

    Args:
        request: what is asked for.
        home: the home folder.
        listener: told as it goes.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: a cluster, a storage or MLflow does not answer; another driver has the study; Ctrl-C before the
            first trial or within the confirmation: the message says how to carry on.
    """
    afterwards = _Afterwards(request.with_baseline, request.confirm_seeds)
    with telling(request.on_end, request.webhook, listener.say) as ending:
        with new_sitting(request, home, listener.progress()) as sitting:
            ending.outcome = functools.partial(study_outcome, sitting.folder.path)
            found = _search_and_more(sitting, home, listener, afterwards)
        ending.code = found.code
    return found


def run_resume(
    name: str,
    home: Home,
    listener: Listener = SILENT,
    *,
    with_baseline: bool = False,
    confirm_seeds: int | None = None,
    address: str | None = None,
    trust_method: bool = False,
    change: Change = NO_CHANGE,
    on_end: str | None = None,
    webhook: str | None = None,
) -> Searched:
    """Run what is left of a study, and do what comes after it, also where the study is finished already.

    Where another process drives the study, it is told what is to be changed, and nothing else is done.

    Args:
        name: the study's name.
        home: the home folder.
        listener: told as it goes.
        with_baseline: also tune the supervised baseline of the same setting, with as many trials.
        confirm_seeds: confirm the best configuration on so many fresh seeds, beside the supervised baseline (the
            tuned one `with_baseline`, else a plain one); None: do not.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.
        trust_method: the file of its method is run also where this user has not run it before (`ssl_core.trusted`).
        change: new totals of trials, time, epochs or GPU hours; failed trials that run again.
        on_end, webhook: as of a request; a study that was finished before is not told of unless it is confirmed now.

    Raises:
        ConfigError: no such study, its data changed since, its method file is not trusted, or a change that cannot be
            made.
        DamagedError: a file of it is damaged.
        ServiceError: as `run_search`.
    """
    afterwards = _Afterwards(with_baseline, confirm_seeds, trust_method)
    study = Study(home.existing_study_folder(name))
    wishes = checked(study, change)
    if wishes and study.folder.is_locked():
        from tune.steering.asking import ask  # loads Optuna

        told = tuple(ask(study.folder, wish) for wish in wishes)
        return Searched(search=Outcome(study, Exit.DONE, 0, 0.0, told=told), code=Exit.DONE)
    outcome = functools.partial(study_outcome, study.folder.path)
    with telling(on_end, webhook, listener.say) as ending:
        if not wishes and is_finished(study):
            ending.outcome = None if confirm_seeds is None else outcome
            found = _what_follows(finished_before(study), None, home, listener, afterwards)
        else:
            progress = listener.progress()
            with resumed_sitting(
                study, home, progress, address, trust_method=trust_method, wishes=wishes
            ) as sitting:
                ending.outcome = outcome
                found = _search_and_more(sitting, home, listener, afterwards)
        ending.code = found.code
    return found


def _search_and_more(sitting: Sitting, home: Home, listener: Listener, afterwards: _Afterwards) -> Searched:
    # A confirmation that follows at once uses the sender that is at work; nobody waits for MLflow in between.
    outcome = sitting.search(stay=afterwards.confirm_seeds is not None and not afterwards.with_baseline)
    return _what_follows(outcome, sitting if sitting.is_open else None, home, listener, afterwards)


def _what_follows(
    outcome: Outcome, sitting: Sitting | None, home: Home, listener: Listener, afterwards: _Afterwards
) -> Searched:
    name, code = outcome.study.name, outcome.code
    undelivered = {name: (outcome.pending, outcome.refused)}
    baseline, confirmation = None, None
    listener.searched(outcome)
    if afterwards.with_baseline and not outcome.interrupted:
        baseline = tune_baseline(outcome.study, home, listener.progress())
        listener.searched(baseline)
        undelivered[baseline.study.name] = (baseline.pending, baseline.refused)
        code = worse(code, baseline.code)
    ended_early = outcome.interrupted or (baseline is not None and baseline.interrupted)
    if afterwards.confirm_seeds is not None and not ended_early and code != Exit.NO_TRIAL_SUCCEEDED:
        confirmation = run_confirm(
            name,
            home,
            listener.progress(),
            seeds=afterwards.confirm_seeds,
            baseline="tuned" if afterwards.with_baseline else "plain",
            say=listener.say,
            trust_method=afterwards.trust_method,
            sitting=sitting,
        )
        listener.confirmed(confirmation)
        tracking = outcome.study.status()["tracking"]
        undelivered[name] = (tracking["pending"], tracking["refused"])
        code = worse(code, Exit.TRACKING_PENDING if any(undelivered[name]) else Exit.DONE)
    return Searched(
        search=outcome, baseline=baseline, confirmation=confirmation, code=code, undelivered=undelivered
    )


def search(
    method: str = "pseudo_label",
    dataset: str = "digits",
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    **options: Unpack[RequestOptions],
) -> Study:
    """Search a method's hyperparameters on this machine; returns the finished study.

    Args:
        method: the method, see ``ssl-tune methods``.
        dataset: digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.
        quiet: show no progress.
        options: the other options of a search, see `tune.definition.request_options.RequestOptions`.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: another driver has the study.
    """
    request = SearchRequest(method=method, dataset=dataset, **options)
    return run_search(request, Home(home), Listener(progress=lambda: make_progress(quiet=quiet))).study


def resume(
    name: str,
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    with_baseline: bool = False,
    confirm_seeds: int | None = None,
    address: str | None = None,
    trust_method: bool = False,
    trials: int | None = None,
    time_budget: float | str | None = None,
    epochs_budget: int | None = None,
    gpu_hours: float | None = None,
    patience: int | None = None,
    retry_failed: bool = False,
    on_end: str | None = None,
    webhook: str | None = None,
) -> Study:
    """Carry on a study that was interrupted; one that is finished is returned as it is, or grows.

    Where another process drives the study, that process is told what is to be changed.

    Args:
        name: the study's name.
        home, quiet: as of `search`.
        with_baseline, confirm_seeds, on_end, webhook: as of `run_resume`.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.
        trust_method: the file of its method is run also where this user has not run it before (`ssl_core.trusted`).
        trials, time_budget, epochs_budget, gpu_hours: new totals, also of a finished study; None: as they are.
        patience: a new one, likewise; larger than `trials`: none ends the study.
        retry_failed: trials that failed for a cause that may be mended run again, from their checkpoints.

    Raises:
        ConfigError: no such study, its data changed since, its method file is not trusted, or a change that cannot be
            made.
        DamagedError: a file of it is damaged: see `repair`.
        ServiceError: another driver has it.
    """
    listener = Listener(progress=lambda: make_progress(quiet=quiet))
    found = run_resume(
        name,
        Home(home),
        listener,
        with_baseline=with_baseline,
        confirm_seeds=confirm_seeds,
        address=address,
        trust_method=trust_method,
        change=Change(
            trials=trials,
            time_budget=time_budget,
            epochs_budget=epochs_budget,
            gpu_hours=gpu_hours,
            patience=patience,
            retry_failed=retry_failed,
        ),
        on_end=on_end,
        webhook=webhook,
    )
    return found.study


def plan(
    method: str = "pseudo_label",
    dataset: str = "digits",
    *,
    home: Path | str | None = None,
    **options: Unpack[RequestOptions],
) -> dict[str, Any]:
    """What a search would run and cost, from a few real steps on this machine; runs no trial and leaves nothing.

    Args:
        method, dataset, home, options: as of `search`.

    Returns:
        What ``ssl-tune plan --json`` prints: images, rungs, epochs, seconds, bytes on disk, the space, and which
        differences the validation images resolve.

    Raises:
        ConfigError, ServiceError: as of `search`.
    """
    return plan_request(SearchRequest(method=method, dataset=dataset, **options), home)


def plan_request(
    request: SearchRequest, home: Path | str | None = None, *, within: str | None = None
) -> dict[str, Any]:
    """`plan` for a request that is made already; with `within`, a time such as "2h", also what would fit it."""
    from tune.launch.fitting import propose  # loads torch
    from tune.launch.plan import plan as measure

    seconds = None if within is None else parse_duration(within, "--within")
    document = measure(request, Home(home))
    if seconds is not None:
        document["within"] = propose(request, Home(home), seconds, document)
    return document
