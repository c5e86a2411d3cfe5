"""The HTML page of a study: one file that opens without a network, with the result, its certainty and the history
of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.errors import Exit, ServiceError
from tune.findings.study import Study
from tune.store.home import Home
from tune.tracking.opening import open_log, open_tracker

PAGE = "report.html"
DELIVERY_SECONDS = 60.0
"""The longest wait for MLflow, in seconds, unless the study's own timeout is shorter."""


def report(name: str, output: Path | str | None = None, *, home: Path | str | None = None) -> dict[str, Any]:
    """Write a study's page, and log it to the study's run in MLflow.

    A running study has a page, too. It is not sent to MLflow, because the study's driver holds the event log.

    Args:
        name: the study.
        output: the file; None: ``report.html`` in the study's folder. A copy is kept there in any case.
        home: the home folder.

    Returns:
        What `ssl-tune report --json` prints: ``study``; ``path`` and ``bytes`` of the page; and ``pending``, the
        number of events that are not delivered to MLflow yet, None if a driver holds the study or its folder cannot
        be written.

    Raises:
        ConfigError: there is no such study, it has no trial with a result yet, or the file cannot be written.
    """
    place = Home(home)
    study = Study(place.existing_study_folder(name))
    kept = study.folder.path / PAGE
    path = kept if output is None else _writable(Path(output).expanduser())
    keeps = output is None or study.folder.is_writable()  # another user's study is read, and left as it is
    text = _page(study)
    for file in {kept, path} if keeps else {path}:
        try:
            write_atomically(file, text)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}. Name another file.") from None
    pending = _track(study, place, kept) if keeps else None
    return {"study": name, "path": str(path), "bytes": len(text), "pending": pending}


def _page(study: Study) -> bytes:
    # These load matplotlib and jinja2; a mistake in what is asked for is told before.
    from tune.page.content import content_of
    from tune.page.template import page

    return page(content_of(study)).encode()


def _writable(path: Path) -> Path:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: name a file in it, such as {path / PAGE}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
    return path


def _track(study: Study, home: Home, path: Path) -> int | None:
    """Log the page to the study's run and wait for its delivery; the number of events that are still pending."""
    try:
        study.folder.lock()
    except ServiceError as error:
        if error.code != Exit.IN_USE:
            raise
        return None
    try:
        with open_log(study.folder) as log:
            tracker = open_tracker(log, study.spec, home)
            tracker.artifact(None, path)
            tracker.sender.start()
            return tracker.sender.close(min(study.spec.tracking_timeout, DELIVERY_SECONDS))
    finally:
        study.folder.unlock()
