"""What the command line can do, as functions: a command parses, calls one of these and prints.

Each is loaded at first use, so that reading a study loads neither torch nor Ray. The package `tune` offers all of
them: ``tune.search`` is ``tune.api.search``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api.driving import logs as logs
    from tune.api.driving import stop as stop
    from tune.api.driving import submit as submit
    from tune.api.explaining import doctor as doctor
    from tune.api.explaining import methods as methods
    from tune.api.explaining import spaces as spaces
    from tune.api.reading import export as export
    from tune.api.reading import pictures as pictures
    from tune.api.reading import report as report
    from tune.api.reading import status as status
    from tune.api.reading import studies as studies
    from tune.api.reading import sync as sync
    from tune.api.reading import trial_records as trial_records
    from tune.api.searching import confirm as confirm
    from tune.api.searching import plan as plan
    from tune.api.searching import resume as resume
    from tune.api.searching import search as search
    from tune.api.single import train as train
    from tune.api.tables import reproduce as reproduce
    from tune.findings.study import Study as Study
    from tune.findings.study import load_study as load_study

_PLACES = {
    "Study": "tune.findings.study",
    "confirm": "tune.api.searching",
    "doctor": "tune.api.explaining",
    "export": "tune.api.reading",
    "load_study": "tune.findings.study",
    "logs": "tune.api.driving",
    "methods": "tune.api.explaining",
    "pictures": "tune.api.reading",
    "plan": "tune.api.searching",
    "report": "tune.api.reading",
    "resume": "tune.api.searching",
    "search": "tune.api.searching",
    "reproduce": "tune.api.tables",
    "spaces": "tune.api.explaining",
    "status": "tune.api.reading",
    "stop": "tune.api.driving",
    "studies": "tune.api.reading",
    "submit": "tune.api.driving",
    "sync": "tune.api.reading",
    "train": "tune.api.single",
    "trial_records": "tune.api.reading",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
