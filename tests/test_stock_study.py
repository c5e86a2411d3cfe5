"""The whole study against stock wiring, at a small size, through its real commands; no time is asserted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.stock_study import STOCK, Row, Study, Work, check_equal_work, main, row_of, table
from benchmarks.stock_wiring import Plan, Training


def small_folder(root: Path) -> Path:
    """Three classes of 8x8 pictures, 30 for training and 2 to test each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 2)):
        for name in ("circle", "square", "star"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.mark.long
def test_every_contender_does_the_same_work_and_has_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # as where our driver was imported before
    words = [f"folder:{small_folder(tmp_path / 'images')}", "--json", "--contenders", STOCK, "ours"]
    words += ["--labels", "6", "--trials", "2", "--epochs", "2", "--steps", "2", "--batch-size", "4"]
    main([*words, "--mu", "2", "--workers", "0"])
    found = json.loads(capsys.readouterr().out)
    assert "cores" in found["machine"] and found["work"]["trials"] == 2
    assert [row["contender"] for row in found["rows"]] == [STOCK, "ours"]
    for row in found["rows"]:
        assert row["thresholds"] == [0.1, 0.02]
        assert row["epochs"] == [2, 2] and row["seconds"] > 0
        assert (
            row["images"] == [2 * 4 + 2 * (4 + 8)] * 2
        )  # an epoch of warm-up, one with twice as many besides
        assert row["epoch_seconds"] > 0
        assert len(row["val_error"]) == 2 and all(0 <= error <= 100 for error in row["val_error"])


def test_the_stock_training_takes_the_images_that_the_method_says(tmp_path: Path) -> None:
    work = Work(
        dataset=f"folder:{small_folder(tmp_path / 'images')}",
        labels=6,
        trials=2,
        steps=3,
        batch_size=4,
        mu=2,
        workers=0,
    )
    (tmp_path / "place").mkdir()
    plan = Plan(**Study(work, tmp_path / "place").plan(tmp_path))
    assert plan.thresholds == (0.1, 0.02)
    training = Training(plan, threshold=0.1)
    before = [weight.clone() for weight in training.network.parameters()]
    warm, after = training.epoch(1), training.epoch(2)
    assert warm["images"] == 3 * 4 and warm["accepted"] == 0
    assert after["accepted"] == 90 - 6 - 6  # all but labelled and validation images
    assert after["images"] == 3 * (4 + 2 * 4)  # round(4 * 78 / 6) = 52 images a step, but at most mu * B
    assert all(0 <= metrics["val_error"] <= 100 for metrics in (warm, after))
    assert any(not torch.equal(a, b) for a, b in zip(before, training.network.parameters(), strict=True))
    training.threshold = 1.0
    assert training.epoch(3)["images"] == 3 * 4


def row(contender: str, number: int, seconds: float, epochs: tuple[int, int] = (3, 3)) -> Row:
    """Two trials of Work(trials=2, epochs=3): 16 steps of 32, in two of three epochs 224 more."""
    images = 16 * 32 + 2 * 16 * 256
    trials = [
        {"threshold": threshold, "epochs": count, "images": images, "val_error": 90.0, "seconds": times}
        for threshold, count, times in (
            (0.02, epochs[1], [1.0, seconds / 4, seconds / 5]),
            (0.1, epochs[0], [1.0, seconds / 5, seconds / 6]),
        )
    ]
    return row_of(contender, number, seconds, trials, warmup=1)


ROWS = [row(STOCK, 0, 40.0), row(STOCK, 1, 60.0), row("ours", 0, 10.0), row("ours", 1, 30.0)]


def test_the_table_compares_within_a_round() -> None:
    *_, stock, ours = table(ROWS, "a machine")
    assert stock == "| stock | 2 | 2 | 6 | 17408 | 50.0 | 1.00, 1.00 | 10.0 | 1.00, 1.00 |"
    assert ours == "| ours | 2 | 2 | 6 | 17408 | 20.0 | 4.00, 2.00 | 4.0 | 4.00, 2.00 |"


def test_contenders_that_did_other_work_are_not_compared() -> None:
    work = Work(dataset="", trials=2, epochs=3)
    check_equal_work(ROWS, work)
    with pytest.raises(RuntimeError, match=r"ours, round 0: its trials have the epochs \[3, 1\]"):
        check_equal_work([*ROWS, row("ours", 0, 1.0, (3, 1))], work)
    with pytest.raises(RuntimeError, match="stock, round 0: its trials have the images"):
        check_equal_work(ROWS, replace(work, mu=3))
    with pytest.raises(RuntimeError, match="stock, round 0: its trials have the thresholds"):
        check_equal_work(ROWS, replace(work, trials=3))
