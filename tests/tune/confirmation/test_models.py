"""Models of a study: made by `confirm --models`, exported, in MLflow, and what `predict` makes of them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ssl_core
import tune
from ssl_core.model.card import CARD_FILE, read_card
from tests.tune.helpers import Done, copy_home, make_pictures, mlflow_runs, mlflow_steps, wait_until
from tests.tune.servers import free_port
from tune.confirmation.confirm import confirm
from tune.findings.study import load_study
from tune.predictions.writing import ByClass
from tune.store.event_log import EventLog
from tune.store.home import Home

Command = Callable[..., Done]
Confirmation = tuple[Home, dict[str, Any]]


@pytest.fixture(scope="module")
def confirmation(finished: Home, readable: None, tmp_path_factory: pytest.TempPathFactory) -> Confirmation:
    """The finished study in a home of its own, confirmed once, with models and refits."""
    home = copy_home(finished, tmp_path_factory.mktemp("confirmed") / "home")
    options: dict[str, Any] = {"baseline": "plain", "refit": True, "models": True}
    return home, confirm("shapes", seeds=2, home=home.path, **options)


@pytest.fixture(scope="module")
def best(confirmation: Confirmation) -> Path:
    """The folder of the best model; to be left as it is."""
    home, document = confirmation
    return home.study_folder("shapes") / document["models"]["best"]


def client_of(home: Home) -> Any:
    from mlflow.tracking import MlflowClient

    uri = home.default_tracking_uri
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def logged_models(home: Home) -> dict[str, Any]:
    client = client_of(home)
    found = client.search_logged_models([e.experiment_id for e in client.search_experiments()])
    return {model.name: model for model in found}


def test_each_seed_of_the_winner_has_a_model_and_the_best_is_named_by_validation(
    confirmation: Confirmation,
) -> None:
    home, document = confirmation
    rows, winner = document["models"]["rows"], document["winner"]
    folder = home.study_folder("shapes")
    names = [f"trial-{winner}-seed-{n}{end}" for end in ("", "-refit") for n in (1, 2)]
    assert [Path(row["folder"]).name for row in rows] == names
    assert sorted(p.name for p in (folder / "models").iterdir()) == sorted(names)
    validated = [row for row in rows if not row["refit"]]
    (row,) = [r for r in document["rows"] if r["who"] == winner]
    assert [r["val_error"] for r in validated] == row["val_error"]
    assert [r["test_error"] for r in validated] == row["test_error"]
    lowest = min(validated, key=lambda r: r["val_error"])
    assert document["models"]["best"] == lowest["folder"]
    for refit, sibling in zip(rows[2:], rows[:2], strict=True):
        assert refit["temperature"] == sibling["temperature"] and "val_error" not in refit
        card = read_card(folder / refit["folder"])
        assert card.validation is None and card.calibration is not None
    card = read_card(folder / rows[0]["folder"])
    assert (
        card.origin["study"] == "shapes" and card.origin["trial"] == winner and card.origin["seed"] == "1001"
    )


def test_predict_on_the_test_files_gives_what_confirm_counted(
    confirmation: Confirmation, readable: None, pictures: Path, ssl_tune: Command, tmp_path: Path
) -> None:
    home, document = confirmation
    folder = home.study_folder("shapes")
    for row in document["models"]["rows"]:
        table = tmp_path / f"{Path(row['folder']).name}.csv"
        done = ssl_tune("predict", folder / row["folder"], pictures / "test", "-o", table)
        assert done.code == 0, done
        found = pd.read_csv(table)
        true = [Path(file).parent.name for file in found["file"]]
        counts = [
            [int(((found["label"] == guess) & (np.asarray(true) == name)).sum()) for guess in "abc"]
            for name in "abc"
        ]
        who, _, rest = row["run"].partition("/confirm-")
        result = json.loads((folder / "confirm" / who / f"seed-{rest}" / "result.json").read_text())
        assert counts == result["test_confusion"]
        assert 100 * float((found["label"] != true).mean()) == pytest.approx(row["test_error"])
        assert "12 images: " in done.out and str(table) in done.out


def test_confirming_again_makes_nothing_anew(confirmation: Confirmation, ssl_tune: Command) -> None:
    home, document = confirmation
    folder = home.study_folder("shapes") / "models"
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    words = ("--seeds", 2, "--baseline", "plain", "--refit", "--models")
    done = ssl_tune("confirm", "shapes", *words, "--home", home.path)
    assert done.code == 0, done
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()} == before
    best = home.study_folder("shapes") / document["models"]["best"]
    assert f"ssl-tune predict {best} IMAGES" in done.out
    assert len(logged_models(home)) == 4


def test_confirmations_log_their_models_in_mlflow_without_pickles(confirmation: Confirmation) -> None:
    home, document = confirmation
    client, runs, models = client_of(home), mlflow_runs(home, "shapes"), logged_models(home)
    assert len(models) == 4
    for row in document["models"]["rows"]:
        model = models[Path(row["folder"]).name]
        who, _, rest = row["run"].partition("/")
        run = runs[f"trial {who} {rest}"]
        assert model.source_run_id == run.info.run_id and str(model.status) == "READY"
        metrics = {metric.key: metric.value for metric in client.get_logged_model(model.model_id).metrics}
        assert metrics["test/error"] == row["test_error"]
        assert ("val/error" in metrics) is not row["refit"]
        assert metrics.get("val/error", row.get("val_error")) == row.get("val_error")
        assert metrics["calibration/expected_error"] >= 0
        assert model.tags["ssl.study"] == "shapes" and model.tags["ssl.trial"] == who
        if not row["refit"]:
            assert mlflow_steps(home, run) == list(range(1, 7))  # no point is there twice
        assert len(mlflow_steps(home, run, "test/error")) == 1
    place = Path(models[Path(document["models"]["best"]).name].artifact_location.removeprefix("file://"))
    files = [p for p in place.rglob("*") if p.is_file()]
    assert any(p.name == "model.safetensors" for p in files) and (place / "MLmodel").is_file()
    assert not [p for p in files if p.suffix in (".pkl", ".pickle", ".pt", ".bin")]
    described = (place / "MLmodel").read_text()
    assert "binary" in described and "confidence" in described and "input_example" in described


def test_a_model_that_mlflow_has_is_not_sent_twice(confirmation: Confirmation, tmp_path: Path) -> None:
    home = copy_home(confirmation[0], tmp_path / "again")
    study = load_study("shapes", home=home.path)
    with EventLog(study.folder.events_db) as log:
        log.mark_undelivered([run for run in log.runs() if "/confirm-" in run], kind="model")
        assert log.pending() == 4
    before = logged_models(home)
    delivery = tune.sync("shapes", home=home.path)
    assert delivery.pending == 0 and not delivery.refused
    after = logged_models(home)
    assert {n: m.model_id for n, m in after.items()} == {n: m.model_id for n, m in before.items()}
    for name, run in mlflow_runs(home, "shapes").items():
        if " confirm-" in name:
            assert len(mlflow_steps(home, run, "test/error")) == 1


def test_a_model_is_registered_with_the_study_s_tags_as_candidate(
    confirmation: Confirmation, ssl_tune: Command, tmp_path: Path
) -> None:
    home = copy_home(confirmation[0], tmp_path / "registered")
    for _ in range(2):  # the second time it is there
        done = ssl_tune("export", "shapes", "--register", "animals", "--home", home.path)
        assert done.code == 0, done
        assert "registered as animals, version 1, alias candidate" in done.out
    client = client_of(home)
    version = client.get_model_version_by_alias("animals", "candidate")
    assert version.version in (1, "1") and len(client.search_model_versions("name = 'animals'")) == 1
    study = load_study("shapes", home=home.path)
    wanted = {"ssl.study": "shapes", "ssl.method": "pseudo_label", "ssl.labels": "12"}
    assert wanted.items() <= version.tags.items() and "ssl.split_hash" in version.tags
    best = next(
        r for r in confirmation[1]["models"]["rows"] if r["folder"] == confirmation[1]["models"]["best"]
    )
    who, _, rest = best["run"].partition("/")
    assert version.run_id == mlflow_runs(home, study.name)[f"trial {who} {rest}"].info.run_id


def test_what_cannot_be_registered(finished: Home, ssl_tune: Command) -> None:
    done = ssl_tune("export", "shapes", "--register", "animals", "--home", finished.path)
    assert done.code == 2 and "`ssl-tune confirm shapes --models --home " in done.err


@pytest.fixture(scope="module")
def served(confirmation: Confirmation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The best model behind `mlflow models serve`, in this environment; yields its address."""
    home, document = confirmation
    model, port = logged_models(home)[Path(document["models"]["best"]).name], free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model.model_id}"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": home.default_tracking_uri}
    environment |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)  # the model brings its own code
    with log.open("w") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=words, env=environment, cwd=log.parent, start_new_session=True
        )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(answers, process, seconds=300)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.timeout(600)
def test_a_served_model_answers_an_image_with_class_and_confidence(
    served: str, best: Path, readable: None, pictures: Path
) -> None:
    files = sorted((pictures / "test").rglob("*.png"))[::3]
    rows = [[base64.b64encode(file.read_bytes()).decode()] for file in files]
    rows.append([base64.b64encode(b"no image").decode()])
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    request = urllib.request.Request(
        f"{served}/invocations", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        *good, bad = json.loads(answer.read())["predictions"]
    expected = ssl_core.load(best).predict(files)
    assert [row["label"] for row in good] == list(expected["label"])
    np.testing.assert_allclose([row["confidence"] for row in good], expected["confidence"], rtol=1e-4)
    assert all(row["error"] is None for row in good)
    assert bad["label"] is None and "cannot identify image" in bad["error"]


def test_export_takes_the_best_of_the_confirmation(
    confirmation: Confirmation, best: Path, ssl_tune: Command, tmp_path: Path
) -> None:
    home = confirmation[0]
    done = ssl_tune("export", "shapes", "--model", tmp_path / "model", "--home", home.path)
    assert done.code == 0, done
    assert "the best of its seeds by validation" in done.err
    assert f"ssl-tune predict {tmp_path / 'model'} IMAGES" in done.out
    assert (tmp_path / "model/model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()
    mine, theirs = read_card(tmp_path / "model"), read_card(best)
    assert mine.model_copy(update={"created": theirs.created}) == theirs


def test_export_trains_a_model_where_there_is_none_and_says_so(
    finished: Home, readable: None, home: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    copy_home(finished, home.path)
    done = ssl_tune("export", "shapes", "--model", tmp_path / "model")
    assert done.code == 0, done
    assert "the best configuration is trained now, and the test set is read for it" in done.err
    card, document = read_card(tmp_path / "model"), tune.export("shapes", home=home.path)
    assert card.validation is not None and card.validation.error == document["expect"]["val_error"]
    assert len(home.test_readings.read_text().splitlines()) == 1
    assert card.test is not None and card.test.images == 12


def test_train_makes_a_model(
    readable: None, pictures: Path, ready_home: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    words = ["train", "--method", "supervised", "--dataset", f"folder:{pictures}", "--labels", "12"]
    words += ["--network", "wrn-10-1", "--epochs", "2", "--set", "steps_per_epoch=2", "--set", "threads=1"]
    done = ssl_tune(*words, "--model", tmp_path / "model")
    assert done.code == 2 and "--model makes a model for others" in done.err and "--final" in done.err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    done = ssl_tune(*words, "--final", "--model", tmp_path / "other")
    assert done.code == 2 and "holds other files" in done.err
    assert not (ready_home.path / "runs").exists()  # refused before it was trained
    done = ssl_tune(*words, "--final", "--model", tmp_path / "model")
    assert done.code == 0, done
    assert f"ssl-tune predict {tmp_path / 'model'} IMAGES" in done.out
    assert ssl_core.load(tmp_path / "model").classes == ("a", "b", "c")


def test_a_damaged_image_is_a_row_and_exit_4(best: Path, ssl_tune: Command, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", test=1, train=2)
    (images / "train" / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    done = ssl_tune("predict", best, images / "train", "--top", 2)
    assert done.code == 4, done
    rows = [line.split(",") for line in done.out.splitlines()]
    assert rows[0] == ["file", "label", "confidence", "confidence_raw", "label_2", "confidence_2", "error"]
    assert len(rows) == 8 and sum(row[1] == "" for row in rows[1:]) == 1
    (bad,) = [row for row in rows[1:] if row[1] == ""]
    assert bad[0].endswith("bad.png") and bad[-1]
    assert "7 images: " in done.err and "cannot be read: " in done.err
    done = ssl_tune("predict", best, images / "train", "--json")
    assert done.code == 4, done
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [row["label"] for row in found] == [row[1] or None for row in rows[1:]]
    assert [row["file"] for row in found] == [row[0] for row in rows[1:]]


@pytest.mark.parametrize("label", ["..", ".", "", "../../out", "/out", "a\0b"])
def test_copies_by_class_lie_in_the_folder_whatever_the_class_is_called(tmp_path: Path, label: str) -> None:
    (tmp_path / "photo.png").write_bytes(b"a picture")
    table = pd.DataFrame({"file": [str(tmp_path / "photo.png")] * 2, "label": [label, label]})
    ByClass(tmp_path / "place" / "sorted").write(table)
    made = sorted(p.relative_to(tmp_path).parts for p in tmp_path.rglob("*") if p.is_file())
    assert [(parts[0], parts[-1]) for parts in made] == [
        ("photo.png", "photo.png"),
        ("place", "photo-2.png"),
        ("place", "photo.png"),
    ]
    assert all(parts[:2] == ("place", "sorted") and len(parts) == 4 for parts in made[1:])


def test_tables_copies_and_sheets(best: Path, ssl_tune: Command, tmp_path: Path) -> None:
    images = make_pictures(tmp_path / "images", test=1, train=3)
    words = (best, images / "train", "--by-class", tmp_path / "sorted", "--sheet", tmp_path / "sheet.png")
    done = ssl_tune("predict", *words, "-o", images / "table.parquet")
    assert done.code == 0, done
    table = pd.read_parquet(images / "table.parquet")
    assert set(table["file"]) == {f"train/{c}/{n:03d}.png" for c in "abc" for n in range(3)}
    assert table["error"].isna().all() and table["confidence"].between(1 / 3, 1).all()
    copies = sorted(p.relative_to(tmp_path / "sorted") for p in (tmp_path / "sorted").rglob("*.png"))
    assert len(copies) == 9  # files of one name from three folders
    counts = table["label"].value_counts().to_dict()
    assert {p.name: len(list(p.iterdir())) for p in (tmp_path / "sorted").iterdir()} == counts
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 600
    again = ssl_tune("predict", *words)
    assert again.code == 2 and "not an empty folder" in again.err


def test_a_table_of_predictions_that_a_person_has_mended_is_a_data_set(
    best: Path, ssl_tune: Command, tmp_path: Path
) -> None:
    images = make_pictures(tmp_path / "images", test=1, train=8)
    (images / "train" / "a" / "bad.png").write_bytes(b"no image")
    for ending in ("csv", "parquet"):
        table = images / f"labels.{ending}"
        assert ssl_tune("predict", best, images / "train", "--top", 2, "-o", table).code == 4
        read, write = (pd.read_csv, "to_csv") if ending == "csv" else (pd.read_parquet, "to_parquet")
        found = read(table)
        found = found[found["error"].isna()]
        found["label"] = [Path(file).parent.name for file in found["file"]]  # a person looked at each
        found.loc[found.index[:2], "label"] = None  # and could not tell these
        getattr(found, write)(table, index=False)
        look = ssl_tune("data", f"table:{table}", "--json")
        assert look.code == 0, look
        assert look.document["classes"] == ["a", "b", "c"] and look.document["protocol"] == "real"
        assert look.document["counts"]["train"] == [6, 8, 8] and look.document["counts"]["unlabelled"] == 2


def test_the_images_without_a_label_of_a_study(
    confirmation: Confirmation, best: Path, ssl_tune: Command, tmp_path: Path
) -> None:
    """60 training images: 12 labelled, 12 for validation, the labels of 36 are hidden."""
    home, table = confirmation[0], tmp_path / "labels.csv"
    done = ssl_tune("predict", best, "--unlabelled-of", "shapes", "-o", table, "--home", home.path)
    assert done.code == 0, done
    found = pd.read_csv(table)
    study = load_study("shapes", home=home.path)
    from ssl_core.preparation import prepare

    _, data, split = prepare(study.spec.base_config())
    hidden = np.setdiff1d(split.unlabelled, split.labelled)
    assert data.rows is not None and len(found) == len(hidden) == 36
    root = study.spec.config["dataset"].removeprefix("folder:")
    assert list(found["file"]) == [f"{root}/{data.rows.files[row]}" for row in hidden]
    assert list(found["label"]) == list(ssl_core.load(best).predict(data.images[hidden])["label"])
    sheet = tmp_path / "labels-least-certain.png"
    assert str(sheet) in done.out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.height > 4 * 112
    again = tune.predict(best, unlabelled_of="shapes", home=home.path)
    assert again.table is not None and list(again.table["label"]) == list(found["label"])


def test_bad_input_of_predict_is_one_message(
    confirmation: Confirmation, best: Path, pictures: Path, ssl_tune: Command, tmp_path: Path
) -> None:
    home = confirmation[0]
    newer, other, pickled = (tmp_path / name for name in ("newer", "other", "pickled"))
    for folder in (newer, other, pickled):
        shutil.copytree(best, folder)
    text = (best / CARD_FILE).read_text()
    (newer / CARD_FILE).write_text(text.replace('"format": 1', '"format": 9'))
    (other / CARD_FILE).write_text(text.replace('"c"\n', '"cow"\n'))
    (pickled / "model.safetensors").rename(pickled / "model.pt")
    train = pictures / "train"
    for words, said in (
        ((tmp_path / "absent", train), "does not exist"),
        ((pictures, train), "there is no model.json in this folder"),
        ((newer, train), "has format 9"),
        ((pickled, train), "model.pt is refused: pickled weights"),
        ((best, tmp_path / "absent.png"), "absent.png does not exist"),
        ((best,), "name the images to predict"),
        ((best, train, "--unlabelled-of", "shapes"), "one of the two"),
        ((best, train, "--top", 0), "top = 0"),
        ((best, train, "-o", tmp_path / "table.xlsx"), "ends in .csv or .parquet"),
        ((best, train, "-o", tmp_path / "no" / "table.csv"), "does not exist. Make it first"),
        ((best, train, "--sheet", tmp_path / "sheet.jpg"), "name a PNG file"),
        ((best, train, "--device", "tpu"), "device = 'tpu'"),
        ((best, train, "--json", "-o", tmp_path / "table.csv"), "Give one of them"),
        ((best, "--unlabelled-of", "nothing", "--home", home.path), "nothing"),
        (
            (other, "--unlabelled-of", "shapes", "--home", home.path),
            "the model lacks 'c'; the study lacks 'cow'",
        ),
    ):
        done = ssl_tune("predict", *words)
        assert done.code == 2 and said in done.err, (words, done)
        assert done.out == "" and len(done.err.strip().splitlines()) == 1, done
    assert not list(tmp_path.glob("*.csv")) and not list(tmp_path.glob(".*"))
