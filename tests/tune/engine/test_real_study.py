"""Studies on images as people have them: what is on record, what every output says, what is refused before a search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tune
from search_spaces import load_yaml
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import SMALL, SPACE, Done, make_home, make_pictures, words_of
from tune.confirmation.confirm import confirm
from tune.definition.request import SearchRequest
from tune.engine.progress import Progress
from tune.findings.exports import export_table
from tune.findings.study import load_study
from tune.findings.summary import description
from tune.images.held_out import held_out_before
from tune.images.study import StudyImages, read_images
from tune.launch.start import new_sitting
from tune.store.event_log import EventLog
from tune.store.home import Home

Command = Callable[..., Done]


def write_unlabelled(folder: Path, count: int = 24) -> None:
    random = np.random.default_rng(1)
    (folder / "unlabelled" / "2024").mkdir(parents=True)
    for number in range(count):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "unlabelled" / "2024" / f"{number:02}.png")


def write_pets(folder: Path) -> Path:
    """20 labelled images of each of three classes, one of them damaged; 24 images without a label."""
    make_pictures(folder, test=1)
    shutil.rmtree(folder / "test")
    write_unlabelled(folder)
    (folder / "train" / "a" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def options_for(dataset: str, home: Home, **more: Any) -> dict[str, Any]:
    """A search of two configurations that takes seconds."""
    space = home.path / "space.yaml"
    space.write_text(SPACE)
    settings = SMALL | more.pop("settings", {})
    common = {"network": "wrn-10-1", "epochs": 4, "trials": 2, "concurrent": 1, "name": "pets"}
    common["tracking_timeout"] = 1  # what is sent is looked up in the event log
    return {"dataset": dataset, "space": str(space), "settings": settings, **common, **more}


@dataclass(frozen=True)
class Found:
    """A study that was searched, and its confirmation; to be looked at and left as it is."""

    home: Home
    pets: Path
    said: str
    confirmation: dict[str, Any]

    @property
    def images(self) -> StudyImages:
        images = read_images(self.home.study_folder("pets"))
        assert images is not None
        return images


def tags_of(home: Home, study: str) -> list[dict[str, str]]:
    """The tags of each run of a study, as they are sent to MLflow."""
    with EventLog(home.study_folder(study) / "events.db", read_only=True) as log:
        starts = [log.find(f"{run}:start") for run in log.runs()]
    payloads: list[Any] = [start.payload for start in starts if start is not None]
    return [payload["tags"] for payload in payloads]


class Listening(Progress):
    """Keeps what a search says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def found(local_ray: None, migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    place = tmp_path_factory.mktemp("real")
    home, pets = make_home(place / "home", migrated_store), write_pets(place / "pets")
    options = options_for(f"folder:{pets}", home, settings={"data.on_damaged": "skip"})
    progress = Listening()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_TUNE_FIGURES", "0")
        with new_sitting(SearchRequest(**options), home, progress) as sitting:
            sitting.search()
        document = confirm("pets", seeds=3, baseline="plain", home=home)
    return Found(home, pets, "\n".join(progress.lines), document)


def test_a_study_records_what_it_skipped_and_what_each_image_is_for(found: Found) -> None:
    spec, images = load_study("pets", home=found.home.path).spec, found.images
    (skipped,) = spec.config["data"]["skipped"]
    assert skipped["file"] == "train/a/003.png" and len(skipped["sha256"]) == 64
    assert images.test is not None
    totals = [sum(counts) for counts in zip(images.labelled, images.valid, images.test, strict=True)]
    assert totals == [19, 20, 20] and images.protocol == "real" and images.hidden == 0
    assert images.unlabelled == sum(images.labelled) + 24
    assert (spec.config["labels"], spec.config["data"]["valid"]) == (sum(images.labelled), sum(images.valid))
    record = held_out_before(found.home, spec.config["dataset"])
    assert record is not None and images.membership == record
    assert [len(record.test[name]) for name in "abc"] == images.test
    parts = [
        {one for hashes in members.values() for one in hashes}
        for members in (*images.members.values(), record.test)
    ]
    assert all(not one & other for one in parts for other in parts if one is not other)
    # The worker's trials, the confirmation and the study agree on the split, and each final model read the same images.
    runs = list((found.home.study_folder("pets") / "confirm").rglob("result.json"))
    assert len(runs) == 6
    for path in runs:
        result = json.loads(path.read_text())
        assert result["split_hash"] == spec.split_hash and result["held_out"] == record.digest
        assert result["config"]["data"]["skipped"] == [skipped]


def test_every_output_names_the_protocol(found: Found, ssl_tune: Command, tmp_path: Path) -> None:
    at_home = ("--home", found.home.path)
    assert "real protocol, 3 classes (a: " in found.said and "24 images" not in found.said
    assert "skipped" not in found.said or "train/a/003.png" in found.said
    assert ssl_tune("status", "pets", "--json", *at_home).document["protocol"] == "real"
    assert "real protocol" in ssl_tune("status", "pets", *at_home).out
    assert "real protocol" in ssl_tune("trials", "pets", *at_home).out
    assert found.confirmation["protocol"] == "real" and found.confirmation["redrawn"] == "training"
    verdict = " ".join(found.confirmation["verdict"])
    assert "real protocol" in verdict and "the seeds change the training alone" in verdict
    assert "all labels are in use" in verdict
    exported = tune.export("pets", home=found.home.path)
    assert exported["origin"]["protocol"] == "real" and exported["held_out"] == found.images.held_out
    page = tmp_path / "page.html"
    assert ssl_tune("report", "pets", "-o", page, *at_home).code in (0, 5)
    text = page.read_text()
    assert "real protocol" in text and "the seeds change the training alone" in text.lower()
    tags = tags_of(found.home, "pets")
    assert len(tags) == 1 + 2 + 2 * 3 and {one["ssl.protocol"] for one in tags} == {"real"}
    assert all(one["ssl.dataset"].startswith("pets-") for one in tags)
    study = load_study("pets", home=found.home.path)
    assert "real protocol" in description(study.spec, study.records(), "finished", {})
    table = tmp_path / "trials.csv"
    export_table("pets", table, home=found.home.path)
    assert "real" in table.read_text().splitlines()[1].split(",")


def test_an_exported_configuration_skips_the_same_files_and_keeps_the_test_images(
    found: Found, tmp_path: Path, ssl_tune: Command
) -> None:
    moved, exported = tmp_path / "moved", tmp_path / "best.yaml"
    shutil.copytree(found.pets, moved)
    tune.export("pets", exported, home=found.home.path)
    words = ("train", "--config", exported, "--dataset", f"folder:{moved}", "--home", tmp_path / "other")
    done = ssl_tune(*words, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done
    expected = load_yaml(exported.read_text(), str(exported))["expect"]["val_error"]
    assert done.document["val_error"] == expected and done.document["protocol"] == "real"
    record = held_out_before(Home(tmp_path / "other"), f"folder:{moved}")
    assert record == found.images.membership
    (moved / "unlabelled" / "2024" / "05.png").write_bytes(b"")
    for out in ("run", "another"):
        again = ssl_tune(*words, "--out", tmp_path / out, *(["--resume"] if out == "run" else []))
        assert again.code == 2 and "05.png cannot be read" in again.err and "data.skipped" in again.err
    assert not (tmp_path / "another").exists()


def test_a_study_is_not_resumed_once_another_file_is_damaged(
    local_ray: None, ready_home: Home, tmp_path: Path, ssl_tune: Command
) -> None:
    pets = write_pets(tmp_path / "pets")
    options = options_for(f"folder:{pets}", ready_home, settings={"data.on_damaged": "skip"})
    with new_sitting(SearchRequest(**options), ready_home, Progress()):
        pass  # ended before its first trial
    whole = (pets / "train" / "b" / "004.png").read_bytes()
    (pets / "train" / "b" / "004.png").write_bytes(b"")
    done = ssl_tune("resume", "pets", "--home", ready_home.path)
    assert done.code == 2 and "train/b/004.png cannot be read" in done.err and "data.skipped" in done.err
    (pets / "train" / "b" / "004.png").write_bytes(whole)
    done = ssl_tune("resume", "pets", "--home", ready_home.path)
    assert done.code in (0, 5), done
    assert load_study("pets", home=ready_home.path).status()["trials"]["completed"] == 2


def test_added_files_move_no_test_image_into_training(
    found: Found, tmp_path: Path, ssl_tune: Command
) -> None:
    pets = tmp_path / "pets"
    shutil.copytree(found.pets, pets)
    home = Home(tmp_path / "home")
    words = ("--dataset", f"folder:{pets}", "--home", home.path, "--network", "wrn-10-1", "--epochs", 1)
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    skip = (*small, "--set", "data.on_damaged=skip")
    assert ssl_tune("train", "--method", "supervised", *words, *skip, "--out", tmp_path / "one").code == 0
    before = held_out_before(home, f"folder:{pets}")
    assert before is not None
    random = np.random.default_rng(9)
    for name in "abc":
        for number in range(30):
            pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pets / "train" / name / f"new-{number}.png")
    plan = ssl_tune("plan", "--method", "supervised", *words, *skip, "--trials", 2, "--json").document
    look = ssl_tune("data", f"folder:{pets}", "--set", "data.on_damaged=skip", "--home", home.path, "--json")
    assert look.document["split"]["test"] == [row["test"] for row in plan["classes"]]
    assert all(row["test"] > len(before.test[row["class"]]) for row in plan["classes"])
    # Labels, seeds and the share that is asked for change nothing: what is on record stays.
    other = (*skip, "--set", "data.test_share=0.05", "--set", "data.split_seed=7", "--seed", 3)
    done = ssl_tune("train", "--method", "supervised", *words, *other, "--out", tmp_path / "two")
    assert done.code == 0 and "data.test_share = 0.05 is not used" in done.err
    after = held_out_before(home, f"folder:{pets}")
    assert after is not None and all(set(before.test[name]) < set(after.test[name]) for name in "abc")


def search_words(folder: Path, home: Home, *more: object, labels: int = 9) -> list[object]:
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    return [
        *("--method", "supervised", "--dataset", f"folder:{folder}", "--labels", labels),
        *("--home", home.path),
        *("--network", "wrn-10-1", "--epochs", 1, "--trials", 1, *small, *more),
    ]


def leak(folder: Path) -> None:
    for file in (folder / "test").rglob("*.png"):
        shutil.copy(folder / "train" / file.relative_to(folder / "test"), file)


def damage(folder: Path) -> None:
    (folder / "test" / "b" / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("verb", ["plan", "search"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [(leak, "12 of 12 test images"), (damage, "image test/b/002.png cannot be read")],
    ids=["leak", "damage"],
)
def test_a_spoilt_test_set_is_refused_before_the_search(
    ssl_tune: Command, home: Home, tmp_path: Path, verb: str, spoil: Callable[[Path], None], says: str
) -> None:
    folder = make_pictures(tmp_path / "shapes")
    spoil(folder)
    done = ssl_tune(verb, *search_words(folder, home))
    assert done.code == 2 and done.out == "", done
    lines = [line for line in done.err.splitlines() if line.startswith("ssl-tune: ")]
    assert len(lines) == 1 and says in lines[0]
    assert (home.study_names() == [] and not home.path.exists()) or not any(home.path.rglob("*.db"))


def test_a_leaked_test_set_can_be_accepted(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "shapes")
    leak(folder)
    plan = ssl_tune("plan", *search_words(folder, home, "--set", "data.allow_leak=true"), "--json").document
    assert any(
        "12 of 12 test images" in line and "lower than on new images" in line for line in plan["warnings"]
    )
    words = ["--method", "supervised", "--dataset", f"folder:{folder}", "--labels", 9, "--epochs", 1]
    words += ["--network", "wrn-10-1", "--set", "steps_per_epoch=2", "--set", "batch_size=4", "--set", "mu=1"]
    done = ssl_tune("train", *words, "--final", "--home", home.path)
    assert done.code == 2 and "data.allow_leak: true" in done.err and "Traceback" not in done.err
    assert not home.test_readings.exists()


def test_unequal_classes_are_counted_and_drawn_in_proportion(
    ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    folder = make_pictures(tmp_path / "shapes", train=30)
    for file in sorted((folder / "train" / "c").iterdir())[6:]:
        file.unlink()
    words = search_words(folder, home, "--set", "data.valid=9", labels=33)
    plan = ssl_tune("plan", *words, "--json").document
    rows = {row["class"]: row for row in plan["classes"]}
    assert [rows[name]["labelled"] for name in "abc"] == [16, 15, 2]  # 3 of 6 images of c are for validation
    assert sum(row["labelled"] for row in rows.values()) == 33 and rows["c"]["test"] == 4
    (line,) = plan["notes"]
    assert "from 2 labelled images of c to 16 of a" in line and "val/error_balanced" in line
    printed = ssl_tune("plan", *words).out
    assert "class c" in printed and "2 labelled" in printed and line in printed
    done = ssl_tune("plan", *words, "--set", "data.split=balanced")
    assert done.code == 2 and "class 'c'" in done.err
    done = ssl_tune("plan", *search_words(folder, home, "--set", "data.valid=30", labels=60))
    assert done.code == 2 and "66 training images (a: 30, b: 30, c: 6)" in done.err


def test_two_folders_of_one_name_are_two_experiments(home: Home, tmp_path: Path) -> None:
    from tests.tune.helpers import make_spec

    folders = [make_pictures(tmp_path / place / "animals") for place in ("x", "y")]
    specs = [
        make_spec(home, dataset=f"folder:{folder}", labels=9, network="wrn-10-1", name=f"s{number}")
        for number, folder in enumerate(folders)
    ]
    assert specs[0].experiment != specs[1].experiment
    assert all(spec.experiment.startswith("animals-") for spec in specs)


def test_a_damaged_record_of_test_images_is_refused(found: Found, tmp_path: Path, ssl_tune: Command) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(found.home.path / "held-out", home.path / "held-out")
    (record,) = (home.path / "held-out").iterdir()
    record.write_text("{")
    done = ssl_tune("data", f"folder:{found.pets}", "--home", home.path)
    assert done.code == 2 and str(record) in done.err and "cannot be read" in done.err
    with pytest.raises(ConfigError, match="record of test images"):
        held_out_before(home, f"folder:{found.pets}")


@pytest.mark.long
def test_a_table_is_searched_beside_its_baseline_and_confirmed(
    local_ray: None, ready_home: Home, tmp_path: Path, ssl_tune: Command
) -> None:
    """As `predict` writes it and a person mends it: some rows have a label, some none."""
    folder = make_pictures(tmp_path / "shots", train=24, test=1)
    rows = ["file,label,split,group"]
    for name in "abc":
        for number in range(24):
            label, split = (name, "") if number < 14 else ("", "unlabelled")
            split = "test" if number in (12, 13) else split
            rows.append(f"train/{name}/{number:03}.png,{label},{split},shot-{name}-{number // 2}")
    table = folder / "labels.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = options_for(f"table:{table}", ready_home, name="shots")
    done = ssl_tune(
        "search", *words_of(options), "--home", ready_home.path, "--with-baseline", "--confirm-seeds", 3
    )
    assert done.code in (0, 5), done
    names = ready_home.study_names()
    assert len(names) == 2 and names[0] == "shots"
    images = read_images(ready_home.study_folder("shots"))
    assert images is not None and images.test == [2, 2, 2] and images.held_out is None
    assert images.protocol == "real" and images.unlabelled == sum(images.labelled) + 30
    document = json.loads((ready_home.study_folder("shots") / "confirm.json").read_text())
    assert document["baseline"] == "supervised-tuned" and document["redrawn"] == "training"
    assert all(len(row["test_error"]) == 3 for row in document["rows"])
    assert "the seeds change the training alone" in done.out
    (label,) = {tags["ssl.dataset"] for tags in tags_of(ready_home, "shots")}
    assert label.startswith("labels-")
