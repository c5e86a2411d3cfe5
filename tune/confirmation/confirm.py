"""Train the best configurations again on fresh seeds, beside the supervised baseline, and read the test set.

The winner of a search is the best of many draws, so its validation error flatters it. Here each configuration
is trained from scratch on training seeds and labelled sets that the search never used (the validation images
stay where they are), the baseline on the same ones for the same number of steps; then the test set is read
once per final model. The winner among those confirmed is the one with the lowest validation error on the
fresh seeds: the test set chooses nothing, so the winner's test error flatters nobody. With a refit the winner is then
trained once more on each seed, on training and validation images together, and read once for each of these models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypedDict

from ssl_core.config import from_document, options_of
from ssl_core.data.datasets import describe
from ssl_core.system.errors import ConfigError, counted
from tune.cluster.capacity import MOST_PLACES
from tune.confirmation.document import Candidate, FinalTraining, document_of, refits_of, with_refit
from tune.confirmation.keeping import keep
from tune.confirmation.looks import looks_of
from tune.confirmation.models import make_models
from tune.confirmation.seeds import Seeds, train, train_seeds
from tune.confirmation.trainings import Places, Redrawn, Trained
from tune.definition.coherence import check_fresh_sets
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import Exit, ServiceError
from tune.findings.confirmation import PLAIN, TUNED
from tune.findings.ranking import best_record
from tune.findings.study import Study
from tune.images.study import read_images
from tune.launch.preparation import check_machines
from tune.launch.start import moved, tune_baseline
from tune.store.home import Home
from tune.tracking.tracker import Tracker
from tune.trials.record import TrialRecord

BASELINES = ("tuned", "plain")
NO_GPUS = "The study was searched with them: confirm it where they are, or on a cluster with --address."


class ConfirmOptions(TypedDict, total=False):
    """What may be said of a confirmation, as keywords: see `confirm`, which has their meaning and defaults."""

    top: int
    seeds: int
    until_told_apart: int | None
    baseline: str
    resample: bool
    refit: bool
    models: bool
    trust_method: bool
    address: str | None


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 5,
    until_told_apart: int | None = None,
    baseline: str = "tuned",
    resample: bool = False,
    refit: bool = False,
    models: bool = False,
    home: Home | Path | str | None = None,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress | None = None,
    trust_method: bool = False,
    sitting: Sitting | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Confirm a study's best configurations; what is done already is not done again.

    Args:
        name, home: the study, and the home folder.
        top, seeds: how many configurations, those at full budget first; trainings of each.
        until_told_apart: go on seed by seed until the two best are told apart, to so many seeds at most.
        baseline: "tuned": the best of a supervised study of as many trials, made if need be; "plain": not searched.
        resample: each seed draws the validation images anew as well, not the labelled ones alone.
        refit: train the winner once more on each seed, on the validation images too, for as many steps.
        models: make a model of each training of the winner.
        say, progress: told as each training ends; shows the search of the tuned baseline, where one is made.
        trust_method: run the method's file also where this user has not run it before (`ssl_core.trusted`).
        sitting: of the search, which holds the study, Ray and the sender; None: a sitting of its own.
        address: of the Ray cluster that this process has joined, to train there; None: here, or where the sitting is.

    Returns:
        What `ssl-tune confirm --json` prints; also written to ``confirm.json`` in the study's folder.

    Raises:
        ConfigError: no such study, fewer trials with a result than `top`, or no data or machine for the trainings.
        ServiceError: a driver has the study, or the search of the baseline was interrupted or failed.
    """
    place = home if isinstance(home, Home) else Home(home)
    study = _study(name, baseline, place, sitting, address, trust_method, say)
    wanted = _seeds(study, seeds, until_told_apart, resample)
    chosen = _chosen(study, top, wanted)
    with ExitStack() as stack:
        if sitting is None:
            sitting = stack.enter_context(Sitting(study.spec, study.folder, place, progress or Progress()))
        candidates = [candidate_of(study, record) for record in chosen]
        candidates += _baseline(study, baseline, place, progress or Progress())
        sitting.start_sender()
        tracker, places = sitting.tracker, places_of(study, place)
        tasks, trained = train_seeds(study, candidates, wanted, places, tracker, say)
        document = document_of(study, candidates, tasks, trained, wanted.redrawn, wanted.looks)
        mine = _of_winner(document["winner"], tasks, trained)
        if refit and mine:
            document, more = _refitted(document, [task for task, _ in mine], places, tracker, say)
            mine += more
        document |= _models(study, mine, places, tracker, say) if models and mine else {}
        keep(document, study, tracker)
        sitting.deliver(study.spec.tracking_timeout)
    return document


def _study(
    name: str,
    baseline: str,
    home: Home,
    sitting: Sitting | None,
    address: str | None,
    trust_method: bool,
    say: Callable[[str], None],
) -> Study:
    """The study with its method loaded, to be trained where it was asked for, or where its search is.

    Raises:
        ConfigError: an unknown kind of baseline, a method file that is not trusted, or machines that cannot train it.
        ServiceError: machines that do not share the home.
    """
    study = Study(home.existing_study_folder(name))
    if baseline not in BASELINES:
        raise ConfigError(f"baseline = {baseline!r}: must be tuned or plain.")
    if sitting is None:
        study.spec = moved(study.spec, address or "local")
        check_machines(study.spec, study.folder, say, NO_GPUS)
    study.load_method(trust_method=trust_method)
    return study


def _refitted(
    document: dict[str, Any],
    tasks: Sequence[FinalTraining],
    places: Places,
    tracker: Tracker,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[tuple[FinalTraining, Trained]]]:
    """The document with the refits of the winner's trainings, and what came out of each."""
    refits = refits_of(tasks, document["winner"])
    again = train(refits, places, tracker, say)
    return with_refit(document, refits, again), list(zip(refits, again, strict=True))


def _of_winner(
    who: str | None, tasks: Sequence[FinalTraining], trained: Sequence[Trained]
) -> list[tuple[FinalTraining, Trained]]:
    """The trainings of the winner, each with what came out of it; none where nobody won."""
    return [(task, done) for task, done in zip(tasks, trained, strict=True) if task.who == who]


def _models(
    study: Study,
    trainings: Sequence[tuple[FinalTraining, Trained]],
    places: Places,
    tracker: Tracker,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Models of the winner's trainings, for the document; each is logged with its run."""
    tasks, trained = zip(*trainings, strict=True)
    found = make_models(study, tasks, trained, places, say)
    for row in found["rows"]:
        tracker.model(row["run"], study.folder.path / row["folder"])
    return {"models": found}


def _seeds(study: Study, seeds: int, until_told_apart: int | None, resample: bool) -> Seeds:
    redrawn: Redrawn = "everything" if resample else redrawn_of(study)
    return Seeds(seeds, looks_of(seeds, until_told_apart), redrawn)


def redrawn_of(study: Study) -> Redrawn:
    """What each seed draws anew: in the real protocol, and where all labels are used, the training alone."""
    if study.spec.protocol == "real":
        return "training"
    config, images = study.spec.base_config(), read_images(study.folder.path)
    all_used = images is not None and images.hidden == 0
    is_plain = describe(
        config.dataset, options=options_of(config)
    ).is_plain  # there each seed has labels of its own
    return "training" if all_used and not is_plain else "labels"


def _chosen(study: Study, top: int, seeds: Seeds) -> list[TrialRecord]:
    """The best trials, as many as are asked for.

    Raises:
        ConfigError: there are fewer, or too little data for the seeds.
    """
    if top < 1 or seeds.count < 1:
        raise ConfigError(f"top = {top}, seeds = {seeds.count}: both must be at least 1.")
    chosen = ranked_of(study, top)
    if len(chosen) < top:
        raise ConfigError(
            f"--top {top}: the study {study.name!r} has {counted(len(chosen), 'trial')} with a result. Take at "
            f"most that, or carry it on with `{study.folder.command('resume')}`."
        )
    if seeds.redrawn == "labels":
        _check_seeds(study.spec, seeds.most)
    return chosen


def _check_seeds(spec: StudySpec, seeds: int) -> None:
    config = spec.base_config()
    info = describe(config.dataset, options=options_of(config))
    check_fresh_sets(info, config, seeds)


def ranked_of(study: Study, top: int) -> list[TrialRecord]:
    """The best trials of a study, a pinned one before all; fewer where there are fewer with a result."""
    left, pinned = study.records(), study.pinned()
    ranked = [r for r in left if r.trial == pinned]  # whoever recommends a trial means this one
    left = [r for r in left if r.trial != pinned]
    while len(ranked) < top:
        record, _ = best_record(left)
        if record is None:
            break
        ranked.append(record)
        left = [r for r in left if r.trial != record.trial]
    return ranked


def candidate_of(study: Study, record: TrialRecord) -> Candidate:
    """A trial as a configuration to be confirmed."""
    config = study.spec.trial_config(record.values)
    return Candidate(record.trial, config, record, study.name, record.trial)


def _baseline(study: Study, kind: str, home: Home, progress: Progress) -> list[Candidate]:
    """The baseline as a candidate; none for a supervised study, which is one itself."""
    if study.spec.config["method"] == PLAIN:
        return []
    if kind == "plain":
        own = {study.spec.config["method"], "method_digest"}
        common = {k: v for k, v in study.spec.config.items() if k not in own}
        return [Candidate(PLAIN, from_document({**common, "method": PLAIN}), None, study.name, PLAIN)]
    outcome = tune_baseline(study, home, progress)
    if outcome.code in (Exit.INTERRUPTED, Exit.TERMINATED):
        raise ServiceError("the search of the tuned baseline was interrupted", outcome.code)
    ranked = ranked_of(outcome.study, 1)
    if not ranked:
        raise ServiceError(
            f"the tuned baseline, study {outcome.study.name}, has no trial with a result: see why with "
            f"`{outcome.study.folder.command('trials')}`, or take --baseline plain.",
            Exit.NO_TRIAL_SUCCEEDED,
        )
    best = candidate_of(outcome.study, ranked[0])
    folder = f"{TUNED}-{outcome.study.name}-{best.who}"
    return [Candidate(TUNED, best.config, best.record, outcome.study.name, folder)]


def places_of(study: Study, home: Home) -> Places:
    """Where the final models of a study are trained: where its trials were."""
    from tune.cluster import local_ray  # loads Ray

    reserved = local_ray.resources(study.spec)
    return Places(
        home=home,
        data_root=study.spec.data_root,
        concurrent=MOST_PLACES if study.spec.elastic else study.spec.concurrent,
        cpus=reserved["cpu"],
        gpus=reserved["gpu"],
        held_out=None if (images := read_images(study.folder.path)) is None else images.held_out,
        address=study.spec.address,
        warmup_cache=study.spec.warmup_cache,
    )
