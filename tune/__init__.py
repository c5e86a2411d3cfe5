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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.findings.exports import export as export
    from tune.findings.study import Study as Study
    from tune.findings.study import load_study as load_study
    from tune.launch.start import resume as resume
    from tune.launch.start import search as search
    from tune.page.report import report as report

_HOMES = {
    "Study": "tune.findings.study",
    "export": "tune.findings.exports",
    "load_study": "tune.findings.study",
    "report": "tune.page.report",
    "resume": "tune.launch.start",
    "search": "tune.launch.start",
}
__all__ = ["Study", "export", "load_study", "report", "resume", "search"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
