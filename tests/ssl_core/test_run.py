"""One run from a configuration to a result, over a folder of real image files."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ssl_core
from ssl_core.config import from_document
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training import result as run
from ssl_core.training.run import Report, Run
from tests.tiny import TIMES, assert_same_bits, finish, make_run

CLASSES = ("apple", "bee", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8x8 images: 12 of each to train on, 4 to test."""
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in CLASSES:
        pattern = random.integers(0, 256, (8, 8, 3))
        for part, count in (("train", 12), ("test", 4)):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = (pattern + random.integers(0, 256, (8, 8, 3))) // 2
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture
def document(folder: Path) -> dict[str, Any]:
    return {
        "method": "pseudo_label",
        "dataset": f"folder:{folder}",
        "labels": 6,
        "network": "wrn-10-1",
        "epochs": 3,
        "steps_per_epoch": 2,
        "warmup_epochs": 1,
        "batch_size": 4,
        "mu": 2,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "pseudo_label": {"threshold": 0.4},
    }


class Counter:
    """`load_test`, counting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self._load = 0, run.load_test
        monkeypatch.setattr(run, "load_test", self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self._load(*args, **options)


@pytest.fixture
def test_set(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


class Killed(BaseException):
    """The process ends here."""


def kill_after(epoch: int) -> Any:
    def on_report(report: Report) -> None:
        if report.epoch == epoch:
            raise Killed

    return on_report


def timeless(result: run.Result) -> dict[str, Any]:
    return {k: v for k, v in result.document().items() if k not in ("seconds", "images_per_second")}


def untested(document: dict[str, Any]) -> dict[str, Any]:
    """A result without what the test set says."""
    of_test = {"test_error", "test_error_balanced", "test_error_by_class", "test_confusion"}
    return {k: v for k, v in document.items() if k not in of_test}


def last_state(out: Path) -> dict[str, Any]:
    state = checkpoint.load_newest(out / "checkpoints")
    assert state is not None
    for report in state["history"]:
        del report["time_ms"]
        for name in TIMES:
            del report["metrics"][name]
    return state


def test_a_run_leaves_configuration_result_and_checkpoints(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    reports: list[Report] = []
    result = ssl_core.train(document, out=tmp_path / "run", on_report=reports.append)
    out = tmp_path / "run"
    assert sorted(p.name for p in out.iterdir()) == ["checkpoints", "config.json", "result.json"]
    assert checkpoint.epochs_in(out / "checkpoints") == [3, 2]

    written = json.loads((out / "result.json").read_text())
    assert written == result.document()
    assert "test_error" not in written and result.test_error is None
    assert written["val_error"] == reports[-1].metrics["val/error"]
    assert written["val_error_balanced"] == reports[-1].metrics["val/error_balanced"]
    assert written["val_loss"] == reports[-1].metrics["val/loss"]
    assert written["classes"] == list(CLASSES) and [sum(row) for row in written["val_confusion"]] == [2, 2, 2]
    assert written["val_error_by_class"] == [50.0 * n for n in reports[-1].classes["wrong"]]
    assert [r.epoch for r in reports] == [1, 2, 3] and written["epochs"] == 3
    assert written["seed"] == 0 and len(written["split_hash"]) == 16
    assert written["seconds"] == pytest.approx(sum(r.metrics["time/epoch_seconds"] for r in reports))
    assert {"processor", "torch", "numpy", "python", "ssl-tune"} == written["versions"].keys()

    config = json.loads((out / "config.json").read_text())
    assert config == written["config"] == from_document(config).document()
    assert config["data"]["valid"] == 6 and config["weight_decay"] == 5e-4  # resolved
    assert test_set.calls == 0


def test_the_result_is_that_of_the_last_epoch_not_of_the_best() -> None:
    finished = make_run()
    finish(finished)
    for report, error in zip(finished.history, (50.0, 10.0, 90.0, 30.0), strict=True):
        report.metrics["val/error"] = error
    assert run.result_of(finished).val_error == 30.0


def test_without_a_folder_nothing_is_written(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ssl_core.train(document | {"epochs": 2}).epochs == 2
    assert list(tmp_path.iterdir()) == []


# Invariant 1: the test set is sealed.


def test_a_run_that_is_not_final_opens_no_test_image(
    document: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    sealed = tmp_path / "images"
    shutil.copytree(folder, sealed)
    for path in (sealed / "test").rglob("*.png"):
        path.write_bytes(b"sealed")
    document |= {"dataset": f"folder:{sealed}"}
    assert ssl_core.train(document, out=tmp_path / "run").test_error is None
    with pytest.raises(ConfigError, match=r"test/apple/0\.png"):  # found before the first step
        ssl_core.train(document, out=tmp_path / "final", final=True)
    assert not (tmp_path / "final").exists()


def test_a_final_run_reads_the_test_set_once_and_records_it(
    document: dict[str, Any], folder: Path, tmp_path: Path, test_set: Counter
) -> None:
    out, ledger = tmp_path / "run", tmp_path / "ledger" / "readings.jsonl"
    result = ssl_core.train(document, out=out, final=True, readings=ledger)
    assert test_set.calls == 1
    assert json.loads((out / "result.json").read_text())["test_error"] == result.test_error
    lines = ledger.read_text().splitlines()
    assert len(lines) == 1 and (out / "test-readings.jsonl").read_text().splitlines() == lines
    reading = json.loads(lines[0])
    assert reading["test_error"] == result.test_error and reading["epochs"] == 3
    assert reading["config"] == result.config and reading["split_hash"] == result.split_hash

    # The error, image by image, from the files and the last checkpoint.
    config, data, split = run.prepare(document)
    final = Run(config, data, split)
    final.load_state(last_state(out))
    matrix = [[0] * 3 for _ in CLASSES]
    for label, name in enumerate(CLASSES):
        for path in sorted((folder / "test" / name).iterdir()):
            pixels = torch.tensor(np.array(Image.open(path)))[None]
            matrix[label][int(final.evaluated(pixels).argmax())] += 1
    wrong = 12 - sum(matrix[label][label] for label in range(3))
    assert result.test_error == 100 * wrong / 12
    assert result.test_confusion == matrix == reading["test_confusion"]
    assert result.test_error_by_class == [100 * (4 - matrix[label][label]) / 4 for label in range(3)]
    assert result.test_error_balanced == pytest.approx(result.test_error)  # as many images of each class


def test_final_changes_no_bit_of_training(document: dict[str, Any], tmp_path: Path) -> None:
    one = ssl_core.train(document, out=tmp_path / "a")
    other = ssl_core.train(document, out=tmp_path / "b", final=True)
    assert_same_bits(last_state(tmp_path / "a"), last_state(tmp_path / "b"))
    assert timeless(one) == untested(timeless(other)) != timeless(other)


def test_readings_can_be_recorded_without_a_folder(document: dict[str, Any], tmp_path: Path) -> None:
    ledger = tmp_path / "readings.jsonl"
    for _ in range(2):
        ssl_core.train(document | {"epochs": 2}, final=True, readings=ledger)
    assert len(ledger.read_text().splitlines()) == 2  # each reading has its line


def test_a_reading_without_a_place_to_record_it_is_refused(
    document: dict[str, Any], test_set: Counter
) -> None:
    with pytest.raises(ConfigError, match=r"out=.* readings="):
        ssl_core.train(document, final=True)
    assert test_set.calls == 0


# Resuming.


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(
    document: dict[str, Any], tmp_path: Path, stop: int
) -> None:
    whole = ssl_core.train(document, out=tmp_path / "whole")
    with pytest.raises(Killed):
        ssl_core.train(document, out=tmp_path / "run", on_report=kill_after(stop))
    assert not (tmp_path / "run" / "result.json").exists()
    reports: list[Report] = []
    resumed = ssl_core.train(document, out=tmp_path / "run", resume=True, on_report=reports.append)
    assert [r.epoch for r in reports] == list(range(stop + 1, 4))
    assert timeless(resumed) == timeless(whole)
    assert_same_bits(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))


def test_a_damaged_newest_checkpoint_costs_one_epoch(document: dict[str, Any], tmp_path: Path) -> None:
    whole = ssl_core.train(document, out=tmp_path / "whole")
    with pytest.raises(Killed):
        ssl_core.train(document, out=tmp_path / "run", on_report=kill_after(2))
    newest = checkpoint.path_of(tmp_path / "run" / "checkpoints", 2)
    newest.write_bytes(newest.read_bytes()[:1000])
    reports: list[Report] = []
    resumed = ssl_core.train(document, out=tmp_path / "run", resume=True, on_report=reports.append)
    assert [r.epoch for r in reports] == [2, 3]
    assert timeless(resumed) == timeless(whole)


def test_resuming_where_nothing_is_starts_from_the_beginning(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document |= {"epochs": 2}
    assert ssl_core.train(document, out=tmp_path / "new", resume=True).epochs == 2


def test_a_finished_run_gives_its_result_again_without_reading_the_test_set(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    result = ssl_core.train(document, out=tmp_path / "run", final=True)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    reports: list[Report] = []
    again = ssl_core.train(document, out=tmp_path / "run", resume=True, final=True, on_report=reports.append)
    assert again == result and reports == [] and test_set.calls == 1
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_finished_run_can_still_be_made_final(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    result = ssl_core.train(document, out=tmp_path / "run")
    reports: list[Report] = []
    final = ssl_core.train(document, out=tmp_path / "run", resume=True, final=True, on_report=reports.append)
    assert reports == [] and test_set.calls == 1 and final.test_error is not None
    assert untested(final.document()) == result.document()
    assert len((tmp_path / "run" / "test-readings.jsonl").read_text().splitlines()) == 1


def test_a_model_whose_reading_is_recorded_is_not_read_again(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    result = ssl_core.train(document, out=tmp_path / "run", final=True)
    (tmp_path / "run" / "result.json").unlink()  # as after a crash between the reading and the result
    again = ssl_core.train(document, out=tmp_path / "run", resume=True, final=True)
    assert timeless(again) == timeless(result)
    assert test_set.calls == 1
    assert len((tmp_path / "run" / "test-readings.jsonl").read_text().splitlines()) == 1


def test_a_reading_that_one_of_two_records_lacks_is_made_up_for(
    document: dict[str, Any], tmp_path: Path, test_set: Counter
) -> None:
    out, ledger = tmp_path / "run", tmp_path / "readings.jsonl"
    ssl_core.train(document, out=out, final=True, readings=ledger)
    whole = ledger.read_bytes()
    (out / "result.json").unlink()
    ledger.write_bytes(b"")  # as after a crash between the two records
    ssl_core.train(document, out=out, resume=True, final=True, readings=ledger)
    assert ledger.read_bytes() == whole and test_set.calls == 1
    (out / "result.json").unlink()
    ledger.write_bytes(whole[:40])  # as after one in the middle of the second
    for _ in range(2):
        ssl_core.train(document, out=out, resume=True, final=True, readings=ledger)
        assert ledger.read_bytes() == whole[:40] + b"\n" + whole and test_set.calls == 1
    assert (out / "test-readings.jsonl").read_bytes() == whole


def test_a_run_stopped_early_can_be_carried_to_its_end(document: dict[str, Any], tmp_path: Path) -> None:
    whole = ssl_core.train(document, out=tmp_path / "whole")
    stopped = ssl_core.train(document | {"stop_after_epoch": 2}, out=tmp_path / "run")
    assert stopped.epochs == 2
    carried = ssl_core.train(document, out=tmp_path / "run", resume=True)
    assert timeless(carried) == timeless(whole)


# Folders and configurations that do not fit.


def test_a_folder_in_use_is_refused(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty.*--resume"):
        ssl_core.train(document, out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.1}, "lr"),
        ({"pseudo_label": {"threshold": 0.5}}, "pseudo_label"),
        ({"epochs": 4}, "epochs"),
        ({"data": {"label_seed": 1}}, "split|data"),
    ],
)
def test_resuming_another_configuration_is_refused_naming_what_differs(
    document: dict[str, Any], tmp_path: Path, finished: bool, changed: dict[str, Any], named: str
) -> None:
    document |= {"epochs": 2, "steps_per_epoch": 1}
    out = tmp_path / "run"
    if finished:
        ssl_core.train(document, out=out)
    else:
        with pytest.raises(Killed):
            ssl_core.train(document, out=out, on_report=kill_after(1))
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"{named}") as caught:
        ssl_core.train(document | changed, out=out, resume=True)
    assert str(out) in str(caught.value) and "Name another folder" in str(caught.value)
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_wrong_document_is_refused_before_any_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'"):
        ssl_core.train(
            {"method": "supervised", "dataset": "folder:/missing", "epoch": 3}, out=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_missing_is_refused(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device = 'cuda'"):
        ssl_core.train(document | {"device": "cuda"})


def test_digits_train_and_beat_chance() -> None:
    result = ssl_core.train(
        {
            "method": "supervised",
            "epochs": 3,
            "steps_per_epoch": 16,
            "device": "cpu",
            "precision": "float32",
            "threads": 1,
        }
    )
    assert result.val_error < 60  # chance is 90


@pytest.mark.parametrize("what", ["pickle", "of another network", "lacks a part"])
def test_20_a_run_whose_newest_checkpoint_cannot_be_taken_goes_on_from_the_one_before_to_the_same_bits(
    document: dict[str, Any], tmp_path: Path, what: str
) -> None:
    ssl_core.train(document, out=tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(Killed):
        ssl_core.train(document, out=out, on_report=kill_after(2))
    newest = checkpoint.path_of(out / "checkpoints", 2)
    state = checkpoint.read(newest)
    if what == "pickle":
        payload = pickle.dumps({"epoch": 2})
        newest.write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)
    else:
        if what == "of another network":
            state["ema"] = {name: value[:1] if value.dim() else value for name, value in state["ema"].items()}
        else:
            del state["optimizer"]
        checkpoint.write(newest, state)
    with pytest.warns(UserWarning, match="set aside"):
        ssl_core.train(document, out=out, resume=True)
    assert newest.with_suffix(".damaged").exists()
    assert_same_bits(last_state(out), last_state(tmp_path / "whole"))
