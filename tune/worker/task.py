"""What a worker is told of a trial: the one contract between driver and worker."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial

from ssl_core import method_file
from tune.definition.spec import StudySpec
from tune.store.home import Home
from tune.store.study_folder import StudyFolder


def trial_task(spec: StudySpec, trial: FrozenTrial, folder: StudyFolder, home: Home) -> dict[str, Any]:
    """What a worker is told of a trial: plain data, the text of a method of the user's own included."""
    digest = spec.config.get("method_digest")
    return {
        "trial": trial.number,
        "config": spec.trial_config(trial.params).document(),
        "method_text": None if digest is None else method_file.text_of(digest),
        "folder": str(folder.trials / str(trial.number)),
        "store": None if folder.remote is None else folder.remote.place(),
        "max_failures": spec.max_failures,
        "known_epoch": trial.user_attrs.get("last", {}).get("epoch", 0),
        "split_hash": spec.split_hash,
        "cache": str(home.cache),
        "data_root": spec.data_root,
        "gpus": spec.gpus_per_trial,
        "system_metrics": spec.system_metrics,
    }
