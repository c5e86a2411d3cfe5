"""Trials on Ray Tune: its loop, with what it asks and tells."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

from tune.cluster import local_ray  # before Ray Tune, which reads the environment that it sets

# isort: split
from ray import tune as ray_tune
from ray.air._internal import usage
from ray.tune import Callback
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tune.cluster.capacity import MOST_PLACES
from tune.definition.spec import StudySpec
from tune.engine.recorder import DEATHS
from tune.store.layout import RAY_FOLDER
from tune.worker.task import study_of
from tune.worker.trainable import TrialTrainable

# Ray Tune hands the driver's AWS keys to its workers, and Ray logs them on every machine. Trials need none.
class_cache.ENV_VARS_TO_PROPAGATE -= {n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("AWS_")}

# To count callbacks for usage statistics, Ray imports all of MLflow, also where the statistics are off: 1.4 s of a
# processor and 40 MB in every driver, before its first trial.
if os.environ.get("RAY_USAGE_STATS_ENABLED") == "0":
    usage.tag_callbacks = lambda callbacks: False

_OF_WORKERS = (class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS)
"""What Ray Tune has every trial's worker set in its environment: names of this process's variables, and values."""


def _set_environment_of_workers() -> None:
    """Have workers set what they do not inherit.

    A trial that asks for an environment gets a worker started for it; one that asks for none takes a worker that
    is there already, with torch loaded.
    """
    inherited = local_ray.workers_inherit()
    class_cache.ENV_VARS_TO_PROPAGATE, class_cache.DEFAULT_ENV_VARS = (
        (set(), {}) if inherited else _OF_WORKERS
    )


# At the end Ray lists the trials that it takes for failed, also one that was handed out again. The recorder says which
# did fail.
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)


class Stoppable(Protocol):
    """What a sitting's trials belong to."""

    def should_stop(self) -> bool:
        """Whether the sitting is to end."""


def ray_loop(
    spec: StudySpec,
    folder: Path,
    *,
    searcher: Searcher,
    scheduler: TrialScheduler,
    recorder: Callback,
    stopper: Stopper,
) -> None:
    """Run trials on Ray Tune until the searcher has no more, or the stopper ends them all.

    Args:
        spec: a study; its places, and what a trial takes of the machine, are those of all.
        folder: where Ray Tune writes what nobody reads.
        searcher, scheduler, recorder, stopper: what it asks and tells.
    """

    def named(trial: Any) -> str:
        return f"{study_of(trial.config)}-{trial.config['trial']}"

    tuner = ray_tune.Tuner(
        ray_tune.with_resources(TrialTrainable, local_ray.resources(spec)),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when there are no more; one may be handed out twice
            # Ray lets so many trials wait for a place, and without a number one: places fill one by one.
            # Where the places are those of the moment, the searcher holds back (`Room`).
            max_concurrent_trials=MOST_PLACES if spec.elastic else spec.concurrent,
            reuse_actors=True,
            trial_name_creator=named,
            trial_dirname_creator=named,
        ),
        run_config=ray_tune.RunConfig(
            name=RAY_FOLDER,
            storage_path=str(folder),
            callbacks=[recorder],
            stop=stopper,
            failure_config=ray_tune.FailureConfig(max_failures=spec.max_failures + DEATHS),
            checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            log_to_file=False,
        ),
    )
    _set_environment_of_workers()
    local_ray.await_workers(stopper.stop_all)
    try:
        tuner.fit()
    finally:  # Ray's own picture of its experiment, 40 kB a trial: it is never restored
        shutil.rmtree(folder / RAY_FOLDER, ignore_errors=True)


class SittingStopper(Stopper):
    """Ends all trials of this sitting. The recorder decides which of them are over and which wait for `resume`."""

    def __init__(self, run: Stoppable) -> None:
        self._run = run

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._run.should_stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray snapshots its experiment; this one is never restored
