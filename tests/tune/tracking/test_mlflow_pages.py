"""MLflow's pages as a person gets them: the experiment's kind, saved views, and the links that `ui` prints."""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

import pytest

import tune
from tests.tune.helpers import Done, make_study, mlflow_runs
from tune.delivery.links import study_links
from tune.findings.study import load_study
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.tracking.views import KIND, KIND_TAG, VIEW_TAG, confirmation_view, study_views, view_key

Command = Callable[..., Done]
MOST = 5000  # characters of a tag that MLflow takes


def experiment_tags(home: Home, name: str) -> dict[str, str]:
    """Tags of an experiment in the home's own database."""
    from mlflow.tracking import MlflowClient

    found = MlflowClient(tracking_uri=home.default_tracking_uri).get_experiment_by_name(name)
    assert found is not None
    return dict(found.tags)


def test_the_experiment_opens_on_training_and_has_the_views(finished: Home) -> None:
    spec = load_study("shapes", home=finished.path).spec
    tags = experiment_tags(finished, spec.experiment)
    assert tags[KIND_TAG] == KIND
    view = json.loads(tags[VIEW_TAG + view_key("shapes", "trials")])
    assert view["searchFilter"] == "tags.ssl.study = 'shapes' AND tags.ssl.kind = 'trial'"
    assert view["selectedColumns"][1:3] == ["tags.`ssl.stop_reason`", "metrics.`val/error`"]
    assert {"params.`lr`", "params.`warmup_epochs`"} <= set(view["selectedColumns"])


def test_the_filters_of_the_views_find_what_they_name(finished: Home) -> None:
    from mlflow.tracking import MlflowClient

    spec = load_study("shapes", home=finished.path).spec
    client = MlflowClient(tracking_uri=finished.default_tracking_uri)
    experiment = client.get_experiment_by_name(spec.experiment)
    view = json.loads(study_views(spec)[VIEW_TAG + view_key("shapes", "trials")])
    found = client.search_runs(
        [experiment.experiment_id], view["searchFilter"], order_by=[view["orderByKey"]]
    )
    trials = [run for name, run in mlflow_runs(finished, "shapes").items() if name.startswith("trial ")]
    assert {run.info.run_id for run in found} == {run.info.run_id for run in trials} and len(found) == 6


def test_a_view_of_a_space_with_many_long_names_fits_a_tag(home: Home) -> None:
    _, spec = make_study(home, space="wide", name="n" * 100, objective="val/error_balanced")
    assert all(len(value) <= MOST for value in (study_views(spec) | confirmation_view(spec)).values())


def test_links_name_what_there_is(copied: Home) -> None:
    study = load_study("shapes", home=copied.path)
    best = [record.trial for record in study.records()[:3]]
    links = study_links(study.folder, "shapes", best, "http://h:1")
    assert set(links) == {"trials", "best"}
    query = urllib.parse.parse_qs(links["best"].partition("?")[2])
    assert len(json.loads(query["runs"][0])) == 3
    assert f"viewStateShareKey={view_key('shapes', 'trials')}" in links["trials"]
    with EventLog(study.folder.events_db) as log:
        log.set_meta("run_id:shapes/0/confirm-1", "f" * 32)
    assert "confirmed" in study_links(study.folder, "shapes", best, "http://h:1")


def test_a_study_of_before_gets_its_views_with_the_next_delivery(ssl_tune: Command, copied: Home) -> None:
    study = load_study("shapes", home=copied.path)
    with EventLog(study.folder.events_db) as log:
        log._write("DELETE FROM events WHERE kind = 'experiment'")
    assert tune.mlflow_links("http://h:1", "shapes", home=copied.path) == {"shapes": {}}
    assert tune.sync("shapes", home=copied.path).pending == 0
    assert set(tune.mlflow_links("http://h:1", "shapes", home=copied.path)["shapes"]) == {"trials", "best"}


def test_the_ui_takes_the_next_free_port_and_prints_links(
    ssl_tune: Command, finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(program: str, words: list[str]) -> NoReturn:
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execute)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("tune.cli.serving.mlflow_ui.USUAL_PORT", port)
        done = ssl_tune("ui", "--home", finished.path)
        assert done.code == 0 and f"127.0.0.1:{port}/" not in done.out
        assert "its trials: http://127.0.0.1:" in done.out and "the best five side by side:" in done.out
        refused = ssl_tune("ui", "--home", finished.path, "--port", port)
        assert refused.code == 2 and "Take another, such as --port" in refused.err
    assert ssl_tune("ui", "shapse", "--home", finished.path).code == 2
