"""Warm-ups that are trained once, in studies: the same numbers with and without, and what is said of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import tune
from benchmarks.warmups import compare
from search_spaces import load_space
from ssl_core.config import from_document
from ssl_core.system.errors import ConfigError
from ssl_core.training.warmups.names import SAVED, SECONDS
from tests.tune.helpers import SMALL, Done, make_spec
from tune.confirmation.trainings import Places, Trained, Training, fresh, train_all
from tune.definition.inputs import parse_size
from tune.definition.request import SearchRequest
from tune.findings.spent import seconds_left
from tune.findings.study import load_study
from tune.launch.plan import looked_at
from tune.launch.pricing.shared_warmups import expected_shared
from tune.launch.remade_trials import remake_trials
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_storage
from tune.trials.record import TrialRecord, shared_so_far

Command = Callable[..., Done]
OPTIONS: dict[str, Any] = {
    "method": "pseudo_label",
    "labels": 20,
    "network": "wrn-10-1",
    "epochs": 10,
    "trials": 6,
    "settings": SMALL,
    "tracking_timeout": 1,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, dict[str, Any]]:
    """A study without a store, with one, and with one that was damaged; where their homes are, and what was found."""
    place = tmp_path_factory.mktemp("homes")
    return place, compare(place, OPTIONS)


@pytest.mark.long
def test_a_study_has_the_same_trials_values_bits_and_stops_with_and_without(
    compared: tuple[Path, dict[str, Any]],
) -> None:
    _, row = compared
    assert row["differing"] == [] and row["same"] and row["same_damaged"]
    assert row["with_bits"] > 0 and row["damaged"] > 0
    assert row["saved"] == row["expected"] > 0


@pytest.mark.long
def test_what_was_saved_is_marked_in_the_log_in_optuna_and_in_the_status(
    compared: tuple[Path, dict[str, Any]], ssl_tune: Command
) -> None:
    place, row = compared
    home = Home(place / "on")
    study = load_study("warmups", home=home.path)
    records = study.records()
    assert sum(r.shared for r in records) == row["saved"]
    assert all(r.trained + r.shared == r.epoch for r in records)
    with EventLog(study.folder.events_db, read_only=True) as log:
        for record in records:
            run = f"warmups/{record.trial}"
            reports = log.reports(run)
            assert [r.epoch for r in reports] == list(range(1, record.epoch + 1))
            marked = [r for r in reports if SAVED in r.metrics]
            assert [r.epoch for r in marked] == list(range(1, record.shared + 1))
            assert all(r.metrics[SECONDS] == 0 < r.metrics[SAVED] for r in marked)
            assert record.seconds == pytest.approx(sum(r.metrics[SECONDS] for r in reports))
            assert record.seconds_saved == pytest.approx(sum(r.metrics[SAVED] for r in marked))
            started = log.find(f"{run}:start")
            assert started is not None and all(r.time_ms >= started.time_ms for r in marked)
            last = log.last(run, "status")
            tags: Mapping[str, Any] = last.payload["tags"]  # type: ignore[union-attr, assignment]
            assert tags.get("ssl.warmup_shared") == (str(record.shared) if record.shared else None)
    cost = study.status()["cost"]["actual"]
    assert cost["shared_epochs"] == row["saved"] and cost["seconds_saved"] > 0
    done = ssl_tune("status", "warmups", "--home", home.path)
    assert "warm-ups taken over" in done.out and f"{row['saved']} epochs of those" in done.out
    without = load_study("warmups", home=place / "off").status()["cost"]["actual"]
    assert without["shared_epochs"] == 0 and not (place / "off" / "cache" / "warmups").exists()


@pytest.mark.long
def test_trials_made_again_from_the_log_know_what_was_saved(
    compared: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    place, _ = compared
    study = load_study("warmups", home=place / "on")
    folder = StudyFolder(tmp_path / "warmups")
    folder.path.mkdir()
    spec = study.spec.model_copy(update={"storage": None})
    with EventLog(study.folder.events_db, read_only=True) as log:
        remake_trials(folder, spec, log)
    storage = open_storage(folder, None)
    try:
        trials = storage.get_all_trials(storage.get_study_id_from_name("warmups"))
    finally:
        storage.engine.dispose()
    noted = [
        (t.user_attrs["last"].get("shared", 0), t.user_attrs["last"].get("seconds_saved", 0.0))
        for t in trials
    ]
    assert noted == [(r.shared, pytest.approx(r.seconds_saved)) for r in study.records()]


# Confirmations and tables


def trained(home: Home, size: int | None) -> list[Trained]:
    """Three trainings of one seed: two thresholds of one method, and VAT."""
    common = {"dataset": "digits", "labels": 20, "network": "wrn-10-1", "epochs": 4, **SMALL}
    asked = [
        {"method": "pseudo_label", "warmup_epochs": 2, "pseudo_label": {"threshold": 0.95}},
        {"method": "pseudo_label", "warmup_epochs": 2, "pseudo_label": {"threshold": 0.6}},
        {"method": "vat", "warmup_epochs": 3},
    ]
    trainings = []
    for number, each in enumerate(asked):
        spec = make_spec(home, method=each["method"], labels=20, network="wrn-10-1", epochs=4, settings=SMALL)
        config = from_document({**spec.config, **common, **each})
        trainings.append(Training(str(number), fresh(config, 1), home.path / f"run-{number}"))
    places = Places(home=home, data_root=None, concurrent=1, cpus=1, gpus=0, warmup_cache=size)
    return train_all(trainings, places, lambda _: None)


def test_final_trainings_of_one_seed_share_their_warm_up(tmp_path: Path) -> None:
    with_store, without = (trained(Home(tmp_path / name), size) for name, size in (("on", None), ("off", 0)))
    for one, other in zip(with_store, without, strict=True):
        mine, theirs = (
            {k: v for k, v in (t.result or {}).items() if "second" not in k} for t in (one, other)
        )
        assert mine == theirs and "test_error" in mine
    assert [sum(SAVED in r.metrics for r in t.reports) for t in with_store] == [0, 2, 2]
    assert not any(SAVED in r.metrics for t in without for r in t.reports)
    for each in with_store:
        assert len(each.reports) == 4 and each.began_ms is not None
        seconds = sum(r.metrics[SECONDS] for r in each.reports)
        assert each.result is not None and each.result["seconds"] == pytest.approx(seconds)
        assert each.result["images_per_second"] > 0


# Plan and time left


def test_what_is_expected_to_be_shared_is_played_through(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    home = Home(tmp_path / "home")

    def expected(lengths: list[tuple[int, float]], **options: Any) -> float:
        asked = {"trials": len(lengths), "space": str(space), "epochs": 9, **options}
        spec = make_spec(home, method="pseudo_label", dataset="digits", labels=20, **asked)
        config, *_ = looked_at(spec, home, None)
        points = [{"warmup_epochs": length, "lr": lr} for length, lr in lengths]
        return expected_shared(spec, config, points)

    assert expected([(3, 0.1), (5, 0.1), (2, 0.1), (5, 0.1)]) == 0 + 3 + 2 + 5
    assert (
        expected([(3, 0.1), (5, 0.2), (2, 0.1), (4, 0.2)]) == 0 + 0 + 2 + 4
    )  # one key for each learning rate
    assert expected([(3, 0.1), (5, 0.1), (2, 0.1), (5, 0.1)], concurrent=2) == 0 + 0 + 2 + 5
    assert expected([(3, 0.1), (2, 0.1), (5, 0.1), (5, 0.1)], concurrent=2) == 0 + 0 + 3 + 3
    assert (
        expected([(3, 0.1), (5, 0.1), (2, 0.1), (6, 0.1)], trials=2) == (3 + 2) / 2
    )  # the mean of two studies


SPACE = """\
method: pseudo_label
default:
  lr: {type: float, low: 0.01, high: 1.0, log: true, role: nuisance, why: a test}
  warmup_epochs: {type: int, low: 1, high: 6, role: scientific, why: a test}
baseline: {lr: 0.1, warmup_epochs: 1}
"""


def record(state: str, epoch: int, seconds: float, shared: int = 0) -> TrialRecord:
    return TrialRecord("0", state, None, 1.0, 1.0, epoch, None, seconds, {}, shared=shared)


def test_the_time_left_goes_by_the_epochs_that_are_trained(tmp_path: Path) -> None:
    spec = make_spec(Home(tmp_path / "home"), trials=4, concurrent=1)
    ended = [record("completed", 10, 100.0), record("completed", 10, 60.0, shared=4)]
    running = record("running", 5, 10.0, shared=4)
    # 17 epochs were trained in 170 s; a trial trains 8 of its own: one is left, and 7 of that which runs.
    assert seconds_left(spec, [*ended, running], None) == pytest.approx((8 + 7) * 10.0)
    planned = {"epochs": 40.0, "shared_epochs": 12.0, "seconds": 280.0, "disk_bytes": 1.0}
    assert seconds_left(spec, [record("running", 5, 10.0, shared=4)], planned) == pytest.approx(
        (3 * 7 + 6) * 10
    )


def test_what_is_noted_of_a_trial_counts_shared_epochs_alone() -> None:
    noted: dict[str, Any] = {}
    for metrics in ({SAVED: 1.5, SECONDS: 0.0}, {SAVED: 2.0, SECONDS: 0.0}, {SECONDS: 3.0}):
        noted = shared_so_far(noted, metrics)
    assert noted == {"shared": 2, "seconds_saved": 3.5}
    assert shared_so_far({}, {SECONDS: 3.0}) == {}
    assert json.loads(json.dumps(noted)) == noted  # as Optuna keeps it


# The option, and keeping house


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("500M", 500_000_000), ("20 GB", 20_000_000_000), ("1.5k", 1500), ("0", 0), ("7b", 7)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text, "--x") == size
    assert SearchRequest(warmup_cache=text).warmup_cache == size


@pytest.mark.parametrize("text", ["much", "2 G i", "-1", "1e9", "", "GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"warmup-cache.*write a size such as 500M, 20G or 2GiB"):
        SearchRequest(warmup_cache=text)
    with pytest.raises(ConfigError, match="warmup_cache"):
        SearchRequest(warmup_cache=-1)


def test_a_study_keeps_the_size_and_its_baseline_and_workers_get_it(tmp_path: Path) -> None:
    from tune.launch.baseline import baseline_request

    spec = make_spec(Home(tmp_path / "home"), warmup_cache="1GiB")
    assert spec.warmup_cache == 2**30 == baseline_request(spec).warmup_cache
    assert make_spec(Home(tmp_path / "home")).warmup_cache is None


def test_clean_knows_warm_ups_from_decoded_images(home: Home, ssl_tune: Command) -> None:
    old, new = home.warmups / ("a" * 32), home.warmups / ("b" * 32)
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "epoch-000001.ckpt").write_bytes(b"x" * 1000)
    long_ago = time.time() - 40 * 86_400
    for path in (old / "epoch-000001.ckpt", old):
        os.utime(path, (long_ago, long_ago))
    found, _ = tune.clean(dry_run=True, home=home.path)
    assert [(item.kind, item.path, item.size) for item in found.items] == [("warm-ups", old, 1000)]
    assert ssl_tune("clean", "--cache-size", "0", "--home", home.path).code == 0
    assert not old.exists() and new.exists()
    assert tune.clean(cache_age="0s", home=home.path)[0].items[0].path == new
    assert not new.exists()


def test_every_space_of_the_package_can_be_planned(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for method in ("vat", "attention_fixmatch", "supervised"):
        spec = make_spec(home, method=method, dataset="digits", labels=20, trials=3, concurrent=1, epochs=12)
        config, *_ = looked_at(spec, home, None)
        space = load_space(method)
        points = [space.baseline_for(12)]
        expected = expected_shared(spec, config, points)
        length = 0 if method == "supervised" else int(space.resolve(points[0], 12).get("warmup_epochs", 0))
        assert expected == 2 * length
