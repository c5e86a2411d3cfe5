"""The HTML page of a comparison: the answer, the table, every final model, and how each method's best learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.comparison.record import Comparison, load_comparison
from tune.comparison.table import COLUMNS, status_of, table_of
from tune.comparison.tracking import tracker_of
from tune.definition.inputs import without_place
from tune.definition.objective import AXES
from tune.errors import Exit, ServiceError
from tune.figures.style import CLASSES, drawing, dress, png
from tune.page import plots
from tune.page.parts import Content, Figure, Item, Part, Table
from tune.page.report import DELIVERY_SECONDS, PAGE
from tune.store.event_log import EventLog
from tune.store.home import Home


def report(name: str, output: Path | str | None = None, *, home: Path | str | None = None) -> dict[str, Any]:
    """Write a comparison's page, and log it to the comparison's run in MLflow.

    A comparison that runs has a page, too. It is not sent to MLflow, because the driver holds the event log.

    Args:
        name: the comparison.
        output: the file; None: ``report.html`` in the comparison's folder. A copy is kept there in any case.
        home: the home folder.

    Returns:
        As `tune.page.report.report`.

    Raises:
        ConfigError: there is no such comparison, none of its trials has a result yet, or the file cannot be written.
    """
    comparison = load_comparison(name, Home(home))
    kept = comparison.folder.path / PAGE
    path = kept if output is None else Path(output).expanduser()
    text = _html(comparison)
    keeps = output is None or comparison.folder.is_writable()
    for file in {kept, path} if keeps else {path}:
        try:
            write_atomically(file, text)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}. Name another file.") from None
    pending = _track(comparison, kept) if keeps else None
    return {"study": name, "path": str(path), "bytes": len(text), "pending": pending}


def _html(comparison: Comparison) -> bytes:
    from tune.page.template import page  # loads jinja2

    return page(content_of(comparison)).encode()


def content_of(comparison: Comparison) -> Content:
    """The content of a comparison's page.

    Raises:
        ConfigError: no trial of any of its studies has a result yet.
    """
    status = status_of(comparison)
    if all(row["best"] is None for row in status["methods"]):
        raise ConfigError(
            f"the comparison {comparison.name!r} has no trial with a result yet: there is nothing to report. See how "
            f"far it is with `{comparison.folder.command('status')}`."
        )
    spec = comparison.studies()[0].spec
    dataset = without_place(status["dataset"])
    return Content(
        study=comparison.name,
        subtitle=f"which method is best on {dataset} with {status['labels']} labels, {spec.config['network']}, "
        f"{spec.protocol} protocol",
        facts=list(_facts(status)),
        verdict=_verdict(status),
        parts=[part for part in _parts(comparison, status) if part.items],
        closing="Made by ssl-tune. val/error and test/error are percent of images misclassified; ± is one standard "
        "deviation over seeds. Search, early stopping and the choice of the winner used no test image.",
    )


def _facts(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    confirmation = status["confirmation"]
    for row in [] if confirmation is None else confirmation["rows"]:
        if row["who"] in (confirmation["winner"], confirmation["baseline"]) and row["test_mean"] is not None:
            yield f"test/error, {row['who']}, mean of {len(row['seeds'])} seeds", f"{row['test_mean']:.2f} %"
    yield "trials of all methods", str(sum(sum(_ended(row)) for row in status["methods"]))
    yield "training time of all trials", f"{status['seconds_in_training'] / 60:.1f} min"


def _ended(row: Mapping[str, Any]) -> Iterator[int]:
    for state in ("completed", "stopped_early", "failed"):
        yield row["trials"][state]


def _verdict(status: Mapping[str, Any]) -> list[str]:
    standing = (
        []
        if status["state"] == "finished"
        else [f"The comparison is {status['state']}: this is how it stands."]
    )
    if status["confirmation"] is None:
        return [
            "Unconfirmed: the errors of a search are too low on average, since the best of many trials is chosen by "
            "them.",
            *standing,
        ]
    return [sentence[0].upper() + sentence[1:] for sentence in status["confirmation"]["verdict"]] + standing


def _parts(comparison: Comparison, status: Mapping[str, Any]) -> Iterator[Part]:
    confirmation = status["confirmation"]
    rows = table_of(status)
    winner = None if confirmation is None else confirmation["winner"]
    strong = frozenset(n for n, row in enumerate(status["methods"]) if row["method"] == winner)
    sentences = ["Errors in percent, mean ± standard deviation over fresh seeds that all methods share."]
    if confirmation is not None:
        sentences = [
            f"{len(confirmation['seeds'])} fresh seeds, the same for every method, {confirmation['steps']:,} steps "
            "each; the test set was read once for each final model. The winner (bold) has the lowest mean "
            f"{confirmation['objective']} on these seeds; the test set was not used to choose. Against supervised: "
            "difference of the test errors in points, paired over the seeds, with its 95 % interval."
        ]
    sentences += [left["said"] for left in status["race"] or []]
    yield Part("The methods", sentences, [Table(COLUMNS, rows, frozenset({2, 3}), strong)])
    picture = None if confirmation is None else plots.seeds(confirmation, str)
    if picture is not None:
        caption = "Test error of each final model; a line joins the models of one seed and labelled set."
        yield Part("Every final model", [], [Figure(picture, caption)])
    yield Part("How the best of each method learned", [], _curves(comparison, status))
    studies = [[row["method"], row["study"], row["state"]] for row in status["methods"]]
    yield Part(
        "The studies",
        [
            "Each is an ordinary study: `ssl-tune report STUDY` has its search, `ssl-tune trials STUDY` its trials."
        ],
        [Table(["method", "study", "state"], studies)],
    )


def _curves(comparison: Comparison, status: Mapping[str, Any]) -> list[Item]:
    """The validation error over the epochs of the best trial of each method's search."""
    objective = status["objective"]
    figure = drawing(8.5, 4.0)
    axes = figure.subplots()
    for place, (row, study) in enumerate(zip(status["methods"], comparison.studies(), strict=True)):
        if row["best"] is None or not study.folder.events_db.exists():
            continue
        with EventLog(study.folder.events_db, read_only=True) as log:
            reports = log.reports(f"{study.name}/{row['best']['trial']}")
        points = [(r.epoch, r.metrics[objective]) for r in reports if objective in r.metrics]
        axes.plot(*zip(*points, strict=True), color=CLASSES[place % len(CLASSES)], label=row["method"])
    axes.legend(fontsize=9, frameon=False)
    dress(axes, title="", x="epoch", y=AXES[objective])
    return [
        Figure(
            png(figure),
            "Validation images of the search; during its warm-up each method learns as supervised.",
        )
    ]


def _track(comparison: Comparison, path: Path) -> int | None:
    """Log the page to the comparison's run and wait for its delivery; the number of events that are still pending."""
    try:
        comparison.folder.lock()
    except ServiceError as error:
        if error.code != Exit.IN_USE:
            raise
        return None
    try:
        with EventLog(comparison.folder.events_db) as log:
            tracker = tracker_of(comparison, log)
            tracker.artifact(None, path)
            tracker.sender.start()
            return tracker.sender.close(min(comparison.spec_of_run().tracking_timeout, DELIVERY_SECONDS))
    finally:
        comparison.folder.unlock()
