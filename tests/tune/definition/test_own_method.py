"""A method in a file of the user's own, in every command: the package is not touched, and workers need no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from search_spaces import load_yaml
from ssl_core import method_file
from tests.tiny import EXAMPLES
from tests.tune.helpers import SMALL, Done, make_pictures, make_spec, make_study, mlflow_runs
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

Command = Callable[..., Done]

OPTIONS: dict[str, Any] = {"labels": 12, "network": "wrn-10-1", "epochs": 2, "concurrent": 1}
SETTINGS = SMALL | {"my_uda.weight": 0.5}


@pytest.fixture
def uda(tmp_path: Path) -> Path:
    """The documentation's method and its space, where a user may have them."""
    place = tmp_path / "my methods"
    place.mkdir()
    for name in ("my_uda.py", "my_uda.yaml"):
        shutil.copy(EXAMPLES / name, place / name)
    return place / "my_uda.py"


def words(options: dict[str, Any]) -> list[str]:
    typed = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [*typed, *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}"))]


def test_a_study_of_the_documentations_method_from_search_to_train(
    ssl_tune: Command, local_ray: None, ready_home: Home, pictures: Path, uda: Path, tmp_path: Path
) -> None:
    options = OPTIONS | {"method": f"file:{uda}", "dataset": f"folder:{pictures}", "trials": 2}
    assert ssl_tune("search", *words(options)).code == 0
    (name,) = ready_home.study_names()
    assert name == "shapes@12-my_uda"
    study = tune.load_study(name)
    assert [r.state for r in study.records()] == ["completed", "completed"]
    assert study.records()[0].params == {"my_uda.threshold": 0.8, "my_uda.temperature": 0.4}
    assert (study.folder.path / "method.py").read_bytes() == uda.read_bytes()
    assert study.status()["method"] == "my_uda"
    runs = mlflow_runs(ready_home)
    assert {run.data.tags["ssl.method"] for run in runs.values()} == {"my_uda"}
    assert runs["trial 0"].data.params["my_uda.weight"] == "0.5"

    # What is exported lies beside the method's file, and runs without the study and without the original.
    place = tmp_path / "elsewhere"
    place.mkdir()
    assert ssl_tune("export", name, "-o", place / "best.yaml").code == 0
    assert sorted(p.name for p in place.iterdir()) == ["best.my_uda.py", "best.yaml"]
    shutil.rmtree(study.folder.path)
    uda.unlink()
    again = ssl_tune("train", "--config", place / "best.yaml", "--out", tmp_path / "run", "--json")
    expected = load_yaml((place / "best.yaml").read_text(), "best.yaml")
    assert (
        expected["config"]["method"] == "file:best.my_uda.py"
        and expected["config"]["my_uda"]["weight"] == 0.5
    )
    assert again.code == 0 and again.document["val_error"] == expected["expect"]["val_error"]
    assert again.document["config"]["method"] == "my_uda"
    changed = ssl_tune("train", "--config", place / "best.yaml", "--set", "my_uda.weight=2", "--json")
    assert changed.document["config"]["my_uda"]["weight"] == 2.0

    (place / "best.my_uda.py").write_text("# changed\n" + (place / "best.my_uda.py").read_text())
    refused = ssl_tune("train", "--config", place / "best.yaml")
    assert refused.code == 2 and "best.my_uda.py" in refused.err and "the file was changed" in refused.err
    assert "remove method_digest" in refused.err
    (place / "best.my_uda.py").unlink()
    refused = ssl_tune("train", "--config", place / "best.yaml")
    assert refused.code == 2 and "best.my_uda.py: there is no such file" in refused.err
    carried_on = ssl_tune("train", "--resume", "--out", tmp_path / "run", "--json")
    assert carried_on.document == again.document  # the run has a copy of its own


@pytest.mark.long
def test_resume_goes_on_with_the_studys_own_copy_and_says_that_the_file_changed(
    ssl_tune: Command, local_ray: None, ready_home: Home, uda: Path, tmp_path: Path
) -> None:
    text = uda.read_text()
    options = OPTIONS | {
        "method": f"file:{uda}",
        "dataset": f"folder:{make_pictures(tmp_path / 'shapes')}",
        "trials": 1,
    }
    folder, _ = make_study(ready_home, settings=SETTINGS, **options | {"epochs": 1})
    uda.write_text("raise RuntimeError('half of an edit')\n")
    done = ssl_tune("resume", "s")
    assert done.code == 0, done
    assert f"{uda} was changed or moved" in done.err and str(folder.path / "method.py") in done.err
    confirmed = ssl_tune("confirm", "s", "--seeds", 1, "--baseline", "plain", "--json")
    assert confirmed.code == 0, confirmed
    assert [row["method"] for row in confirmed.document["rows"]] == ["my_uda", "supervised"]
    assert "method_digest" not in load_yaml(
        (folder.path / "confirm" / "supervised" / "seed-1" / "config.json").read_text(), "config.json"
    )
    document = tune.export("s")
    assert document["config"]["method"] == f"file:{folder.path / 'method.py'}"
    assert (folder.path / "method.py").read_text() == text


def test_a_worker_needs_no_file(local_ray: None, ready_home: Home, pictures: Path, uda: Path) -> None:
    import ray

    from tune.trials.study_trials import StudyTrials
    from tune.worker.task import trial_task

    uda.write_text(uda.read_text() + "\n# a content that no worker has seen\n")
    options = OPTIONS | {"method": f"file:{uda}", "dataset": f"folder:{pictures}"}
    folder, spec = make_study(ready_home, settings=SETTINGS, **options)
    from ssl_core.training.result import prepare

    _, _, split = prepare(spec.base_config(), cache=ready_home.cache)
    spec = spec.model_copy(update={"split_hash": split.hash})
    task = trial_task(spec, StudyTrials(folder, spec).ask(), folder, ready_home).as_config()
    uda.unlink()
    shutil.rmtree(folder.path)

    @ray.remote
    def first_epoch(task: dict[str, Any]) -> dict[str, Any]:
        from tune.worker.trainable import TrialTrainable

        trainable = object.__new__(TrialTrainable)
        trainable.setup(task)
        return trainable.step()

    result = ray.get(first_epoch.remote(task))
    assert result["epoch"] == 1 and "train/loss_unsupervised" in result["metrics"]


def test_a_study_whose_copy_was_changed_is_refused_by_name(ssl_tune: Command, home: Home, uda: Path) -> None:
    uda.write_text(uda.read_text() + "\n# a content that no other test loads\n")
    folder, spec = make_study(home, method=f"file:{uda}")
    assert spec.method_path == str(uda) and spec.config["method"] == "my_uda"
    (folder.path / "method.py").write_text("# changed\n")
    method_file._loaded.pop(spec.config["method_digest"])  # as a new process
    for verb in ("status", "trials"):  # what only reads a study runs no code of it
        assert ssl_tune(verb, "s").code == 0
    done = ssl_tune("resume", "s")
    assert done.code == 2 and f"{folder.path}/method.py was changed" in done.err, done


def test_a_space_of_ones_own_and_the_wide_one(home: Home, uda: Path) -> None:
    wide = make_spec(home, method=f"file:{uda}", space="wide").search_space()
    assert [p.name for p in wide.parameters] == ["my_uda.threshold", "my_uda.temperature", "my_uda.weight"]
    other = uda.with_name("other.yaml")
    other.write_text(uda.with_suffix(".yaml").read_text().replace("low: 0.5", "low: 0.6"))
    spec = make_spec(home, method=f"file:{uda}", space=str(other))
    assert spec.search_space().parameters[0].distribution.low == 0.6  # type: ignore[attr-defined]
    assert spec.search_space().source == "study s" and spec.space.source == str(other)


def test_methods_and_spaces_show_it(ssl_tune: Command, uda: Path) -> None:
    (shown,) = ssl_tune("methods", f"file:{uda}", "--json").document
    assert shown["method"] == "my_uda"
    own = [p["name"] for p in shown["parameters"] if p["name"].startswith("my_uda.")]
    assert own == ["my_uda.temperature", "my_uda.threshold", "my_uda.weight"]
    (space,) = ssl_tune("spaces", f"file:{uda}", "--json").document
    assert space["method"] == "my_uda" and space["source"] == f"{uda.with_suffix('.yaml')} (default)"
    assert "my_uda" not in {entry["method"] for entry in ssl_tune("methods", "--json").document}


def test_plan_and_train_take_it_by_a_relative_path(
    ssl_tune: Command, ready_home: Home, pictures: Path, uda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(uda.parent)
    options = OPTIONS | {"method": "file:my_uda.py", "dataset": f"folder:{pictures}"}
    document = ssl_tune("plan", *words(options), "--json").document
    assert document["method"] == "my_uda" and document["study"] == "shapes@12-my_uda"
    options = {k: v for k, v in options.items() if k != "concurrent"} | {"epochs": 1}
    done = ssl_tune("train", *words(options), "--json")
    assert done.code == 0 and done.document["config"]["method"] == "my_uda"
    (run,) = (ready_home.path / "runs").iterdir()
    assert run.name.endswith("-my_uda") and (run / "method.py").read_bytes() == uda.read_bytes()
    plain = uda.parent / "mine.yaml"
    plain.write_text("method: file:my_uda.py\nepochs: 0\n")
    monkeypatch.chdir(uda.parent.parent)
    assert "epochs = 0" in ssl_tune("train", "--config", plain).err  # found beside the configuration


BAD: list[tuple[str, str, Callable[[Path], object], list[str]]] = [
    ("no file", "train plan search", lambda p: p.unlink(), ["my_uda.py: there is no such file"]),
    ("not python", "train plan search", lambda p: p.write_text("\n\ndef x(:\n"), ["my_uda.py, line 3", "not Python"]),
    ("no METHOD", "train plan search", lambda p: p.write_text("x = 1\n"), ["my_uda.py: there is no METHOD"]),
    ("no space", "plan search", lambda p: p.with_suffix(".yaml").unlink(), [
        "the search space of 'my_uda'", "my_uda.yaml: there is no such file", "Write it: `method: my_uda`",
        "my_uda.temperature",
    ]),
    ("other space", "plan search", lambda p: p.with_suffix(".yaml").write_text("method: vat\n"), [
        "my_uda.yaml, line 1", "method = 'vat'", "'my_uda'",
    ]),
    ("bad range", "plan search", lambda p: p.with_suffix(".yaml").write_text(
        p.with_suffix(".yaml").read_text().replace("high: 0.95", "high: 1.5")
    ), ["my_uda.yaml, line 7", "my_uda.threshold = 1.5"]),
]  # fmt: skip


@pytest.mark.parametrize(("verbs", "spoil", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_wrong_with_the_files_is_said_before_anything_starts(
    ssl_tune: Command, home: Home, uda: Path, verbs: str, spoil: Callable[[Path], object], says: list[str]
) -> None:
    spoil(uda)
    for verb in verbs.split():
        done = ssl_tune(verb, "--method", f"file:{uda}")
        assert done.code == 2 and done.out == "" and len(done.err.splitlines()) == 1, done
        assert done.err.startswith("ssl-tune: ") and all(part in done.err for part in says), done.err
        assert not home.path.exists()


def test_a_parameter_that_it_does_not_have_is_refused(ssl_tune: Command, home: Home, uda: Path) -> None:
    for verb in ("train", "plan", "search"):
        done = ssl_tune(verb, "--method", f"file:{uda}", "--set", "my_uda.treshold=0.9")
        assert done.code == 2 and "Did you mean 'my_uda.threshold'?" in done.err
        done = ssl_tune(verb, "--method", f"file:{uda}", "--set", "my_uda.temperature=0")
        assert done.code == 2 and "my_uda.temperature = 0: input should be greater than 0" in done.err
        assert not home.path.exists()


def test_the_folder_of_a_study_without_the_copy_is_no_study_yet(home: Home, uda: Path) -> None:
    """The copy is there before the specification that needs it: a driver may be killed in between."""
    spec = make_spec(home, method=f"file:{uda}")
    folder = StudyFolder(home.study_folder("s"))
    seen: list[bool] = []
    folder.write_spec = lambda _: seen.append((folder.path / "method.py").exists())  # type: ignore[method-assign]
    folder.create(spec)
    assert seen == [True] and home.study_names() == []
