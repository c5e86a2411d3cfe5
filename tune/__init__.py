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
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune.findings.exports import export as export
    from tune.launch.start import resume as resume
    from tune.launch.start import search as search
    from tune.report import report as report
    from tune.store.study_folder import Study as Study
    from tune.store.study_folder import load_study as load_study

_HOMES = {
    "Study": "tune.store.study_folder",
    "export": "tune.export",
    "load_study": "tune.store.study_folder",
    "report": "tune.report",
    "resume": "tune.search",
    "search": "tune.search",
}
__all__ = ["Study", "export", "load_study", "report", "resume", "search"]


def _offered(name: str) -> property:
    """A name that is looked up anew each time.

    Importing the submodule `tune.search` makes Python set it as the attribute `search` of this package, where
    the function belongs: that is not kept.
    """
    return property(lambda _: getattr(importlib.import_module(_HOMES[name]), name), lambda *_: None)


class _Package(types.ModuleType):
    """This package, whose functions come before the submodules of the same names."""


for _name in _HOMES:
    setattr(_Package, _name, _offered(_name))
sys.modules[__name__].__class__ = _Package
