"""What the command line can do, as functions: a command parses, calls one of these and prints.

Each is loaded at first use, so that reading a study loads neither torch nor Ray. The package `tune` offers all of
them: ``tune.search`` is ``tune.api.search``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api.comparing import compare as compare
    from tune.api.comparing import comparison_status as comparison_status
    from tune.api.comparing import comparisons as comparisons
    from tune.api.comparing import resume_comparison as resume_comparison
    from tune.api.comparing import run_compare as run_compare
    from tune.api.comparing import run_resume_comparison as run_resume_comparison
    from tune.api.confirming import confirm as confirm
    from tune.api.confirming import run_confirm as run_confirm
    from tune.api.driving import job_state as job_state
    from tune.api.driving import logs as logs
    from tune.api.driving import stop as stop
    from tune.api.driving import submit as submit
    from tune.api.driving import submit_request as submit_request
    from tune.api.driving import submit_resume as submit_resume
    from tune.api.explaining import describe_space as describe_space
    from tune.api.explaining import doctor as doctor
    from tune.api.explaining import methods as methods
    from tune.api.explaining import spaces as spaces
    from tune.api.keeping import clean as clean
    from tune.api.keeping import delete as delete
    from tune.api.keeping import pack as pack
    from tune.api.keeping import unpack as unpack
    from tune.api.looking import data_summary as data_summary
    from tune.api.models import export_model as export_model
    from tune.api.models import export_onnx as export_onnx
    from tune.api.models import register_model as register_model
    from tune.api.predicting import Predicted as Predicted
    from tune.api.predicting import predict as predict
    from tune.api.reading import export as export
    from tune.api.reading import export_all as export_all
    from tune.api.reading import export_table as export_table
    from tune.api.reading import live_page as live_page
    from tune.api.reading import mlflow_links as mlflow_links
    from tune.api.reading import pictures as pictures
    from tune.api.reading import repair as repair
    from tune.api.reading import report as report
    from tune.api.reading import status as status
    from tune.api.reading import studies as studies
    from tune.api.reading import sync as sync
    from tune.api.reading import trial_records as trial_records
    from tune.api.searching import Listener as Listener
    from tune.api.searching import Searched as Searched
    from tune.api.searching import plan as plan
    from tune.api.searching import plan_request as plan_request
    from tune.api.searching import resume as resume
    from tune.api.searching import run_resume as run_resume
    from tune.api.searching import run_search as run_search
    from tune.api.searching import search as search
    from tune.api.single import Training as Training
    from tune.api.single import train as train
    from tune.api.steering.commands import Steered as Steered
    from tune.api.steering.commands import enqueue as enqueue
    from tune.api.steering.commands import export_points as export_points
    from tune.api.steering.commands import pin as pin
    from tune.api.steering.commands import stop_trial as stop_trial
    from tune.api.tables import DEFAULT_SEEDS as DEFAULT_SEEDS
    from tune.api.tables import DEFAULT_TRIALS as DEFAULT_TRIALS
    from tune.api.tables import price as price
    from tune.api.tables import reproduce as reproduce
    from tune.findings.study import Study as Study
    from tune.findings.study import load_study as load_study

_PLACES = {
    "DEFAULT_SEEDS": "tune.api.tables",
    "DEFAULT_TRIALS": "tune.api.tables",
    "Listener": "tune.api.searching",
    "Predicted": "tune.api.predicting",
    "Searched": "tune.api.searching",
    "Steered": "tune.api.steering.commands",
    "Study": "tune.findings.study",
    "Training": "tune.api.single",
    "compare": "tune.api.comparing",
    "comparison_status": "tune.api.comparing",
    "comparisons": "tune.api.comparing",
    "clean": "tune.api.keeping",
    "confirm": "tune.api.confirming",
    "data_summary": "tune.api.looking",
    "delete": "tune.api.keeping",
    "describe_space": "tune.api.explaining",
    "doctor": "tune.api.explaining",
    "enqueue": "tune.api.steering.commands",
    "export": "tune.api.reading",
    "export_all": "tune.api.reading",
    "export_model": "tune.api.models",
    "export_onnx": "tune.api.models",
    "export_points": "tune.api.steering.commands",
    "export_table": "tune.api.reading",
    "job_state": "tune.api.driving",
    "load_study": "tune.findings.study",
    "logs": "tune.api.driving",
    "methods": "tune.api.explaining",
    "live_page": "tune.api.reading",
    "mlflow_links": "tune.api.reading",
    "pack": "tune.api.keeping",
    "pictures": "tune.api.reading",
    "pin": "tune.api.steering.commands",
    "plan": "tune.api.searching",
    "plan_request": "tune.api.searching",
    "predict": "tune.api.predicting",
    "price": "tune.api.tables",
    "register_model": "tune.api.models",
    "repair": "tune.api.reading",
    "report": "tune.api.reading",
    "reproduce": "tune.api.tables",
    "resume": "tune.api.searching",
    "resume_comparison": "tune.api.comparing",
    "run_compare": "tune.api.comparing",
    "run_confirm": "tune.api.confirming",
    "run_resume": "tune.api.searching",
    "run_resume_comparison": "tune.api.comparing",
    "run_search": "tune.api.searching",
    "search": "tune.api.searching",
    "spaces": "tune.api.explaining",
    "status": "tune.api.reading",
    "stop": "tune.api.driving",
    "stop_trial": "tune.api.steering.commands",
    "studies": "tune.api.reading",
    "submit": "tune.api.driving",
    "submit_request": "tune.api.driving",
    "submit_resume": "tune.api.driving",
    "sync": "tune.api.reading",
    "train": "tune.api.single",
    "trial_records": "tune.api.reading",
    "unpack": "tune.api.keeping",
}
__all__ = sorted(name for name in _PLACES if not name.isupper())


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
