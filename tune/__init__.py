"""The service: searches, studies and what comes out of them.

    import tune
    study = tune.search(method="pseudo_label", dataset="digits", trials=12)
    study.trials()                      # a pandas table
    tune.load_study("digits@100-pseudo_label").best()
    tune.export(study.name, "best.yaml")

Not to be confused with Ray's package of that name, which is imported as ``from ray import tune as ray_tune``.
Names are loaded at first use, so that a command that only reads is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tune import api

if TYPE_CHECKING:
    from tune.api import Study as Study
    from tune.api import clean as clean
    from tune.api import compare as compare
    from tune.api import comparisons as comparisons
    from tune.api import confirm as confirm
    from tune.api import data_summary as data_summary
    from tune.api import delete as delete
    from tune.api import doctor as doctor
    from tune.api import enqueue as enqueue
    from tune.api import export as export
    from tune.api import export_model as export_model
    from tune.api import export_onnx as export_onnx
    from tune.api import export_points as export_points
    from tune.api import live_page as live_page
    from tune.api import load_study as load_study
    from tune.api import logs as logs
    from tune.api import methods as methods
    from tune.api import mlflow_links as mlflow_links
    from tune.api import pack as pack
    from tune.api import pictures as pictures
    from tune.api import pin as pin
    from tune.api import plan as plan
    from tune.api import predict as predict
    from tune.api import register_model as register_model
    from tune.api import repair as repair
    from tune.api import report as report
    from tune.api import reproduce as reproduce
    from tune.api import resume as resume
    from tune.api import resume_comparison as resume_comparison
    from tune.api import search as search
    from tune.api import spaces as spaces
    from tune.api import status as status
    from tune.api import stop as stop
    from tune.api import stop_trial as stop_trial
    from tune.api import studies as studies
    from tune.api import submit as submit
    from tune.api import sync as sync
    from tune.api import train as train
    from tune.api import trial_records as trial_records
    from tune.api import unpack as unpack

__all__ = api.__all__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(api, name)
