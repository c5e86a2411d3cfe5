"""Train the best configurations again on fresh seeds, beside the supervised baseline, and read the test set.

The winner of a search is the best of many draws, so its validation error flatters it. Here each configuration
is trained from scratch on training seeds and labelled sets that the search never used (the validation images
stay where they are), the baseline on the same ones for the same number of steps; then the test set is read
once per final model.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import dump_yaml
from ssl_core.config import RunConfig, from_document
from ssl_core.errors import ConfigError
from tune.home import Home
from tune.records import TrialRecord
from tune.study import Study, StudyFolder
from tune.views import best_record

FIRST_SEED = 1000
"""Seeds of the confirmation begin here: none that a person would give a study by hand."""
ENOUGH_SEEDS = 3
BASELINE = "supervised"


@dataclass(frozen=True)
class Task:
    """One training of a confirmation: `who` is a trial's name or the baseline."""

    who: str
    number: int
    config: RunConfig
    out: Path


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds of an error in percent; std is None for a single seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


def confirm(
    name: str,
    *,
    top: int = 1,
    seeds: int = 5,
    home: Path | str | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Confirm a study's best configurations; what is done already is not done again.

    Args:
        name: the study.
        top: how many configurations, those at full budget first.
        seeds: trainings of each.
        home: the home folder.
        say: told how it goes.

    Returns:
        What `ssl-tune confirm --json` prints; also written to ``confirm.json`` in the study's folder.

    Raises:
        ConfigError: no such study, or fewer trials with a result than `top`.
        ServiceError: a driver has the study.
    """
    place = Home(home)
    study = Study(place.existing_study_folder(name))
    chosen = _ranked(study)[:top]
    if top < 1 or seeds < 1:
        raise ConfigError(f"top = {top}, seeds = {seeds}: both must be at least 1.")
    if len(chosen) < top:
        raise ConfigError(
            f"--top {top}: the study {name!r} has {len(chosen)} trials with a result. Take at most that, or "
            f"carry it on with `ssl-tune resume {name}`."
        )
    study.folder.lock()
    try:
        tasks = tasks_of(study, chosen, seeds)
        results = _run(study, place, tasks, say)
        document = _document(study, chosen, tasks, results)
        (study.folder.path / "confirm.json").write_text(json.dumps(document, indent=1))
        _track(study, place, tasks, results)
    finally:
        study.folder.unlock()
    return document


def tasks_of(study: Study, chosen: Sequence[TrialRecord], seeds: int) -> list[Task]:
    """The trainings: every configuration, and the baseline with the same common values, on the same seeds."""
    configs = {record.trial: study.spec.trial_config(record.values) for record in chosen}
    common = {k: v for k, v in study.spec.config.items() if k != study.spec.config["method"]}
    configs[BASELINE] = from_document({**common, "method": BASELINE})
    tasks = []
    for number in range(1, seeds + 1):
        for who, config in configs.items():
            fresh = {
                "seed": FIRST_SEED + number,
                "data": config.data.model_copy(update={"label_seed": FIRST_SEED + number}),
            }
            out = study.folder.path / "confirm" / who / f"seed-{number}"
            tasks.append(Task(who, number, config.model_copy(update=fresh), out))
    return tasks


def _ranked(study: Study) -> list[TrialRecord]:
    left, ranked = study.records(), list[TrialRecord]()
    while True:
        record, _ = best_record(left)
        if record is None:
            return ranked
        ranked.append(record)
        left = [r for r in left if r.trial != record.trial]


def _run(
    study: Study, home: Home, tasks: Sequence[Task], say: Callable[[str], None]
) -> list[tuple[dict[str, Any], list[tuple[int, dict[str, float]]]]]:
    """Train what is not trained yet, side by side; a result and its reports for each task."""
    import ray

    from tune import engine

    started_here = not ray.is_initialized()
    if started_here:
        engine.start_ray(study.spec)
    try:
        resources = engine.resources(study.spec)
        train = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=2)(_train_task)
        root = study.spec.data_root
        refs = [
            train.remote(t.config.document(), root, str(home.cache), str(t.out), str(home.test_readings))
            for t in tasks
        ]
        waiting = dict(zip(refs, tasks, strict=True))
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            task = waiting.pop(ready)
            result, _ = ray.get(ready)
            say(f"{_title(task.who)}, seed {task.number}: val/error {result['val_error']:.2f} %")
        return [ray.get(ref) for ref in refs]
    finally:
        if started_here:
            ray.shutdown()


def _train_task(
    config: dict[str, Any], data_root: str | None, cache: str, out: str, readings: str
) -> tuple[dict[str, Any], list[tuple[int, dict[str, float]]]]:
    """One training on a worker: goes on where it was, and reads the test set once."""
    from ssl_core import checkpoint, train
    from ssl_core.run import CHECKPOINTS

    result = train(
        config,
        data_root=Path(data_root) if data_root else None,
        cache=Path(cache),
        out=Path(out),
        resume=True,
        final=True,
        readings=Path(readings),
    )
    state = checkpoint.load_newest(Path(out) / CHECKPOINTS) or {"history": []}
    return result.document(), [(r["epoch"], r["metrics"]) for r in state["history"]]


def _document(
    study: Study, chosen: Sequence[TrialRecord], tasks: Sequence[Task], results: Sequence[Any]
) -> dict[str, Any]:
    config = study.spec.base_config()
    assert config.epochs and config.steps_per_epoch
    by_who: dict[str, list[dict[str, Any]]] = {}
    for task, (result, _) in zip(tasks, results, strict=True):
        by_who.setdefault(task.who, []).append(result)
    test = {who: Spread(tuple(r["test_error"] for r in rs)) for who, rs in by_who.items()}
    rows = []
    for who, found in by_who.items():
        record = next((r for r in chosen if r.trial == who), None)
        rows.append(
            {
                "who": who,
                "method": BASELINE if record is None else config.method,
                "params": {} if record is None else record.params,
                "val_error_at_selection": None if record is None else record.val_error,
                "val_error": [r["val_error"] for r in found],
                "test_error": list(test[who].values),
                "test_mean": test[who].mean,
                "test_std": test[who].std,
                "seconds": statistics.fmean(r["seconds"] for r in found),
            }
        )
    return {
        "study": study.name,
        "seeds": [t.config.seed for t in tasks if t.who == BASELINE],
        "steps": config.epochs * config.steps_per_epoch,
        "rows": rows,
        "verdict": [verdict(test[r.trial], test[BASELINE], _title(r.trial)) for r in chosen],
    }


def verdict(method: Spread, baseline: Spread, title: str) -> str:
    """In words, whether a configuration beats the baseline, claiming no more than the spread carries.

    Below three seeds nothing is claimed. From there, the 95 % interval (Student's t) of the difference, paired
    over seeds, must lie on one side of 0. The baseline is not tuned, and the test images are the same for all
    seeds, so the interval is about training and labelled sets, not about other images.
    """
    differences = [m - b for m, b in zip(method.values, baseline.values, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    if n < ENOUGH_SEEDS:
        return f"{title} against supervised: {mean:+.2f} points, n = {n}; cannot tell below {ENOUGH_SEEDS} seeds."
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    low, high = mean - half, mean + half
    interval = f"{mean:+.2f} points of test error, 95 % interval [{low:+.2f}, {high:+.2f}], n = {n}"
    if high < 0:
        return f"{title} beats the supervised baseline: {interval}."
    if low > 0:
        return f"{title} is worse than the supervised baseline: {interval}."
    return f"{title} cannot be told from the supervised baseline: {interval}."


def _track(study: Study, home: Home, tasks: Sequence[Task], results: Sequence[Any]) -> None:
    """Each confirmation is a run below its trial's (the baseline's below the study's)."""
    from tune import engine

    with engine.open_log(study.folder) as log:
        tracker = engine.open_tracker(log, study.spec, home)
        tracker.start_sender()
        for task, (result, reports) in zip(tasks, results, strict=True):
            run = f"{task.who}/confirm-{task.number}"
            document = task.config.document()
            is_trial = task.who != BASELINE
            tracker.trial_started(
                run,
                {"seed": task.config.seed, "data.label_seed": task.config.data.label_seed},
                {k: v for k, v in document.items() if k != "method"},
                dump_yaml(document),
                parent=task.who if is_trial else None,
                tags={"ssl.method": task.config.method, "ssl.split_hash": result["split_hash"]},
            )
            for epoch, metrics in reports:
                tracker.report(run, epoch, metrics)
            tracker.trial_ended(run, "completed", summary={"test/error": result["test_error"]})
        tracker.close(study.spec.tracking_timeout)


def _title(who: str) -> str:
    return "supervised baseline" if who == BASELINE else f"trial {who}"


def confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    """What the last confirmation of a study found, or None."""
    path = folder.path / "confirm.json"
    return dict(json.loads(path.read_text())) if path.exists() else None
