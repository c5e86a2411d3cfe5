"""Draw figures for events of a study's log: `python -m tune.figures.draw STUDY_FOLDER OUT`.

`tune.delivery.drawing` starts this process, and sends it lines of event ids on its standard input until that is closed.
For each event it writes OUT/ID.png, or OUT/ID.none if there is nothing to draw, or OUT/ID.error with the reason; each
file is there as a whole or not at all. What loads Optuna is imported only for the figures that need it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.errors import DamagedError
from tune.figures.confusion import confusion_matrix, last_matrix
from tune.figures.style import Drawing, save
from tune.store.event_log import EventLog
from tune.store.events import Event
from tune.store.layout import EVENTS_DB
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder

NICE = 19
"""Process priority: lower than that of Ray's workers (15), so that drawing does not slow training down."""


class Study:
    """The data that figures of a study are drawn from; each is read when it is first needed.

    Args:
        folder: the study's folder.
        log: its event log.
    """

    def __init__(self, folder: Path, log: EventLog) -> None:
        self.folder, self.log = folder, log

    @cached_property
    def spec(self) -> Any:
        return read_spec(self.folder)

    @cached_property
    def records(self) -> Any:
        from tune.trials.reading import read_records  # loads Optuna

        return read_records(StudyFolder(self.folder))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty if the data can no longer be read."""
        from tune.figures.run import class_names

        try:
            return class_names(self.spec.config["dataset"])
        except (
            ConfigError,
            DamagedError,
            OSError,
        ):  # the study's own file cannot be read, or the images are gone
            return ()

    def title(self, run: str) -> str:
        """The title of a run's figures."""
        start = self.log.find(f"{run}:start")
        if start is None:
            return run
        tags: Any = start.payload["tags"]
        of = "" if run == tags["ssl.study"] else f" of {tags['ssl.study']}"
        what = f"{tags.get('ssl.method', '')} on {tags.get('ssl.dataset', '')}, {tags.get('ssl.labels', '')} labels"
        return f"{start.payload['name']}{of}: {what}"


def figure_of(study: Study, event: Event) -> Drawing | None:
    """The figure of an event; None if there is nothing to draw."""
    name, title = str(event.payload["figure"]), study.title(event.run)
    if "/" not in event.run:
        return _of_study(study, event, title)
    if name == "picture":
        from ssl_core.pictures.file import load
        from tune.figures.gallery import gallery

        path = (study.folder / str(event.payload["path"])).resolve()
        inside = path.is_relative_to(study.folder.resolve())
        return gallery(load(path), title=title) if inside and path.exists() else None
    if name == "confusion_test":
        matrix: Any = event.payload["matrix"]
        return confusion_matrix(matrix, classes=study.classes, images="test", title=title)
    from tune.figures.curves import learning_curves, pseudo_label_health

    reports = study.log.reports(event.run)
    if name == "confusion":
        counted = last_matrix(reports)
        return None if counted is None else confusion_matrix(counted, classes=study.classes, title=title)
    warmup = int(str(event.payload.get("warmup", 0)))
    if name == "pseudo_labels":
        return pseudo_label_health(reports, classes=study.classes, title=title, warmup=warmup)
    if name == "learning_curves":
        # A curve of one epoch is a point, and many trials are stopped after one: the run's metrics say as much.
        return learning_curves(reports, title=title, warmup=warmup) if len(reports) > 1 else None
    raise ValueError(f"no figure is called {name!r}")


def _of_study(study: Study, event: Event, title: str) -> Drawing | None:
    from tune.figures import study as drawn

    name = str(event.payload["figure"])
    if not study.records:
        return None
    if name == "optimisation_history":
        return drawn.optimisation_history(study.records, title=title)
    if name == "parameter_importances":
        shares: Any = event.payload.get("shares")
        if shares is None:  # of a version that left it to the drawing
            from tune.findings.summary import importances  # loads Optuna

            shares = importances(StudyFolder(study.folder), study.spec.name)
        return drawn.parameter_importances(shares, title=title)
    if name == "slices":
        parameters = study.spec.search_space().parameters
        log = [p.name for p in parameters if getattr(p.distribution, "log", False)]
        return drawn.slices(study.records, log=log, title=title)
    if name == "learning_curves":
        reports = {r.trial: study.log.reports(f"{study.spec.name}/{r.trial}") for r in study.records}
        return drawn.study_curves(study.records, reports, title=title)
    raise ValueError(f"no figure is called {name!r}")


def main(arguments: Sequence[str]) -> int:
    """Draw the figures; see the docstring of this module."""
    folder, out = Path(arguments[0]), Path(arguments[1])
    os.nice(NICE)
    with EventLog(folder / EVENTS_DB, read_only=True) as log:
        for line in iter(sys.stdin.readline, ""):
            study = Study(folder, log)  # it has grown
            for id in map(int, line.split()):
                draw_one(study, id, out)
    return 0


def draw_one(study: Study, id: int, out: Path) -> None:
    """Draw the figure of one event into the folder `out`, or write there why it cannot be drawn."""
    try:
        figure = figure_of(study, study.log.by_id(id))
    except Exception:  # any error is written down, and the other figures are still drawn
        write_atomically(out / f"{id}.error", traceback.format_exc().encode())
    else:
        if figure is None:
            (out / f"{id}.none").touch()
        else:
            save(figure, out / f"{id}.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
