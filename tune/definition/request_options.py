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

    preset: str | None
    """A set of the method's parameters, such as vat's `report`; `--set` goes before it [the method's
    defaults]."""

    settings: Mapping[str, Any]
    """Fix a parameter, such as lr=0.01; it is then not searched."""

    trials: int
    """Configurations to try [16; at least 1]."""

    sampler: Literal["auto", "tpe", "random", "gp", "grid"]
    """What proposes the next configuration: auto (default), tpe, random, gp or grid."""

    objective: Literal["val/error_and_loss", "val/error", "val/error_balanced", "val/loss"]
    """What the search, early stopping and the choice of the best go by: val/error_and_loss (default),
    val/error, val/error_balanced or val/loss."""

    startup_trials: int | None
    """Random trials before the sampler models anything [5; at least 0]."""

    repeats: int
    """Training seeds of a trial, whose mean is its result [1; 1 to 100]."""

    folds: int
    """Divisions of the labelled and validation images that a trial trains on in turn, whose mean is its
    result [1; 1 to 10]."""

    scheduler: Literal["asha", "median", "none"]
    """What stops trials early: asha (default), median or none."""

    eta: int
    """Of ASHA: one of so many trials goes on at a rung [3; 2 to 100]."""

    grace: int | None
    """Epochs after the warm-up before which no trial is stopped [a share of the run; at least 1]."""

    brackets: int
    """Of ASHA: several are Hyperband's, each with fewer of the lowest rungs [1; 1 to 10]."""

    warm_start: str | None
    """Start from what an earlier study of an overlapping space learned."""

    seed: int
    """Seed of the sampler and of every training [0; at least 0]."""

    max_failures: int
    """How often a trial that raises is tried again [1; 0 to 1000]."""

    time_budget: float | str | None
    """End the study after this time, such as 90s, 15m or 2h [no limit]."""

    epochs_budget: int | None
    """End the study after so many epochs, of all trials together [no limit; at least 1]."""

    gpu_hours: float | None
    """End the study after so many GPU hours: hours of training, times the GPUs of a trial [no limit; at
    least 1]."""

    patience: int | None
    """End the study when N trials in a row have not improved the best beyond what the validation images
    resolve [no limit; at least 1]."""

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

    warmup_cache: int | str | None
    """What warm-ups that trials share may take of the home's disk, such as 2GiB; 0: none are shared [5 %
    of the free disk; at least 0]."""

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

    on_end: str | None
    """Run this command at the end, with the outcome as JSON on its standard input [SSL_TUNE_ON_END, else
    none]."""

    webhook: str | None
    """Send the outcome to this address at the end, as JSON [SSL_TUNE_WEBHOOK, else none]."""
