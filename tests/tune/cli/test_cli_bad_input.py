"""Bad input: exit code 2, one message that says what, where, what is accepted and what to do, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.tune.helpers import Done, make_pictures, make_study
from tune.store.home import Home

Command = Callable[..., Done]


def check(done: Done, home: Home, says: Sequence[str]) -> None:
    """The command was refused in one line, and no study is left."""
    assert done.code == 2, done
    assert done.out == ""
    lines = [line for line in done.err.splitlines() if not line.startswith("study ")]  # what it was doing
    assert len(lines) == 1 and lines[0].startswith("ssl-tune: "), done.err
    for words in says:
        assert words in lines[0], lines[0]
    assert home.study_names() == [] and not any(home.studies.glob("*"))


OPTIONS: list[tuple[str, list[str]]] = [
    # unknown names, each with the nearest known one
    (
        "--method psuedo_label",
        ["unknown method 'psuedo_label'", "Did you mean 'pseudo_label'?", "supervised"],
    ),
    ("--dataset cifr10", ["unknown dataset 'cifr10'", "Did you mean 'cifar10'?", "folder:PATH"]),
    ("--network wrn-11-1", ["network = 'wrn-11-1'", "wrn-DEPTH-WIDTH", "wrn-28-2"]),
    (
        "--set pseudo_label.treshold=0.9",
        ["--set", "unknown parameter 'pseudo_label.treshold'", "Did you mean 'pseudo_label.threshold'?"],
    ),
    ("--set learning_rate=0.1", ["--set", "unknown parameter 'learning_rate'", "Known: ", "lr"]),
    ("--method supervised --set pseudo_label.threshold=0.9", ["unknown parameter 'pseudo_label.threshold'"]),
    ("--set method=supervised", ["--set", "unknown parameter 'method'"]),
    ("--sampler tpee", ["unknown sampler 'tpee'", "Did you mean 'tpe'?", "random"]),
    # values out of range
    ("--set pseudo_label.threshold=1.5", ["pseudo_label.threshold = 1.5", "less than or equal to 1"]),
    ("--set lr=0", ["lr = 0", "greater than 0"]),
    ("--set lr=.nan", ["lr = nan", "finite number"]),
    ("--set batch_size=1", ["batch_size = 1", "greater than or equal to 2"]),
    ("--set seed=-1", ["seed = -1", "greater than or equal to 0"]),
    ("--set data.image_size=4", ["data.image_size", "4", "8"]),
    ("--labels 0", ["labels = 0", "greater than or equal to 1"]),
    ("--epochs 0", ["epochs = 0", "greater than or equal to 1"]),
    ("--seed -1", ["seed = -1", "greater than or equal to 0"]),
    ("--trials 0", ["trials = 0", "between 1 and 1000000"]),
    ("--concurrent 0", ["concurrent = 0", "between 1 and 10000"]),
    ("--concurrent -1", ["concurrent = -1", "between 1 and 10000"]),
    ("--max-failures -1", ["max_failures = -1", "between 0 and 1000"]),
    ("--gpus-per-trial -1", ["gpus_per_trial = -1.0", "between 0 and 1"]),
    ("--gpus-per-trial 2", ["gpus_per_trial = 2.0: must be between 0 and 1"]),
    ("--gpus-per-trial 1", ["gpus_per_trial = 1: this machine has", "--gpus-per-trial", "--address"]),
    ("--time-budget 0", ["--time-budget", "90s, 15m, 2h"]),
    ("--time-budget -5", ["--time-budget '-5'", "90s, 15m, 2h"]),
    ("--time-budget soon", ["--time-budget 'soon'", "90s, 15m, 2h"]),
    ("--tracking-timeout 5x", ["--tracking-timeout '5x'", "90s, 15m, 2h"]),
    # networks and their weights
    ("--network resnet19", ["network = 'resnet19'", "timm:NAME", "did you mean resnet18"]),
    ("--network torchvision:mobilnet_v2", ["Did you mean 'torchvision:mobilenet_v2'?"]),
    ("--network torchvision:inception_v3", ["it cannot take images of 16x16 pixels", "data.image_size"]),
    (
        "--network resnet18 --set backbone.weights=nowhere.pt",
        ["backbone.weights = 'nowhere.pt'", "No such file"],
    ),
    ("--set backbone.weights=default", ["backbone.weights = 'default'", "comes with no library"]),
    ("--set backbone.weigths=x", ["--set", "unknown parameter", "Did you mean 'backbone.weights'?"]),
    ("--set optimizer=adam", ["optimizer = 'adam'", "'sgd' or 'adamw'"]),
    # wrong types
    ("--set lr=fast", ["lr = 'fast'", "valid number"]),
    ("--set batch_size=1.5", ["batch_size = 1.5", "valid integer"]),
    ("--set pseudo_label.accumulate=1", ["pseudo_label.accumulate = 1", "valid boolean"]),
    ("--set data.image_size=abc", ["data.image_size = 'abc'", "valid integer"]),
    ("--set dataset=5", ["dataset = 5", "valid string"]),
    ("--set lr", ["--set 'lr'", "name=value"]),
    ("--set =3", ["--set", "unknown parameter ''"]),
    ("--set lr=[1", ["--set 'lr=[1'", "line 1", "not YAML"]),
    # labels and warm-up
    ("--labels 101", ["101 is not a multiple of the 10 classes", "100 or 110"]),
    ("--labels 2000", ["labels = 2000", "1438 training images", "Lower"]),
    ("--labels 1430 --set data.valid=10", ["ask for 1440", "training images", "Lower"]),
    ("--set data.valid=7", ["validation images 7 is not a multiple of the 10 classes"]),
    ("--epochs 6 --set warmup_epochs=6", ["warmup_epochs = 6", "run of 6 epochs", "at most 5"]),
    ("--epochs 6 --set warmup_epochs=9", ["warmup_epochs = 9", "run of 6 epochs", "at most 5"]),
    ("--epochs 3 --set stop_after_epoch=4", ["stop_after_epoch = 4", "3 epochs"]),
    ("--set warmup_epochs=2 --set pseudo_label.threshold=0.9", ["--set", "nothing is left to search"]),
    # names and places
    ("--name ../x", ["'../x' cannot be a study's name", "letters, digits"]),
    ("--name a/b", ["'a/b' cannot be a study's name", "no folders"]),
    ("--name .hidden", ["'.hidden' cannot be a study's name"]),
    ("--name=", ["'' cannot be a study's name"]),
    (f"--name {'n' * 101}", ["cannot be a study's name", "at most 100"]),
    ("--tracking-uri mlruns", ["tracking URI 'mlruns'", "sqlite:///mlflow.db"]),
    ("--tracking-uri ftp://host", ["tracking URI 'ftp://host'", "http(s)://HOST"]),
    ("--space nowhere.yaml", ["--space nowhere.yaml", "no such file", "wide"]),
    ("--study nowhere.yaml", ["--study nowhere.yaml", "no such file"]),
    ("--dataset folder:", ["'folder:' names no folder", "folder:PATH"]),
    ("--dataset folder:nowhere", ["nowhere does not exist", "PATH/train/<class>/*"]),
]


@pytest.mark.parametrize(("options", "says"), OPTIONS, ids=[o for o, _ in OPTIONS])
@pytest.mark.parametrize("verb", ["search", "plan"])
def test_an_option_that_cannot_be_is_refused_before_anything_is_made(
    ssl_tune: Command, home: Home, verb: str, options: str, says: list[str]
) -> None:
    check(ssl_tune(verb, *options.split()), home, says)
    assert not home.path.exists()


TRAIN = [
    ("--method psuedo_label", ["Did you mean 'pseudo_label'?"]),
    ("--dataset cifr10", ["Did you mean 'cifar10'?"]),
    ("--set learning_rate=1", ["--set", "unknown parameter 'learning_rate'"]),
    ("--set pseudo_label.threshold=2", ["pseudo_label.threshold = 2"]),
    ("--set data.image_size=abc", ["data.image_size = 'abc'", "valid integer"]),
    ("--labels 101", ["not a multiple of the 10 classes"]),
    ("--epochs 2 --set warmup_epochs=2", ["warmup_epochs = 2", "at most 1"]),
    ("--resume", ["--resume", "--out"]),
    ("--resume --out nowhere", ["nowhere holds no run", "leave --resume out"]),
    ("--config nowhere.yaml", ["--config nowhere.yaml", "no such file"]),
    ("--set device=cuda", ["device = 'cuda'", "device=cpu"]),
]


@pytest.mark.parametrize(("options", "says"), TRAIN, ids=[o for o, _ in TRAIN])
def test_train_refuses_what_search_refuses(
    ssl_tune: Command, home: Home, monkeypatch: pytest.MonkeyPatch, options: str, says: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check(ssl_tune("train", *options.split()), home, says)
    assert not home.path.exists()


FILES: list[tuple[str, str, list[str]]] = [
    ("--study", "method: supervised\ntrials: [1\n", ["file.yaml, line 3", "not YAML"]),
    ("--study", "method: supervised\nmethod: vat\n", ["file.yaml, line 2", "'method' stands twice"]),
    ("--study", "trails: 5\n", ["file.yaml", "unknown key 'trails'", "Did you mean 'trials'?"]),
    ("--study", "trials: many\n", ["file.yaml", "trials = 'many'", "integer is expected"]),
    ("--study", "trials: true\n", ["file.yaml", "trials = True", "integer is expected"]),
    ("--study", "time-budget: -3\n", ["--time-budget", "90s, 15m, 2h"]),
    ("--study", "time-budget: .nan\n", ["--time-budget", "90s, 15m, 2h"]),
    ("--study", "set: [lr]\n", ["file.yaml", "set = ['lr']", "a mapping"]),
    ("--study", "set: {lrr: 1}\n", ["unknown parameter 'lrr'"]),
    ("--study", "- method\n", ["file.yaml", "mapping of options"]),
    ("--study", "\x80", ["file.yaml", "UTF-8"]),
    ("--space", "method: pseudo_label\ndefault:\n  lr: {low: 1\n", ["file.yaml, line 4", "not YAML"]),
    ("--space", "method: supervised\ndefault: {}\n", ["file.yaml, line 1", "method = 'supervised'"]),
    ("--space", "\x80", ["file.yaml", "UTF-8"]),
    ("--config", "method: pseudo_label\nlr: {\n", ["file.yaml, line 3", "not YAML"]),
    ("--config", "method: pseudo_label\nepoch: 3\n", ["file.yaml", "unknown key 'epoch'", "'epochs'"]),
    ("--config", "lr: 0.1\n", ["file.yaml", "method is missing", "pseudo_label"]),
    (
        "--config",
        "method: supervised\npseudo_label: {threshold: 0.9}\n",
        ["file.yaml", "--method pseudo_label"],
    ),
    ("--config", "format: 7\nconfig: {}\n", ["file.yaml", "format 7", "reads 1"]),
    ("--config", "format: 1\n", ["file.yaml", "`config` is missing"]),
    ("--config", "just words\n", ["file.yaml", "mapping of `name: value`"]),
    ("--config", "\x80", ["file.yaml", "UTF-8"]),
]


@pytest.mark.parametrize(("option", "text", "says"), FILES)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(
    ssl_tune: Command, home: Home, tmp_path: Path, option: str, text: str, says: list[str]
) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(text.encode("latin-1"))
    check(ssl_tune("train" if option == "--config" else "search", option, path), home, says)
    assert not home.path.exists()


def grow(path: Path, side: int) -> None:
    from PIL import Image

    Image.new("RGB", (side, side)).save(path)


BROKEN: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("empty", lambda f: [p.rename(f.parent / p.name) for p in list(f.iterdir())], ["lacks train/"]),
    (
        "class in test only",
        lambda f: (f / "test" / "zebra").mkdir(),
        ["'zebra' is in test/ but not in train/"],
    ),
    (
        "few images",
        lambda f: [p.unlink() for p in (f / "train/b").glob("*.png") if p.name != "000.png"],
        ["'b'", "has 1"],
    ),
    ("unreadable", lambda f: (f / "train/b/003.png").write_bytes(b"x"), ["train/b/003.png cannot be read"]),
    (
        "empty class",
        lambda f: [p.unlink() for p in (f / "train/b").iterdir()],
        ["'b' has no image", "train/b/"],
    ),
    ("no test image", lambda f: [p.unlink() for p in f.glob("test/*/*")], ["test/ has no image"]),
]


@pytest.mark.parametrize(("spoil", "says"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_data_folder_that_cannot_be_used_is_refused(
    ssl_tune: Command, home: Home, tmp_path: Path, spoil: Callable[[Path], object], says: list[str]
) -> None:
    folder = make_pictures(tmp_path / "data")
    spoil(folder)
    options = ("--dataset", f"folder:{folder}", "--labels", 6, "--network", "wrn-10-1", "--epochs", 3)
    check(ssl_tune("search", *options), home, [str(folder), *says])
    assert not home.path.exists()


def test_images_of_several_sizes_are_taken_with_an_image_size(
    ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    folder = make_pictures(tmp_path / "data")
    grow(folder / "train/c/007.png", 9)
    options = ("--dataset", f"folder:{folder}", "--labels", 6, "--network", "wrn-10-1", "--epochs", 3)
    assert ssl_tune("plan", *options, "--set", "data.image_size=8").code == 0


def test_labels_must_be_said_for_a_folder(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    folder = make_pictures(tmp_path / "data")
    check(ssl_tune("search", "--dataset", f"folder:{folder}"), home, ["labels is missing", "say how many"])


@pytest.mark.parametrize("verb", ["search", "train"])
@pytest.mark.parametrize("place", ["/proc/nothing", "file/below", "file"])
def test_a_home_that_cannot_be_written_is_refused(
    ssl_tune: Command, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    done = ssl_tune(verb, "--home", place, "--epochs", 2)
    check(done, home, ["the home folder", place, "cannot be used", "--home or SSL_TUNE_HOME"])
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_name_that_is_taken_offers_resume_and_leaves_the_study_alone(ssl_tune: Command, home: Home) -> None:
    folder, _ = make_study(home, name="mine")
    before = (folder.path / "study.yaml").read_bytes()
    done = ssl_tune("search", "--name", "mine", "--trials", 3)
    assert done.code == 2 and done.out == ""
    assert "'mine' exists already" in done.err and "ssl-tune resume mine" in done.err and "--name" in done.err
    assert (folder.path / "study.yaml").read_bytes() == before and not folder.is_locked()


@pytest.mark.parametrize("verb", ["status", "trials", "resume", "export", "confirm"])
def test_a_study_that_does_not_exist_lists_those_that_do(ssl_tune: Command, home: Home, verb: str) -> None:
    check(ssl_tune(verb, "mine"), home, ["no study 'mine'", str(home.path), "no study there yet"])
    assert not home.path.exists()
    make_study(home, name="mime")
    make_study(home, name="other")
    done = ssl_tune(verb, "mine")
    assert done.code == 2 and done.out == ""
    assert "Did you mean 'mime'?" in done.err and "mime, other" in done.err
    assert ssl_tune(verb, "../mine").code == 2


def test_a_study_without_results_cannot_be_exported_or_confirmed(ssl_tune: Command, home: Home) -> None:
    make_study(home, name="young")
    done = ssl_tune("export", "young", "-o", home.path / "best.yaml")
    assert done.code == 2 and "no trial with a result" in done.err and "ssl-tune resume young" in done.err
    assert not (home.path / "best.yaml").exists()
    done = ssl_tune("confirm", "young", "--top", 2)
    assert done.code == 2 and "--top 2" in done.err and "0 trials with a result" in done.err
    done = ssl_tune("confirm", "young", "--seeds", 0)
    assert done.code == 2 and "at least 1" in done.err


def test_a_damaged_study_file_is_named(ssl_tune: Command, home: Home) -> None:
    folder, _ = make_study(home, name="mine")
    path = folder.path / "study.yaml"
    path.write_text(path.read_text().replace("trials: 6", "trials: six"))
    for verb in ("status", "resume", "trials"):
        done = ssl_tune(verb, "mine")
        assert done.code == 6 and str(path) in done.err and "trials" in done.err and "damaged" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("search --trails 3", "No such option: --trails"),
        ("search --trials many", "'--trials'"),
        ("serach", "No such command 'serach'"),
        ("status", "NAME"),
    ],
)
def test_an_unknown_option_or_command_is_usage(ssl_tune: Command, home: Home, words: str, says: str) -> None:
    done = ssl_tune(*words.split())
    assert done.code == 2 and done.out == "" and says in done.err and "Traceback" not in done.err
    assert not home.path.exists()


def test_options_that_exclude_each_other_are_refused(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    make_study(home, name="mine")
    assert "exclude each other" in ssl_tune("trials", "mine", "--json", "--csv").err
    config = tmp_path / "file.yaml"
    config.write_text("method: supervised\n")
    done = ssl_tune("train", "--config", config, "--method", "supervised")
    assert done.code == 2 and "leave --method out" in done.err


def test_the_ui_of_a_home_without_studies_is_refused(ssl_tune: Command, home: Home) -> None:
    check(ssl_tune("ui"), home, ["mlflow.db does not exist yet", "Run one first"])
