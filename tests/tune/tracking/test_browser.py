"""A study in MLflow's own user interface, on the real server: found, filtered, sorted and compared."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tune.helpers import copy_home
from tests.tune.servers import MlflowServer, needed
from tests.tune.tracked import Home as TrackedHome
from tests.tune.tracked import Store, metrics, start
from tune.delivery.links import study_links
from tune.delivery.sender import deliver
from tune.findings.ranking import ranked
from tune.findings.study import Study, load_study
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.tracking.opening import open_tracker

if TYPE_CHECKING:
    from tests.tune.mlflow_ui import MlflowUi

EXPERIMENT = "browsed"


@pytest.fixture(scope="module")
def ui(mlflow_server: MlflowServer) -> Iterator[MlflowUi]:
    """A browser on the server."""
    there = shutil.which("chromium") and shutil.which("chromedriver")
    needed("chromium", there, "apt-get install chromium chromium-driver")
    needed("chromium", importlib.util.find_spec("selenium"), "pip install selenium")
    from tests.tune.mlflow_ui import MlflowUi, browser

    mlflow_server.start()
    with browser() as driver:
        yield MlflowUi(driver, mlflow_server.uri)


@pytest.fixture
def study(finished: Home, home: Home, ui: MlflowUi, mlflow_server: MlflowServer) -> Study:
    """A real study on the server, in an experiment where another method was searched, too."""
    copy_home(finished, home.path)
    study = load_study("shapes", home=home.path)
    with EventLog(study.folder.events_db) as log:
        open_tracker(log, study.spec.model_copy(update={"tracking_uri": mlflow_server.uri}), home)
        log.set_meta("experiment", EXPERIMENT)
        log.mark_delivered(event.id for event in log.owed_figures(1000))  # drawn by other tests
    assert deliver(study.folder.path, 60) == 0
    return study


@pytest.fixture
def other(tmp_path: Path, mlflow_server: MlflowServer) -> Iterator[TrackedHome]:
    """A study of VAT."""
    other = TrackedHome(tmp_path / "other", Store(Path("/nowhere"), mlflow_server.uri), "other")
    start(other.tracker(), "0", "1")
    other.log.set_meta("experiment", EXPERIMENT)
    for trial in ("0", "1"):
        other.tracker().report(trial, 1, metrics(1))
    other.log.set_meta("experiment", EXPERIMENT)
    assert deliver(other.study, 60) == 0
    yield other
    other.log.close()


@pytest.mark.long
def test_a_study_is_found_filtered_sorted_and_compared(
    ui: MlflowUi, study: Study, other: TrackedHome, mlflow_server: MlflowServer
) -> None:
    trials = {f"trial {record.trial}": record for record in study.records()}
    client = Store(Path("/nowhere"), mlflow_server.uri).client()
    ui.open(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    assert sorted(ui.names()) == ["other", "shapes"]  # the parents; their children are folded away
    ui.unfold("shapes")
    assert set(ui.names()) == {"other", "shapes", *trials}

    ui.filter("tags.ssl.method = 'pseudo_label' AND tags.ssl.trial IS NOT NULL")
    # In the order of creation MLflow shows a child's parent, too; in that of a metric it does not.
    ui.wait(lambda: set(ui.names()) - {"shapes"} == set(trials), "the trials of pseudo_label alone")
    ui.sort("val/error")
    ui.wait(lambda: set(ui.names()) == set(trials), "the same, side by side")
    errors = sorted(record.val_error for record in trials.values() if record.val_error is not None)

    def shown() -> list[float]:
        return [float(row["metrics.`val/error`"]) for row in ui.rows()]

    ui.wait(lambda: shown() == pytest.approx(errors, abs=0.01), f"val/error in the order {errors}")

    for name in trials:
        ui.select(name)
    ui.compare()
    assert ui.compared() == len(trials)
    searched = {parameter.name for parameter in study.spec.search_space().parameters}
    assert set(ui.axes()[:-1]) == searched  # nothing else differs between trials
    ui.show_metric("val/error")
    assert set(ui.axes()) == {*searched, "val/error"}


def test_one_click_on_each_link_shows_what_it_says(
    ui: MlflowUi, study: Study, mlflow_server: MlflowServer
) -> None:
    records = study.records()
    best = [record.trial for record in ranked(records)[:5]]
    links = study_links(study.folder, "shapes", best, mlflow_server.uri)
    assert set(links) == {"trials", "best"}

    ui.follow(links["trials"])
    wanted = {f"trial {record.trial}": record.stop_reason for record in records}

    def shown() -> dict[str, str]:
        return {row["name"]: row.get("tags.`ssl.stop_reason`", "") for row in ui.rows()}

    ui.wait(lambda: shown() == wanted, f"the trials with why they ended: {wanted}")
    for row in ui.rows():  # the error and the searched parameters, without a click
        assert row["metrics.`val/error`"] and row["params.`lr`"] and row["params.`warmup_epochs`"], row
    errors = [float(row["metrics.`val/error`"]) for row in ui.rows()]
    assert errors == sorted(errors)

    ui.follow(links["best"])
    ui.wait(ui.axes, "the comparison")
    assert ui.compared() == 5

    # Whoever opens the experiment by itself comes to its runs, not to pages about chats.
    experiment = links["trials"].partition("/experiments/")[2].partition("/")[0]
    ui.follow(f"{mlflow_server.uri}/#/experiments/{experiment}?workflowType=machine_learning")
    ui.wait(lambda: f"/experiments/{experiment}/runs" in ui.address and ui.names(), "its runs")
