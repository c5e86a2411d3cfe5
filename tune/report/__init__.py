"""A study as one HTML page that opens without a network: what was found, how sure it is, and how it came about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_core.checkpoint import write_atomically
from ssl_core.errors import ConfigError
from tune.home import Home
from tune.study import Study

PAGE = "report.html"
DELIVERY_SECONDS = 30.0


def report(name: str, output: Path | str | None = None, *, home: Path | str | None = None) -> dict[str, Any]:
    """Write a study's page, and keep it with the study's run in MLflow.

    A study that is under way can be looked at too; its page is not sent to MLflow, whose run its driver holds.

    Args:
        name: the study.
        output: the file; None: ``report.html`` in the study's folder.
        home: the home folder.

    Returns:
        ``path``, ``bytes``, and whether it is ``tracked``.

    Raises:
        ConfigError: no such study, no trial with a result yet, or a file that cannot be written.
    """
    from tune.report.content import content_of
    from tune.report.page import page

    place = Home(home)
    study = Study(place.existing_study_folder(name))
    text = page(content_of(study)).encode()
    kept = study.folder.path / PAGE
    path = kept if output is None else Path(output).expanduser()
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
    try:
        for each in {kept, path}:
            write_atomically(each, text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None
    return {"path": path, "bytes": len(text), "tracked": _track(study, place, kept)}


def _track(study: Study, home: Home, path: Path) -> bool:
    """Log the page to the study's own run, unless a driver holds the study."""
    from tune import engine
    from tune.errors import ServiceError

    try:
        study.folder.lock()
    except ServiceError:
        return False
    try:
        with engine.open_log(study.folder) as log:
            tracker = engine.open_tracker(log, study.spec, home)
            tracker.artifact(None, path)
            tracker.start_sender()
            return tracker.close(min(study.spec.tracking_timeout, DELIVERY_SECONDS)) == 0
    finally:
        study.folder.unlock()
