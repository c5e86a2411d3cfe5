"""The keyword options of a search. Written by ``python -m tune.definition.signature``: do not edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict


class RequestOptions(TypedDict, total=False):
    """The options of a search, as `tune.definition.request.SearchRequest` describes and checks them."""

    labels: int | None
    """Labelled images, the same number for every class [the data set's usual number; at least 1]."""

    network: str | None
    """wrn-DEPTH-WIDTH, such as wrn-28-2 [suits the data set]."""

    epochs: int | None
    """Epochs of a run, warm-up included [suits the data set; at least 1]."""

    name: str | None
    """The study's name [DATASET@LABELS-METHOD]."""

    space: str | None
    """Search space [the method's default]."""

    settings: Mapping[str, Any]
    """Fix a parameter, such as lr=0.01; it is then not searched."""

    trials: int
    """Configurations to try [16; at least 1]."""

    sampler: Literal["tpe", "random", "gp", "grid"]
    """What proposes the next configuration: tpe (default), random, gp or grid."""

    objective: Literal["val/error", "val/error_balanced", "val/loss"]
    """What the search, early stopping and the choice of the best go by: val/error (default),
    val/error_balanced or val/loss."""

    startup_trials: int | None
    """Random trials before the sampler models anything [a third of the trials, 4 to 10; at least 0]."""

    warm_start: str | None
    """Start from what an earlier study of this space learned."""

    seed: int
    """Seed of the sampler and of every training [0; at least 0]."""

    max_failures: int
    """How often a trial that raises is tried again [1; 0 to 1000]."""

    time_budget: float | str | None
    """End the study after this time, such as 90s, 15m or 2h [no limit]."""

    storage: str | None
    """Database for the trials [a file in the study's folder]."""

    tracking_timeout: float | str
    """How long to wait for MLflow at the end, such as 90s or 15m [300s]."""

    require_tracking: bool
    """Do not start where MLflow cannot be reached."""

    system_metrics: bool
    """Also log what trials use of processor, memory and GPU."""

    data_root: str | Path | None
    """Where downloaded data lie [SSL_TUNE_DATA]."""

    address: str | None
    """A Ray cluster that this machine belongs to [this machine]."""

    concurrent: int | None
    """Trials side by side [what the machine holds; at least 1]."""

    gpus_per_trial: float | None
    """Of a trial: a whole GPU, or a fraction to share one [1 where there are GPUs; 0 to 1]."""

    points: str | Sequence[Mapping[str, Any]] | None
    """Configurations to try first, after the baseline."""

    tracking_uri: str | None
    """MLflow's server or database [MLFLOW_TRACKING_URI, else HOME/mlflow.db]."""

    with_baseline: bool
    """Also tune the supervised baseline, with as many trials."""

    confirm_seeds: int | None
    """Then confirm the best on N fresh seeds, beside the supervised baseline (tuned where --with-baseline
    is) [at least 1]."""
