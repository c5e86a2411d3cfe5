"""Folds of a trial: the mean over several divisions of the same images is its result."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.simulated import Driver, Outcome
from ssl_core.preparation import fold_hashes, of_fold, prepare
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training.run import Report
from tests.tune.helpers import make_spec, make_study
from tune.definition.rungs import Stopping, expected_ends, expected_epochs, expected_in_folds
from tune.definition.spec import StudySpec
from tune.engine.scheduler import StudyASHA, StudyMedian
from tune.findings.elsewhere import comparable
from tune.findings.ranking import best_record, ranked
from tune.findings.rungs import rung_counts
from tune.findings.study import load_study
from tune.launch.baseline import differences, wanted_baseline
from tune.launch.remade_trials import remake_trials
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.layout import prefix_of
from tune.store.object_store import ObjectStore
from tune.store.study_folder import StudyFolder
from tune.trials.reading import all_records
from tune.trials.record import TrialRecord, deviation_so_far, folds_so_far
from tune.worker.folds import Told, over_folds
from tune.worker.task import Task
from tune.worker.trainable import TrialTrainable
from tune.worker.trial_files import RemoteTrial

CONTINUE, STOP = "CONTINUE", "STOP"
ERROR, LOSS = "val/error", "val/loss"
THREE = Stopping(folds=3)


# ---- what a trial tells of its folds


def of_a_fold(fold: int, errors: list[float], warmup: int = 1) -> Iterator[Report]:
    for epoch, error in enumerate(errors, start=1):
        classes = {"images": [4, 4], "wrong": [fold, 1], "accepted": [epoch, fold]}
        ssl_epoch = epoch - warmup if epoch > warmup else None
        yield Report(epoch, ssl_epoch, {ERROR: error, LOSS: error / 100, "lr": 0.1 * epoch}, classes, epoch)


def told(*errors: list[float], known: int = 0) -> list[Told]:
    epochs = len(errors[0])
    return list(over_folds(lambda f: of_a_fold(f, errors[f]), len(errors), epochs, known))


def test_the_value_is_the_mean_over_the_folds_that_have_finished() -> None:
    found = told([50.0, 40.0, 30.0], [60.0, 50.0, 20.0], [90.0, 80.0, 10.0])
    reports = [each.report for each in found]
    assert [r.epoch for r in reports] == list(range(1, 10))
    assert [r.metrics[ERROR] for r in reports] == [50, 40, 30, 30, 30, 25, 25, 25, 20]
    assert [r.metrics["fold/val/error"] for r in reports] == [50, 40, 30, 60, 50, 20, 90, 80, 10]
    assert [r.metrics["fold"] for r in reports] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert reports[-1].metrics[LOSS] == pytest.approx(0.2)
    assert [r.metrics["lr"] for r in reports[:4]] == [0.1, 0.2, pytest.approx(0.3), 0.1]
    # Epochs less the length of one warm-up: a number that only grows.
    assert [r.ssl_epoch for r in reports] == [None, 1, 2, 3, 4, 5, 6, 7, 8]
    assert [each.in_warmup for each in found] == [True, False, False] * 3
    assert [each.ends_fold for each in found] == [False, False, True] * 3
    spread = {r.epoch: r.metrics["fold/val/error_std"] for r in reports if "fold/val/error_std" in r.metrics}
    assert spread == {6: pytest.approx(50**0.5), 9: pytest.approx(10.0)}


def test_counts_by_class_are_added_up_over_finished_folds() -> None:
    reports = [each.report for each in told([50.0, 40.0], [60.0, 50.0], [90.0, 80.0])]
    assert [r.classes["wrong"] for r in reports] == [[0, 1], [0, 1], [0, 1], [1, 2], [1, 2], [3, 3]]
    assert reports[-1].classes["images"] == [12, 12] and reports[-1].classes["accepted"] == [2, 2]
    # As many images three times over tell no more of a deviation than once.
    assert deviation_so_far({"images": [12, 12], "wrong": [3, 3]}, 3) == pytest.approx(
        deviation_so_far({"images": [4, 4], "wrong": [1, 1]}, 1)
    )
    assert deviation_so_far({"accepted": [3]}, 1) is None


def test_a_trial_with_one_fold_tells_what_its_run_does() -> None:
    one = list(of_a_fold(0, [50.0, 40.0]))
    found = over_folds(lambda f: iter(one), 1, 2, 0)
    assert all(each.report is report for each, report in zip(found, one, strict=True))


@pytest.mark.parametrize("known", range(7))
def test_what_the_driver_knows_is_not_told_again_but_the_end_is(known: int) -> None:
    everything = told([50.0, 40.0], [60.0, 50.0], [90.0, 80.0])
    assert told([50.0, 40.0], [60.0, 50.0], [90.0, 80.0], known=known) == everything[min(known, 5) :]


def test_each_finished_fold_is_noted() -> None:
    last: dict[str, Any] = {}
    for each in told([50.0, 40.0], [60.0, 50.0]):
        last = folds_so_far(last, each.report.metrics, epoch=each.report.epoch, epochs=2)
        if not each.ends_fold and each.report.epoch == 1:
            assert last == {}
    assert last == {"folds": [{"val_error": 40.0, "val_loss": 0.4}, {"val_error": 50.0, "val_loss": 0.5}]}
    assert folds_so_far({}, {ERROR: 40.0}, epoch=2, epochs=2) == {}  # one fold alone


# ---- a worker


def worker_of(spec: StudySpec, folder: Path, home: Home, known: int = 0, **changes: Any) -> TrialTrainable:
    config, data, split = prepare(spec.base_config(), cache=home.cache)
    values = {"pseudo_label.threshold": 0.8, "warmup_share": 0.34}
    task = Task(
        trial=0,
        config=spec.trial_config(values).document() | changes,
        method_text=None,
        folder=str(folder),
        store=None,
        max_failures=0,
        known_epoch=known,
        split_hash=split.hash,
        cache=str(home.cache),
        data_root=None,
        gpus=0,
        system_metrics=False,
        repeats=spec.repeats,
        warmup_cache=0,
        fold_hashes=fold_hashes(config, data, split, spec.folds),
    )
    worker = TrialTrainable.__new__(TrialTrainable)
    worker.setup(task.as_config())
    return worker


def steps(worker: TrialTrainable, number: int) -> list[dict[str, Any]]:
    return [worker.step() for _ in range(number)]


def bits(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results without what tells of time."""
    timed = ("time/epoch_seconds", "images_per_second")
    rows = [{k: v for k, v in r.items() if k not in ("metrics", "time_ms")} for r in results]
    metrics = [{k: v for k, v in r["metrics"].items() if k not in timed} for r in results]
    return [row | {"metrics": values} for row, values in zip(rows, metrics, strict=True)]


def test_a_worker_trains_fold_after_fold_and_goes_on_after_any_epoch(home: Home, tmp_path: Path) -> None:
    spec = make_spec(home, epochs=2, folds=2, settings={"data.image_size": 8})
    whole = bits(steps(worker_of(spec, tmp_path / "whole", home), 4))
    alone = steps(worker_of(spec.model_copy(update={"folds": 1}), tmp_path / "alone", home), 2)
    for of_both, of_one in zip(whole, alone, strict=False):
        assert of_both["val/error"] == of_one["val/error"] and of_both["val/loss"] == of_one["val/loss"]
    assert [r["done"] for r in whole] == [False] * 3 + [True] and whole[-1]["stop_reason"] == "completed"
    config, data, split = prepare(spec.base_config(), cache=home.cache)
    (hash_of_1,) = fold_hashes(config, data, split, 2)
    state = checkpoint.load_newest(tmp_path / "whole" / "fold-1")
    assert state is not None and state["split_hash"] == hash_of_1 != split.hash
    assert state["config"]["data"]["fold"] == 1 and of_fold(config, 0) == config
    final = [report["metrics"]["val/loss"] for report in state["history"]][-1]
    assert whole[-1]["val/loss"] == pytest.approx((whole[1]["val/loss"] + final) / 2)
    # Killed after each epoch, with or without its report being known to the driver.
    for done, known in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        folder = tmp_path / f"killed-{done}-{known}"
        before = steps(worker_of(spec, folder, home), done)
        after = steps(worker_of(spec, folder, home, known), 4 - known)
        assert bits(before[:known] + after) == whole


def test_a_fold_of_other_images_is_refused_and_a_lost_one_is_trained_again(
    home: Home, tmp_path: Path
) -> None:
    spec = make_spec(home, epochs=2, folds=2, repeats=2, settings={"data.image_size": 8})
    whole = bits(steps(worker_of(spec, tmp_path / "t", home), 4))
    assert (tmp_path / "t" / "fold-1" / "seed-1").is_dir()
    shutil.rmtree(tmp_path / "t" / "fold-1")
    assert bits(steps(worker_of(spec, tmp_path / "t", home, known=2), 2)) == whole[2:]
    worker = worker_of(spec.model_copy(update={"repeats": 1}), tmp_path / "other", home)
    worker.setup(worker._task.as_config() | {"fold_hashes": ["0" * 16]})
    steps(worker, 2)
    with pytest.raises(RuntimeError, match="the study's is 0000000000000000"):
        worker._epoch()


def test_a_store_that_has_folders_is_asked_for_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file:// store, reading a folder failed six times and ended the trial, of `--repeats` too."""
    monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / "work"))
    url = f"file://{tmp_path / 'store'}"
    trial = RemoteTrial({"url": url, "study": "s", "incarnation": "1"}, 0)
    store, prefix = ObjectStore(url), f"{prefix_of('s')}/trials/0"
    for name in ("failures", "fold-1/epoch-0001.ckpt", "seed-1/epoch-0001.ckpt"):
        store.put(f"{prefix}/{name}", b"1")
    trial.fetch()
    assert [path.name for path in trial.folder.iterdir()] == ["failures"]


# ---- early stopping


def a_trial(number: int) -> SimpleNamespace:
    return SimpleNamespace(trial_id=f"ray-{number}", config={"trial": number})


def judged(scheduler: Any, number: int, epoch: int, value: float, warmup: int = 1) -> str:
    result = {"epoch": epoch, "ssl_epoch": epoch - warmup, ERROR: value}
    return str(scheduler.on_trial_result(None, a_trial(number), result))


def test_a_bad_configuration_is_not_given_its_second_fold() -> None:
    asha = StudyASHA(6, stopping=Stopping(folds=3))  # one rung within the first fold, after 2 epochs
    for number, value in enumerate([20.0, 30.0, 10.0]):
        asha.on_trial_add(None, a_trial(number))
        decisions = [judged(asha, number, epoch, value) for epoch in range(2, 7)]
        # The first comes to every rung alone, the second is stopped at the first, the third is better than both.
        assert decisions[-1 if number != 1 else 1] == (STOP if number == 1 else CONTINUE)
    assert (
        judged(asha, 3, 6, 25.0, warmup=5) == STOP
    )  # too long a warm-up for the rung: judged at the fold's end
    assert judged(asha, 4, 6, 5.0, warmup=5) == CONTINUE
    # The epochs of later folds are not judged, however bad, until the fold has ended.
    assert [judged(asha, 0, epoch, 99.0) for epoch in range(7, 12)] == [CONTINUE] * 5
    assert judged(asha, 0, 12, 15.0) == CONTINUE  # the first there
    assert judged(asha, 2, 12, 16.0) == STOP and judged(asha, 4, 12, 6.0) == CONTINUE
    assert [judged(asha, 4, epoch, 50.0) for epoch in range(13, 19)] == [
        CONTINUE
    ] * 6  # the last fold has no rung


def record(number: int, epoch: int, warmup: int, values: dict[int, float], **more: Any) -> TrialRecord:
    ssl_epoch = epoch - warmup if epoch > warmup else None
    return TrialRecord(
        str(number), "running", None, None, None, epoch, ssl_epoch, 0.0, {}, intermediate=values, **more
    )


@pytest.mark.parametrize("seed", range(4))
def test_rungs_of_folds_survive_a_restart(seed: int) -> None:
    """Ten trials of two folds whose epochs come in mixed; in the middle the scheduler is made again."""
    chance = random.Random(seed)
    warmups = {n: chance.randint(0, 4) for n in range(10)}
    values = {(n, e): float(chance.randint(5, 60)) for n in range(10) for e in range(1, 13)}
    order = [n for n in range(10) for _ in range(12)]
    chance.shuffle(order)
    stopping = Stopping(folds=2)
    straight, done, seen, gone = StudyASHA(6, stopping=stopping), dict.fromkeys(range(10), 0), {}, set()
    again: StudyASHA | None = None
    for place, number in enumerate(order):
        if place == len(order) // 2:
            records = [record(n, done[n], warmups[n], seen.get(n, {})) for n in range(10)]
            again = StudyASHA(6, records, stopping=stopping)
        if number in gone:
            continue
        done[number] += 1
        epoch = done[number]
        if epoch <= warmups[number]:
            continue
        value = values[number, epoch]
        decision = judged(straight, number, epoch, value, warmups[number])
        if again is not None:
            assert judged(again, number, epoch, value, warmups[number]) == decision
        seen.setdefault(number, {})[epoch - warmups[number]] = value
        if decision == STOP:
            gone.add(number)
    assert any(done[n] == 6 for n in gone) and any(epochs == 12 for epochs in done.values())


def test_the_median_rule_looks_at_the_first_fold_alone() -> None:
    median = StudyMedian(2, epochs=4)
    for number in range(4):
        for epoch in range(2, 5):
            assert judged(median, number, epoch, 10.0) == CONTINUE
    assert judged(median, 4, 3, 50.0) == STOP
    assert judged(median, 0, 5, 90.0) == CONTINUE and judged(median, 0, 8, 90.0) == CONTINUE
    later = [record(n, 8, 1, {e: 10.0 if e < 4 else 70.0 for e in range(1, 8)}) for n in range(4)]
    assert judged(StudyMedian(2, later, epochs=4), 9, 3, 50.0) == STOP


# ---- the price


def test_expected_epochs_of_folds_by_hand() -> None:
    # 27 trials of 6 epochs with a rung after 2; 9 finish the first fold, 3 begin the second, 1 the third.
    assert expected_epochs(6, 27, 0, THREE) == 27 * 2 + 9 * 4 + 3 * 6 + 1 * 6
    assert expected_in_folds(6, 27, 0, THREE) == [27, 3, 1, 1] and expected_ends(6, 27, 0, THREE) == 1
    everything = Stopping(scheduler="none", folds=3)
    assert expected_epochs(6, 4, 1, everything) == 4 * 18 and expected_ends(6, 4, 1, everything) == 4
    halves = Stopping(scheduler="median", folds=2)
    assert expected_epochs(6, 4, 0, halves) == 4 * 2 + 2 * 4 + 2 * 6


# ---- which trial is best


def ended(number: int, state: str, epoch: int, error: float, folds: int = 0) -> TrialRecord:
    each = {"val_error": error, "val_loss": 1.0}
    reason = {"completed": "completed", "stopped_early": "asha"}.get(state)
    return TrialRecord(
        str(number), state, reason, error, 1.0, epoch, epoch - 1, 1.0, {}, folds=(each,) * folds
    )


def test_the_best_has_all_folds_else_as_many_as_any() -> None:
    records = [
        ended(0, "stopped_early", 2, 1.0),
        ended(1, "stopped_early", 6, 9.0, folds=1),
        ended(2, "running", 8, 8.0, folds=1),  # in its second fold: it has the value of the first
        ended(3, "stopped_early", 3, 0.5),
    ]
    assert [r.trial for r in ranked(records)] == ["1", "3", "0"]
    best, full = best_record(records)
    assert best is not None and (best.trial, full) == ("2", False)
    full_records = [*records, ended(4, "completed", 12, 20.0, folds=2)]
    best, full = best_record(full_records)
    assert best is not None and (best.trial, full) == ("4", True)
    assert [r.trial for r in ranked(full_records)] == ["4", "1", "3", "0"]


def test_rungs_count_who_was_given_another_fold() -> None:
    records = [
        ended(0, "stopped_early", 3, 30.0),
        ended(1, "stopped_early", 6, 20.0, folds=1),
        ended(2, "completed", 12, 10.0, folds=2),
    ]
    counts = rung_counts(records, [2, 6], [6])
    assert [(c.name, c.reached, c.stopped) for c in counts] == [
        ("begun", 3, 0),
        ("2 after warm-up", 3, 1),
        ("6 after warm-up", 0, 0),
        ("after 1 fold", 2, 1),
        ("full budget", 1, 0),
    ]
    assert all(one.reached >= other.reached for one, other in pairwise([counts[0], counts[1], counts[3]]))


# ---- the study


def simulated(home: Home, **options: Any) -> StudySpec:
    """A finished study whose trials get better from fold to fold."""
    _, spec = make_study(home, epochs=4, trials=5, **options)

    def outcome(config: Any) -> Outcome:
        """Worse for a higher threshold, and a little better in every epoch."""
        first = 20 + 20 * config["pseudo_label"]["threshold"]
        errors = tuple(first - epoch for epoch in range(4 * spec.folds))
        return Outcome(config["warmup_epochs"], errors, tuple(e / 50 for e in errors))

    driver = Driver(spec, home, outcome)
    driver.run()
    driver.close()
    return spec


def test_trials_are_made_again_from_the_log_with_their_folds(home: Home, tmp_path: Path) -> None:
    spec = simulated(home, folds=3)
    before = load_study("s", home=home.path).records()
    assert {len(r.folds) for r in before} >= {0, 3}
    other = StudyFolder(tmp_path / "s")
    other.path.mkdir()
    with EventLog(home.study_folder("s") / "events.db", read_only=True) as log:
        remake_trials(other, spec, log)
    again = all_records(other, spec)
    assert [(r.folds, r.val_error, r.epoch, r.ssl_epoch, r.intermediate) for r in again] == [
        (r.folds, r.val_error, r.epoch, r.ssl_epoch, r.intermediate) for r in before
    ]


def test_a_study_with_other_folds_is_another_one(home: Home) -> None:
    spec = make_spec(home, folds=3)
    drawn = spec.model_copy(update={"split_hash": "a", "fold_hashes": ("b", "c")})
    assert comparable(drawn, drawn) and not comparable(drawn, drawn.model_copy(update={"fold_hashes": ()}))
    wanted = wanted_baseline(spec, home)
    assert wanted.folds == 3
    assert differences(wanted.model_copy(update={"folds": 1}), wanted, None) == ["folds"]


def test_a_study_made_before_there_were_folds_has_one(home: Home) -> None:
    document = make_spec(home).model_dump(mode="json")
    del document["folds"], document["fold_hashes"]
    spec = StudySpec.model_validate(document)
    assert (spec.folds, spec.fold_hashes, spec.full_epochs) == (1, (), 6)


def test_folds_that_cannot_be_are_refused_before_anything_runs(
    home: Home, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--folds 2 with data\.fold = 1: a trial's folds are 0 to 1"):
        make_spec(home, folds=2, settings={"data.fold": 1})
    with pytest.raises(ConfigError, match="folds"):
        make_spec(home, folds=11)
    own = tmp_path / "own"
    shutil.copytree(pictures, own)
    shutil.copytree(pictures / "test", own / "valid")
    with pytest.raises(ConfigError, match=r"--folds 2: .*brings validation images of its own"):
        make_spec(home, folds=2, dataset=f"folder:{own}", labels=12)
    assert make_spec(home, dataset=f"folder:{own}", labels=12).folds == 1
