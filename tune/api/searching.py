"""Search a study, tune its baseline and confirm its best: one command's worth of work, in one sitting."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune.confirmation.confirm import check_can_be_confirmed, confirm
from tune.engine.outcome import Outcome, worse
from tune.engine.progress import Progress, make_progress
from tune.engine.sitting import Sitting
from tune.errors import Exit
from tune.findings.study import Study
from tune.launch.baseline import check_can_be_tuned, tune_baseline
from tune.launch.request import SearchRequest
from tune.launch.start import finished_before, new_sitting, resumed_sitting
from tune.signals import resumable
from tune.store.home import Home


@dataclass(frozen=True, kw_only=True)
class Afterwards:
    """What is done after a search, and what is told as it goes.

    Attributes:
        with_baseline: also tune the supervised baseline of the same setting, with as many trials.
        confirm_seeds: confirm the best configuration on so many fresh seeds, beside the supervised baseline (the
            tuned one `with_baseline`, else a plain one); None: do not.
        searched: told how each search ended, the baseline's too, as soon as it has.
        confirmed: told what the confirmation found.
        say: told as each training of the confirmation ends.
    """

    with_baseline: bool = False
    confirm_seeds: int | None = None
    searched: Callable[[Outcome], None] = lambda outcome: None
    confirmed: Callable[[dict[str, Any]], None] = lambda document: None
    say: Callable[[str], None] = lambda message: None


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


NOTHING = Afterwards()


def run_search(
    request: SearchRequest, home: Home, progress: Callable[[], Progress], afterwards: Afterwards = NOTHING
) -> Searched:
    """Make the study that is asked for, run it, and do what comes after it.

    Args:
        request: what is asked for.
        home: the home folder.
        progress: makes what shows how a search goes, one for each.
        afterwards: what is done after the search.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: a cluster, a storage or MLflow does not answer; another driver has the study; Ctrl-C before the
            first trial or within the confirmation: the message says how to carry on.
    """
    if afterwards.with_baseline:
        check_can_be_tuned(request, home)
    if afterwards.confirm_seeds is not None:
        check_can_be_confirmed(request, home, afterwards.confirm_seeds)
    with new_sitting(request, home, progress()) as sitting:
        return _search_and_more(sitting, home, progress, afterwards)


def run_resume(
    name: str,
    home: Home,
    progress: Callable[[], Progress],
    afterwards: Afterwards = NOTHING,
    address: str | None = None,
) -> Searched:
    """Run what is left of a study, and do what comes after it, also where the study is finished already.

    Args:
        name: the study's name.
        home, progress, afterwards: as of `run_search`.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.

    Raises:
        ConfigError: no such study, or its data changed since.
        ServiceError: as `run_search`.
    """
    study = Study(home.existing_study_folder(name))
    if study.folder.state() == "finished":
        return _what_follows(finished_before(study), None, home, progress, afterwards)
    with resumed_sitting(study, home, progress(), address) as sitting:
        return _search_and_more(sitting, home, progress, afterwards)


def _search_and_more(
    sitting: Sitting, home: Home, progress: Callable[[], Progress], afterwards: Afterwards
) -> Searched:
    # A confirmation that follows at once uses the sender that is at work; nobody waits for MLflow in between.
    outcome = sitting.search(stay=afterwards.confirm_seeds is not None and not afterwards.with_baseline)
    return _what_follows(outcome, sitting if sitting.is_open else None, home, progress, afterwards)


def _what_follows(
    outcome: Outcome,
    sitting: Sitting | None,
    home: Home,
    progress: Callable[[], Progress],
    afterwards: Afterwards,
) -> Searched:
    name, code = outcome.study.name, outcome.code
    undelivered = {name: (outcome.pending, outcome.refused)}
    baseline, confirmation = None, None
    afterwards.searched(outcome)
    if afterwards.with_baseline and not outcome.interrupted:
        baseline = tune_baseline(outcome.study, home, progress())
        afterwards.searched(baseline)
        undelivered[baseline.study.name] = (baseline.pending, baseline.refused)
        code = worse(code, baseline.code)
    ended_early = outcome.interrupted or (baseline is not None and baseline.interrupted)
    if afterwards.confirm_seeds is not None and not ended_early and code != Exit.NO_TRIAL_SUCCEEDED:
        confirmation = run_confirm(
            name,
            home,
            progress(),
            seeds=afterwards.confirm_seeds,
            baseline="tuned" if afterwards.with_baseline else "plain",
            say=afterwards.say,
            sitting=sitting,
        )
        afterwards.confirmed(confirmation)
        tracking = outcome.study.status()["tracking"]
        undelivered[name] = (tracking["pending"], tracking["refused"])
        code = worse(code, Exit.TRACKING_PENDING if any(undelivered[name]) else Exit.DONE)
    return Searched(
        search=outcome, baseline=baseline, confirmation=confirmation, code=code, undelivered=undelivered
    )


def run_confirm(
    name: str,
    home: Home,
    progress: Progress,
    *,
    top: int = 1,
    seeds: int = 5,
    baseline: str = "tuned",
    say: Callable[[str], None] = lambda message: None,
    sitting: Sitting | None = None,
) -> dict[str, Any]:
    """Confirm a study's best configurations: `tune.confirmation.confirm.confirm`, which Ctrl-C and SIGTERM interrupt.

    Raises:
        ConfigError, ServiceError: as `confirm`; interrupted, with the command that carries on.
    """
    words = ["ssl-tune", "confirm", name, "--top", top, "--seeds", seeds, "--baseline", baseline]
    with resumable(shlex.join(map(str, [*words, "--home", home.shown]))):
        return confirm(
            name,
            top=top,
            seeds=seeds,
            baseline=baseline,
            home=home,
            say=say,
            progress=progress,
            sitting=sitting,
        )


def search(
    method: str = "pseudo_label",
    dataset: str = "digits",
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    with_baseline: bool = False,
    confirm_seeds: int | None = None,
    **options: Any,
) -> Study:
    """Search a method's hyperparameters on this machine; returns the finished study.

    Args:
        method: the method, see ``ssl-tune methods``.
        dataset: digits, cifar10, cifar100 or folder:PATH.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.
        quiet: show no progress.
        with_baseline: also tune the supervised baseline of the same setting, with as many trials.
        confirm_seeds: then confirm the best on so many fresh seeds, beside the supervised baseline.
        options: the other fields of `tune.launch.request.SearchRequest`: labels, network, epochs, trials, name,
            space, settings, concurrent, gpus_per_trial, seed, time_budget, sampler, startup_trials, points,
            warm_start, storage, max_failures, tracking_uri, tracking_timeout, require_tracking, system_metrics,
            data_root, address.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: another driver has the study.
    """
    request = SearchRequest(method=method, dataset=dataset, **options)
    afterwards = Afterwards(with_baseline=with_baseline, confirm_seeds=confirm_seeds)
    return run_search(request, Home(home), lambda: make_progress(quiet=quiet), afterwards).study


def resume(
    name: str,
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    with_baseline: bool = False,
    confirm_seeds: int | None = None,
    address: str | None = None,
) -> Study:
    """Carry on a study that was interrupted; one that is finished is returned as it is.

    Args:
        name: the study's name.
        home, quiet, with_baseline, confirm_seeds: as of `search`.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.

    Raises:
        ConfigError: no such study, or its data changed since.
        ServiceError: another driver has it.
    """
    afterwards = Afterwards(with_baseline=with_baseline, confirm_seeds=confirm_seeds)
    return run_resume(name, Home(home), lambda: make_progress(quiet=quiet), afterwards, address).study
