"""Training on a folder as a person has it: some images with a label, many without, no test/ and no valid/."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ssl_core
from ssl_core.data.datasets import membership_of
from ssl_core.data.splits.holdout import Membership
from ssl_core.system.errors import ConfigError
from ssl_core.training.result import prepare


def picture(path: Path, bright: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 60, (16, 16, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + bright).astype(np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """20 labelled images of each of two classes, 30 without a label."""
    root = tmp_path / "pets"
    for number in range(20):
        picture(root / "train" / "a" / f"{number}.png", 0, number)
        picture(root / "train" / "b" / f"{number}.png", 180, 100 + number)
    for number in range(30):
        picture(root / "unlabelled" / "2024" / f"{number}.png", 180 * (number % 2), 200 + number)
    return root


def config(root: Path, **changes: Any) -> dict[str, Any]:
    tiny = {"network": "wrn-10-1", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4, "mu": 2}
    return {"method": "fixmatch", "dataset": f"folder:{root}", **tiny, **changes}


def test_all_labels_are_used_and_the_shares_are_held_out(pets: Path) -> None:
    resolved, data, split = prepare(config(pets))
    assert data.protocol == "real"
    unlabelled = np.flatnonzero(data.labels < 0)
    assert len(unlabelled) == 30 and set(unlabelled) <= set(split.unlabelled)
    # A fifth of the labelled images are test images, and are not here; a part of the rest validates.
    assert len(data.labels) - 30 < 40
    assert len(split.labelled) + len(split.valid) == len(data.labels) - 30
    assert not set(split.valid) & (set(split.labelled) | set(split.unlabelled))
    assert (resolved.labels, resolved.data.valid) == (len(split.labelled), len(split.valid))
    again, _, same = prepare(resolved)  # what a worker, a resume and an export are given
    assert same.hash == split.hash and again.labels == resolved.labels


def test_a_run_has_no_accuracy_of_pseudo_labels_and_goes_on_to_the_same_bits(
    pets: Path, tmp_path: Path
) -> None:
    reports: list[Any] = []
    whole = ssl_core.train(config(pets), out=tmp_path / "whole", final=True, on_report=reports.append)
    assert whole.test_error is not None
    assert all("ssl/mask_rate" in report.metrics for report in reports)
    assert not any("pseudo_label_accuracy" in name for report in reports for name in report.metrics)

    ssl_core.train(config(pets, stop_after_epoch=1), out=tmp_path / "parts")
    parts = ssl_core.train(config(pets), out=tmp_path / "parts", resume=True, final=True)
    assert (parts.val_error, parts.test_error) == (whole.val_error, whole.test_error)
    assert (
        parts.split_hash == whole.split_hash and parts.document()["val_loss"] == whole.document()["val_loss"]
    )


def test_a_method_that_needs_unlabelled_images_refuses_a_folder_without_any(pets: Path) -> None:
    (pets / "unlabelled").rename(pets.parent / "away")
    with pytest.raises(ConfigError, match="has no unlabelled images besides the labelled ones"):
        prepare(config(pets, labels=26))  # all that validation (6) and test images (8) leave
    with pytest.raises(
        ConfigError, match=r"40 training images .* of which 8 are held out .* together ask for 46"
    ):
        prepare(config(pets, labels=40))
    prepare(config(pets, labels=10))  # labels beyond ten are hidden


def test_own_validation_images_take_none_of_the_training_images(pets: Path) -> None:
    for number in range(10):
        picture(pets / "valid" / "a" / f"{number}.png", 0, 300 + number)
        picture(pets / "valid" / "b" / f"{number}.png", 180, 400 + number)
        picture(pets / "test" / "a" / f"{number}.png", 0, 500 + number)
        picture(pets / "test" / "b" / f"{number}.png", 180, 600 + number)
    (pets / "unlabelled").rename(pets.parent / "away")
    resolved, _, split = prepare(config(pets, labels=30))
    assert (len(split.labelled), len(split.valid), resolved.labels) == (30, 20, 30)


# What is skipped is on record


@pytest.fixture
def damaged(pets: Path) -> Path:
    (pets / "train" / "a" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return pets


def skipping(root: Path, **changes: Any) -> dict[str, Any]:
    return config(root, data={"on_damaged": "skip"}, **changes)


def test_a_run_records_what_it_skipped_and_skips_exactly_that_again(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = ssl_core.train(skipping(damaged, stop_after_epoch=1), out=out)
    digest = hashlib.sha256(b"\x89PNG\r\n\x1a\n").hexdigest()
    assert done.config["data"]["skipped"] == [{"file": "train/a/3.png", "sha256": digest}]
    kept = {name: value for name, value in done.config.items() if name != "stop_after_epoch"}
    whole = ssl_core.train(kept, out=out, resume=True)
    assert whole.epochs == 3 and whole.split_hash == done.split_hash
    assert ssl_core.train(kept, out=out, resume=True).val_error == whole.val_error
    asked = skipping(damaged)  # not with what was skipped: it is found once more
    assert ssl_core.train(asked, out=out, resume=True).val_error == whole.val_error

    (damaged / "unlabelled" / "2024" / "0.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"image unlabelled/2024/0\.png cannot be read: .*data\.skipped"):
        prepare(kept)
    with pytest.raises(ConfigError, match="differ"):
        ssl_core.train(asked, out=out, resume=True)


def test_a_run_that_skipped_training_images_reads_its_own_test_set(damaged: Path, tmp_path: Path) -> None:
    for number in range(4):
        picture(damaged / "test" / "a" / f"{number}.png", 0, 500 + number)
        picture(damaged / "test" / "b" / f"{number}.png", 180, 600 + number)
    for away in (False, True):  # without images that have no label, too
        if away:
            (damaged / "unlabelled").rename(tmp_path / "away")
        labels = {"labels": 10} if away else {}
        done = ssl_core.train(skipping(damaged, **labels), out=tmp_path / f"run-{away}", final=True)
        again = ssl_core.train(done.config, out=tmp_path / f"again-{away}", final=True)
        assert again.test_error == done.test_error is not None and len(done.config["data"]["skipped"]) == 1


def test_a_skipped_file_that_changed_is_refused(damaged: Path) -> None:
    resolved, _, _ = prepare(skipping(damaged))
    (damaged / "train" / "a" / "3.png").write_bytes(b"damaged in another way")
    with pytest.raises(ConfigError, match=r"image train/a/3\.png cannot be read"):
        prepare(resolved)


def test_where_nothing_was_damaged_nothing_may_be_later(pets: Path) -> None:
    resolved, _, _ = prepare(skipping(pets))
    assert resolved.document()["data"]["skipped"] == []
    (pets / "train" / "b" / "7.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"train/b/7\.png cannot be read"):
        prepare(resolved)
    assert "skipped" not in prepare({"method": "supervised"})[0].document()["data"]


# Test images that were held out stay test images


def test_a_run_keeps_its_test_images_and_says_which_they_are(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = ssl_core.train(config(pets, stop_after_epoch=1), out=out)
    record = json.loads((out / "held-out.json").read_text())
    assert set(record["test"]) == {"a", "b"} and done.protocol == "real"
    assert done.held_out == Membership.of(record).digest
    other = Membership(0.5, {})  # what a later study has on record plays no part in a run that goes on
    assert ssl_core.train(config(pets), out=out, resume=True, membership=other).split_hash == done.split_hash


def test_an_added_file_moves_no_test_image_into_training(pets: Path, tmp_path: Path) -> None:
    _, data, _ = prepare(config(pets))
    record = membership_of(data)
    for number in range(40):
        picture(pets / "train" / "a" / f"new-{number}.png", 0, 700 + number)
    _, grown, split = prepare(config(pets), membership=record)
    assert record is not None and data.rows is not None and grown.rows is not None
    tested = {hash_ for hashes in record.test.values() for hash_ in hashes}
    used = np.concatenate([split.labelled, split.valid, split.unlabelled])
    assert not tested & {grown.rows.hashes[i].tobytes().hex() for i in used}
    later = membership_of(grown)
    assert later is not None and set(record.test["a"]) < set(later.test["a"])
    # A study of the earlier files, with the later record, is what it was.
    for number in range(40):
        (pets / "train" / "a" / f"new-{number}.png").unlink()
    _, again, _ = prepare(config(pets), membership=later)
    assert again.fingerprint == data.fingerprint


def test_a_test_set_that_is_in_the_training_set_is_refused(pets: Path, tmp_path: Path) -> None:
    for name in "ab":
        (pets / "test" / name).mkdir(parents=True)
        for file in sorted((pets / "train" / name).iterdir())[:4]:
            shutil.copy(file, pets / "test" / name / file.name)
    ssl_core.train(config(pets), out=tmp_path / "search")  # opens no test image
    with pytest.raises(ConfigError, match=r"8 of 8 test images .*data\.allow_leak: true"):
        ssl_core.train(config(pets), out=tmp_path / "final", final=True)
    assert not (tmp_path / "final").exists()
    allowed = config(pets, data={"allow_leak": True})
    with pytest.warns(UserWarning, match="lower than on new images"):
        assert ssl_core.train(allowed, out=tmp_path / "final", final=True).test_error is not None
