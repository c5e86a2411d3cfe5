"""The page of a study: one file that opens without a network, and says what the study's records say."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tune
from ssl_core.methods.base import Panel
from ssl_core.pictures.file import Picture, save
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, copy_home, make_study, mlflow_runs
from tests.tune.servers import needed
from tune.confirmation.confirm import confirm
from tune.delivery.sender import deliver
from tune.findings.ranking import resolution
from tune.findings.study import load_study
from tune.page.parts import Content, Hidden, Part, Table
from tune.page.template import page
from tune.store.event_log import EventLog
from tune.store.home import Home

Command = Callable[..., Done]

SECTIONS = [
    "Confirmation",
    "Best configurations",
    "How the search went",
    "Searched parameters",
    "Learning curves",
    "Pseudo-labels",
    "What the method does",
    "Errors by class",
    "Environment and search space",
]


class Read(HTMLParser):
    """A page taken apart: text, sections, tables, pictures, and whatever it would load or link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.images: list[Image.Image] = []
        self.elsewhere: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "action"):
                self._loaded(value)

    def _loaded(self, where: str) -> None:
        kind, _, data = where.partition(";base64,")
        if kind != "data:image/png":
            self.elsewhere.append(where)
            return
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
        self.images.append(image)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and self.open[-1] == "h2":
            self.sections.append(data)
        if self.open and self.open[-1] == "figcaption":
            self.captions.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, *head: str) -> list[list[str]]:
        """The rows of the table that begins with these columns."""
        (found,) = [t for t in self.tables if t[0][: len(head)] == list(head)]
        return found[1:]


def read(path: Path | str) -> Read:
    return Read(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def reported(
    finished: Home, no_figures: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, dict[str, Any]]:
    """The finished study in a home of its own, with its page."""
    home = copy_home(finished, tmp_path_factory.mktemp("reported") / "home")
    return home, tune.report("shapes", home=home.path)


def test_the_page_lies_in_the_study_s_folder_and_needs_nothing_from_elsewhere(
    reported: tuple[Home, dict[str, Any]],
) -> None:
    home, document = reported
    path = home.study_folder("shapes") / "report.html"
    assert document["path"] == str(path) and document["bytes"] == path.stat().st_size
    found = read(path)
    assert found.elsewhere == [] and not found.tags & {"script", "link", "iframe", "object"}
    text = path.read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:|//)", text)
    assert "url(" not in text and "@import" not in text
    assert str(home.path) not in text and "test/error" not in text  # the test set was not read


def test_every_section_is_there_and_every_picture_can_be_seen(
    reported: tuple[Home, dict[str, Any]],
) -> None:
    found = read(reported[1]["path"])
    assert found.sections == SECTIONS
    assert [c.split(",")[0].split(" (")[0].split(".")[0] for c in found.captions] == [
        "Every trial in the order in which it was begun",
        "Where early stopping looks: how many trials came to each rung",
        "Validation error against each searched parameter",
        "Validation error over epochs",
        f"Trial {load_study('shapes', home=reported[0].path).best()['trial']}: validation error",  # type: ignore[index]
        "How many unlabelled images were used and how many of their labels were right",
        "How often the images of a class",
    ]
    assert len(found.images) == len(found.captions)
    for image in found.images:
        assert image.format == "PNG" and min(image.size) > 200
        assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is drawn


def test_tables_and_verdict_say_what_the_records_say(reported: tuple[Home, dict[str, Any]]) -> None:
    home, document = reported
    study, found = load_study("shapes", home=home.path), read(document["path"])
    records = {r.trial: r for r in study.records()}
    best = study.best()
    assert best is not None
    rows = found.table("trial", "state", "val/error %")
    assert len(rows) == 6 and rows[0][0] == best["trial"]
    assert [row[1] for row in rows] == ["completed"] * 3 + ["stopped early"] * 3
    for trial, state, error, loss, epoch, seconds, *values in rows:
        record = records[trial]
        assert record.val_error is not None
        assert state == record.state.replace("_", " ")
        assert error == f"{record.val_error:.2f} ± {resolution(12, record.val_error):.2f}"
        assert loss == f"{record.val_loss:.4f}" and int(epoch) == record.epoch
        assert seconds == f"{record.seconds:.1f}"
        assert [float(v) for v in values] == [record.params["lr"], record.params["warmup_epochs"]]
    environment = dict(next(t for t in found.tables if t[0][0] == "begun"))
    assert environment["data split"].startswith(study.spec.split_hash or "?")
    assert environment["budget"] == "6 epochs of 4 steps" and environment["torch"]
    assert found.table("parameter", "range")[0][0] == "lr"
    assert f"Unconfirmed: trial {best['trial']} is the best of 6 trials" in found.words
    assert "12 validation images resolve about" in found.words
    assert "3 trials ran the full budget, too few to say which parameter matters" in found.words


def test_errors_by_class_are_those_of_the_best_trial(reported: tuple[Home, dict[str, Any]]) -> None:
    home, document = reported
    study = load_study("shapes", home=home.path)
    best = study.best()
    assert best is not None
    rows = read(document["path"]).table(
        "class", "validation images", "misclassified %", "most often taken for"
    )
    assert [row[:2] for row in rows] == [["a", "4"], ["b", "4"], ["c", "4"]]
    errors = [float(row[2]) for row in rows]
    assert sum(errors) / 3 == pytest.approx(best["val_error"], abs=0.01)
    for error, row in zip(errors, rows, strict=True):
        assert bool(row[3]) == (error > 0)


def test_the_page_is_an_artifact_of_the_study_s_run(reported: tuple[Home, dict[str, Any]]) -> None:
    home, document = reported
    assert deliver(home.study_folder("shapes"), 240) == 0  # what `report` itself had no time for
    run = mlflow_runs(home)["shapes"]
    kept = home.artifacts / run.info.run_id / "artifacts" / "report.html"
    assert kept.read_bytes() == Path(document["path"]).read_bytes()
    assert run.info.status == "FINISHED"
    study = load_study("shapes", home=home.path)
    assert study.folder.state() == "finished" and not study.folder.is_locked()
    with EventLog(study.folder.events_db, read_only=True) as log:
        assert log.dead() == []


def test_after_a_confirmation_its_verdict_comes_first(
    finished: Home, readable: None, home: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    copy_home(finished, home.path)
    document = confirm("shapes", top=2, seeds=1, baseline="plain", home=home.path)
    path = tmp_path / "page.html"
    done = ssl_tune("report", "shapes", "-o", path)
    assert done.code == 0 and done.err == "" and str(path) in done.out
    assert path.read_bytes() == (home.study_folder("shapes") / "report.html").read_bytes()
    found = read(path)
    assert found.sections == SECTIONS and "Unconfirmed" not in found.words
    places = [found.words.index(s[0].upper() + s[1:]) for s in document["verdict"]]
    assert places == sorted(places) and places[-1] < found.words.index("1 fresh training seeds")
    rows = found.table("configuration", "searched")
    assert [row[0] for row in rows] == [
        *(f"trial {r['who']}" for r in document["rows"][:2]),
        "supervised baseline (untuned)",
    ]
    for shown, row in zip(rows, document["rows"], strict=True):
        assert float(shown[3].split()[0]) == pytest.approx(row["test_error"][0], abs=0.005)
    assert "Test error of each final model" in " ".join(found.captions)
    assert "test/error, supervised baseline (untuned)" in found.words


def test_a_study_that_was_interrupted_has_a_page_and_one_under_way_is_not_sent(
    copied: Home, ssl_tune: Command
) -> None:
    folder = load_study("shapes", home=copied.path).folder
    folder.set_state("interrupted")
    folder.lock()
    try:
        under_way = ssl_tune("report", "shapes", "--json")
    finally:
        folder.unlock()
    assert under_way.code == 0 and under_way.document["pending"] is None
    with EventLog(folder.events_db, read_only=True) as log:
        assert log.last("shapes", "artifact") is None
    document = ssl_tune("report", "shapes", "--json").document
    assert document["pending"] is not None and document["path"] == str(folder.path / "report.html")
    with EventLog(folder.events_db, read_only=True) as log:
        assert log.last("shapes", "artifact") is not None
    assert "The study is interrupted: this is how it stands." in read(document["path"]).words
    assert load_study("shapes", home=copied.path).status()["state"] == "interrupted"


def test_a_page_that_mlflow_cannot_get_is_owed(copied: Home, ssl_tune: Command) -> None:
    path = copied.study_folder("shapes") / "study.yaml"
    text = re.sub(r"tracking_uri: .*", "tracking_uri: http://127.0.0.1:9", path.read_text())
    path.write_text(re.sub(r"tracking_timeout: .*", "tracking_timeout: 0.0", text))
    done = ssl_tune("report", "shapes")
    assert done.code == 5 and "ssl-tune sync shapes" in done.out
    assert read(copied.study_folder("shapes") / "report.html").sections == SECTIONS


def test_a_study_without_a_finished_trial_has_no_page(copied: Home, ssl_tune: Command) -> None:
    folder, _ = make_study(copied, name="young", trials=3)
    done = ssl_tune("report", "young")
    assert done.code == 2 and done.out == ""
    assert "'young' has no finished trial with a result (0 of 3 begun)" in done.err
    assert "ssl-tune resume young" in done.err
    assert not (folder.path / "report.html").exists()


def test_what_cannot_be_written_is_said_before_anything_is_drawn(
    copied: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    for output, words in ((tmp_path / "no" / "page.html", "does not exist"), (tmp_path, "is a folder")):
        done = ssl_tune("report", "shapes", "-o", output)
        assert done.code == 2 and words in done.err
    assert not (copied.study_folder("shapes") / "report.html").exists()
    assert "no study 'shape'" in ssl_tune("report", "shape").err


def test_passwords_and_markup_in_errors_do_not_get_into_the_page() -> None:
    error = "OperationalError: <b>postgresql://me:hunter22@host/db</b> refused"
    parts = [Part("p", [error], [Table(["a"], [[error]]), Hidden("more", error)])]
    text = page(Content("s", "of", [("fact", error)], [error], parts))
    assert "hunter22" not in text and text.count("postgresql://me:***@host/db") == 5
    assert "<b>" not in text and Read(text).sections == ["p"]


def test_a_browser_shows_the_page_without_a_network(
    reported: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    needed("chromium", chromium and driver, "apt install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(Path(reported[1]["path"]).as_uri())
        shown = browser.execute_script(
            "return [...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width <= innerWidth)"
        )
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
        too_wide = browser.execute_script("return document.documentElement.scrollWidth > innerWidth")
        faults = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        browser.quit()
    assert len(shown) == 7 and all(shown)
    assert (faults, too_wide) == ([], False)
    assert all(name.startswith("data:") for name in loaded)


# The figures of a run


def png(path: Path | str) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def test_the_best_trial_s_figures_or_those_of_a_trial_of_one_s_choice(
    copied: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    study = load_study("shapes", home=copied.path)
    best = study.best()
    assert best is not None
    done = ssl_tune("figures", "shapes")
    place = study.folder.path / "figures" / f"trial-{best['trial']}"
    assert done.code == 0 and done.out.split() == [
        str(place / name) for name in ("learning_curves.png", "pseudo_labels.png", "confusion.png")
    ]
    assert all(min(png(path).size) > 200 for path in done.out.split())
    stopped = next(r.trial for r in study.records() if r.state == "stopped_early")
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)
    panel = Panel("perturbed", "image", images, ("cat 0.90", "cat 0.60"), (True, False))
    folder = study.folder.trials / stopped
    folder.mkdir(exist_ok=True)
    save(folder / "picture.npz", Picture("vat", 3, ("cat", "dog"), (panel,)))
    done = ssl_tune("figures", "shapes", "--trial", stopped, "-o", tmp_path / "out")
    assert {Path(path).name for path in done.out.split()} >= {"learning_curves.png", "picture.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {Path(p).name for p in done.out.split()}


def test_the_folder_of_a_training_has_figures_too(home: Home, ssl_tune: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--method", "vat", "--epochs", 3, "--out", out, "--set", "warmup_epochs=1"]
    small = {"steps_per_epoch": 2, "batch_size": 4, "mu": 1, "threads": 1, "network": "wrn-10-1"}
    settings = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    assert ssl_tune("train", *words, *settings).code == 0
    done = ssl_tune("figures", out)
    assert done.code == 0, done.err
    assert done.out.split() == [
        str(out / "figures" / n) for n in ("learning_curves.png", "confusion.png", "picture.png")
    ]
    assert all(min(png(path).size) > 200 for path in done.out.split())
    assert ssl_tune("train", "--resume", "--out", out).code == 0  # the figures are in nobody's way
    for words, message in (
        (["figures", out, "--trial", "1"], "one training"),
        (["figures", tmp_path], "is no folder of `ssl-tune train`"),
    ):
        done = ssl_tune(*words)
        assert done.code == 2 and message in done.err


def test_a_trial_that_is_not_there_and_one_without_an_epoch(copied: Home, ssl_tune: Command) -> None:
    make_study(copied, name="young", trials=3)
    for words, message in (
        (["shapes", "--trial", "9"], "--trial 9: the study 'shapes' has trials 0 to 5"),
        (["young"], "no trial with a result"),
        (["young", "--trial", "0"], "has no trial yet"),
        (["nobody"], "no study 'nobody'"),
    ):
        done = ssl_tune("figures", *words)
        assert done.code == 2 and message in done.err, done.err


def test_figures_name_what_they_show(copied: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from tune.figures import run

    shown = []
    monkeypatch.setattr(run, "save", lambda figure, path: shown.append(figure))
    run.figures("shapes", home=copied.path)
    curves, health, confusion = shown
    tag = load_study("shapes", home=copied.path).spec.dataset_tag
    assert tag.startswith("shapes-")
    assert curves.get_suptitle().endswith(f"of shapes: pseudo_label on {tag}, 12 labels")
    errors = curves.axes[0]
    assert errors.get_ylabel() == "validation images misclassified, %"
    assert errors.child_axes[0].get_ylabel() == "validation accuracy, %"
    assert confusion.axes[0].get_title("left") == "Confusion matrix, validation images"
    assert [t.get_text() for t in health.axes[2].get_legend().get_texts()][:3] == ["a", "b", "c"]


def test_a_page_cannot_be_made_of_nothing(home: Home) -> None:
    with pytest.raises(ConfigError, match="There is no study there yet"):
        tune.report("any", home=home.path)
