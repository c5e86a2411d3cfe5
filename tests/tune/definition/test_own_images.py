"""Images of one's own through the command line: a look at them, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tune
from tests.tune.helpers import Done, make_pictures
from tune.store.home import Home

Command = Callable[..., Done]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """20 labelled images of each of three classes, 30 images without a label, no test/ and no valid/."""
    folder = make_pictures(tmp_path / "pets", test=1)
    shutil.rmtree(folder / "test")
    place = folder / "unlabelled" / "2024"
    place.mkdir(parents=True)
    random = np.random.default_rng(1)
    for number in range(30):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return folder


def look(ssl_tune: Command, folder: Path, *words: object, code: int = 0) -> dict[str, Any]:
    done = ssl_tune("data", f"folder:{folder}", *words, "--json")
    assert done.code == code, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_look_tells_classes_parts_and_the_split(ssl_tune: Command, pets: Path) -> None:
    (pets / "train" / "a" / "notes.txt").write_text("x")
    found = look(ssl_tune, pets)
    assert (found["protocol"], found["classes"]) == ("real", ["a", "b", "c"])
    assert found["counts"] == {"train": [20, 20, 20], "unlabelled": 30}
    split = found["split"]
    for place in range(3):
        assert sum(split[part][place] for part in ("labelled", "valid", "test")) == 20
        assert split["valid"][place] >= 1 and split["test"][place] >= 1
    assert split["unlabelled"] == sum(split["labelled"]) + 30
    assert [what["example"] for what in found["left_out"].values()] == ["train/a/notes.txt"]
    assert found["sizes"] == [[8, 8, 90]] and found["problems"] == []


def test_a_look_prints_at_80_columns(ssl_tune: Command, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ssl_tune("data", f"folder:{pets}")
    assert done.code == 0, done
    assert "3 classes, real protocol" in done.out and "held out as test images" in done.out
    tables = [line for line in done.out.splitlines() if line[:1] in "┃│┏└"]
    assert tables and max(map(len, tables)) <= 80


def test_a_look_draws_a_contact_sheet(ssl_tune: Command, pets: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    assert ssl_tune("data", f"folder:{pets}", "-o", sheet).code == 0
    with Image.open(sheet) as picture:
        picture.load()
        assert (
            picture.format == "PNG" and picture.width > picture.height > 4 * 64
        )  # three classes, unlabelled
    for bad, words in (("sheet.txt", "PNG"), ("absent/sheet.png", "does not exist")):
        done = ssl_tune("data", f"folder:{pets}", "-o", tmp_path / bad)
        assert done.code == 2 and words in done.err and done.out == ""
        assert not (tmp_path / bad).exists()


def test_a_look_counts_all_damaged_files_and_names_ten(ssl_tune: Command, pets: Path) -> None:
    for number in range(12):
        (pets / "train" / "a" / f"x{number:02}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    found = look(ssl_tune, pets, code=2)
    assert found["damaged"]["count"] == 12 and len(found["damaged"]["files"]) == 10
    assert any("12 files cannot be read" in problem for problem in found["problems"])


def test_a_test_set_that_is_in_the_training_set_is_a_problem(ssl_tune: Command, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "leak")
    for file in (folder / "test").rglob("*.png"):
        shutil.copy(folder / "train" / file.relative_to(folder / "test"), file)
    found = look(ssl_tune, folder, "--labels", 9, code=2)
    assert any("12 of 12 test images are in the training set" in problem for problem in found["problems"])


def test_the_function_gives_the_same_as_the_command(ssl_tune: Command, pets: Path) -> None:
    assert tune.data_summary(f"folder:{pets}").document() == look(ssl_tune, pets)


def test_a_setting_that_says_nothing_of_images_is_refused(ssl_tune: Command, pets: Path) -> None:
    done = ssl_tune("data", f"folder:{pets}", "--set", "lr=0.1")
    assert (
        done.code == 2 and done.out == "" and done.err.startswith("ssl-tune: lr says nothing of how images")
    )


def test_a_plan_warns_of_a_class_that_no_test_image_has(
    ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    folder = make_pictures(tmp_path / "pets")
    shutil.rmtree(folder / "test" / "b")
    (folder / "train" / "a" / "notes.txt").write_text("x")
    done = ssl_tune(
        "plan", "--dataset", f"folder:{folder}", "--labels", 9, "--home", home.path,
        *("--method", "supervised", "--network", "wrn-10-1", "--epochs", 2, "--trials", 2, "--json"),
        *("--set", "steps_per_epoch=2", "--set", "batch_size=4", "--set", "mu=1"),
    )  # fmt: skip
    assert done.code == 0, done
    document = json.loads(done.out)
    assert document["protocol"] == "simulated"
    told = " ".join(document["warnings"])
    assert "test has no image of" in told and "b" in told and "train/a/notes.txt" in told


def only_unlabelled(folder: Path) -> str:
    shutil.rmtree(folder / "train")
    return f"folder:{folder}"


def one_image(folder: Path) -> str:
    for file in sorted((folder / "train" / "a").iterdir())[1:]:
        file.unlink()
    return f"folder:{folder}"


def table(*lines: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        file = folder / "labels.csv"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return f"table:{file}"

    return make


BAD: list[tuple[str, Callable[[Path], str], list[str]]] = [
    ("unlabelled/ alone", only_unlabelled, ["train"]),
    ("a class with one image", one_image, ["'a'"]),
    ("no label column", table("file", "train/a/000.png"), ["label"]),
    ("a path that is not there", table("file,label", "train/a/absent.png,a"), ["absent.png"]),
    ("a path that leaves the folder", table("file,label", "../x.png,a"), ["../x.png"]),
    (
        "two labels",
        table("file,label", "train/a/000.png,a", "train/a/000.png,b"),
        ["train/a/000.png"],
    ),
    (
        "a label that only test uses",
        table(
            "file,label,split", "train/a/000.png,a,train", "train/b/000.png,b,train", "train/c/000.png,c,test"
        ),
        ["c"],
    ),
]


@pytest.mark.parametrize("verb", ["data", "plan", "search"])
@pytest.mark.parametrize(("make", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_layouts_are_refused_in_one_line(
    ssl_tune: Command, home: Home, pets: Path, verb: str, make: Callable[[Path], str], says: list[str]
) -> None:
    dataset = make(pets)
    place = [] if verb == "data" else ["--home", home.path]
    done = ssl_tune(verb, *([dataset] if verb == "data" else ["--dataset", dataset]), *place)
    assert done.code == 2 and done.out == "", done
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ssl-tune: "), done.err
    for words in says:
        assert words in lines[0], lines[0]
    assert home.study_names() == [] and not any(home.studies.glob("*"))


def test_a_fully_labelled_folder_is_counted_without_a_number_of_labels(
    ssl_tune: Command, tmp_path: Path
) -> None:
    folder = make_pictures(tmp_path / "shapes")
    found = look(ssl_tune, folder)
    assert found["counts"]["train"] == [20, 20, 20] and found["counts"]["test"] == [4, 4, 4]
    assert found["split"] is None and found["problems"] == []
    assert any("--labels N says how many keep it" in note for note in found["notes"])
    assert look(ssl_tune, folder, "--labels", 9)["split"]["labelled"] == [3, 3, 3]


def without_test(folder: Path) -> list[object]:
    """Fully labelled and no test/: a share is held out; here it takes all that a class has."""
    shutil.rmtree(folder / "unlabelled")
    return ["--labels", 9, "--set", "data.valid_share=0.99", "--set", "data.valid=40"]


CASES: list[tuple[str, Callable[[Path], list[object]], str]] = [
    ("image_size too small", lambda _: ["--set", "data.image_size=4"], "data.image_size"),
    ("image_size too large", lambda _: ["--set", "data.image_size=4000"], "data.image_size"),
    ("a share that leaves nothing", lambda _: ["--set", "data.valid_share=0.99"], "data.valid_share = 0.99 takes"),
    ("no share at all", lambda _: ["--set", "data.valid_share=0"], "data.valid_share"),
    ("a test share of all", lambda _: ["--set", "data.test_share=1"], "data.test_share"),
    ("more than a class has", without_test, "Lower"),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["data", "plan", "search"])
@pytest.mark.parametrize(("make", "says"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_settings_that_own_images_cannot_meet_are_refused_in_one_line(
    ssl_tune: Command, home: Home, pets: Path, verb: str, make: Callable[[Path], list[object]], says: str
) -> None:
    words = make(pets)
    if verb == "data":
        done = ssl_tune("data", f"folder:{pets}", *words)
        told = [line for line in (done.out + done.err).splitlines() if says in line]
        assert done.code == 2 and len(told) == 1, done
        return
    done = ssl_tune(
        *(verb, "--dataset", f"folder:{pets}", "--home", home.path, "--network", "wrn-10-1"), *words
    )
    assert done.code == 2 and done.out == "", done
    errors = [line for line in done.err.splitlines() if line.startswith("ssl-tune: ") and says in line]
    assert len(errors) == 1 and "Traceback" not in done.err, done.err
    assert home.study_names() == [] and not any(home.studies.glob("*"))
    assert not home.path.exists() or not any(home.path.rglob("*.db"))
