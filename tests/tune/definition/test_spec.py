"""What is asked, resolved: requests, specifications, durations, names, the home folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search_spaces import load_space, load_yaml
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import make_pictures, make_spec, make_study
from tune.cli.options import request_of
from tune.cluster.gpus import gpu_count
from tune.definition.inputs import parse_duration, parse_sets, with_overrides
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec, dataset_label, dataset_tag, without
from tune.launch.request import resolve_request
from tune.store.home import Home, check_writable
from tune.store.layout import check_name
from tune.store.specification import read_spec

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1d", 86400)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "-1", "1e3", "nan", "2 h", "h", "1h30", "5x"])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--time-budget .*90s, 15m, 2h or 1h30m"):
        parse_duration(text, "--time-budget")


@pytest.mark.parametrize(
    ("dataset", "tag"),
    [
        ("cifar10", "cifar10"),
        ("folder:/data/my-images", "my-images"),
        ("folder:/data/my-images/", "my-images"),
        ("folder:/data/my images é", "my-images-e"),
        ("folder:/data/猫", "data"),
        ("folder:/data/_private", "private"),
        ("folder:/data/.hidden", "hidden"),
        ("folder:/", "data"),
        (f"folder:/data/{'n' * 300}", "n" * 40),
    ],
)
def test_a_data_sets_tag_can_begin_a_studys_name(dataset: str, tag: str) -> None:
    assert dataset_tag(dataset) == tag
    check_name(f"{tag}@4000-pseudo_label-12")


def test_settings_are_read_as_yaml_and_checked_by_name() -> None:
    given = ["pseudo_label.threshold=0.8", "lr=1e-2", "pseudo_label.accumulate=true", "network=wrn-10-1"]
    read = {"pseudo_label.threshold": 0.8, "lr": 0.01, "pseudo_label.accumulate": True, "network": "wrn-10-1"}
    assert parse_sets(given, "pseudo_label") == read
    with pytest.raises(ConfigError, match="Did you mean 'weight_decay'"):
        parse_sets(["weight_decy=0"], "pseudo_label")


def test_overrides_reach_into_sections_and_leave_the_original_alone() -> None:
    document = {"lr": 0.1, "data": {"valid": 10}}
    assert with_overrides(document, {"data.split_seed": 3, "vat.eps": 4, "lr": 1.0}) == {
        "lr": 1.0,
        "data": {"valid": 10, "split_seed": 3},
        "vat": {"eps": 4},
    }
    assert document == {"lr": 0.1, "data": {"valid": 10}}


def test_a_parameter_that_is_set_is_not_searched_the_warmup_in_either_unit() -> None:
    space = load_space("pseudo_label", "wide")
    kept = without(space, ["warmup_epochs", "lr"])
    assert [p.name for p in kept.parameters] == [
        n for n in (p.name for p in space.parameters) if n not in ("warmup_share", "lr")
    ]
    assert set(kept.baseline) == {p.name for p in kept.parameters}
    with pytest.raises(ConfigError, match="nothing is left to search"):
        without(space, [p.name for p in space.parameters])


def test_a_set_parameter_is_the_same_in_every_trial(home: Home) -> None:
    spec = make_spec(home, settings={"pseudo_label.threshold": 0.7})
    assert [p.name for p in spec.search_space().parameters] == ["warmup_share"]
    config = spec.trial_config({"warmup_share": 0.34})
    assert config.document()["pseudo_label"]["threshold"] == 0.7 and config.warmup_epochs == 2


def test_trials_differ_in_what_is_searched_and_in_nothing_else(home: Home) -> None:
    spec = make_spec(home, seed=7)
    one, other = (
        spec.trial_config({"pseudo_label.threshold": t, "warmup_share": w}).document()
        for t, w in ((0.6, 0.17), (0.9, 0.5))
    )
    assert {k for k in one if one[k] != other[k]} == {"pseudo_label", "warmup_epochs"}
    assert one["seed"] == other["seed"] == 7
    assert one["threads"] == 1 and one["data"] == {
        "image_size": None,
        "valid": 100,
        "split_seed": 0,
        "label_seed": 0,
        "balance_batches": False,
    }


def test_a_specification_is_read_back_as_it_was_written(home: Home) -> None:
    folder, spec = make_study(home, space="wide", settings={"lr": 0.02}, time_budget="1h", trials=9)
    assert read_spec(folder.path) == spec
    assert spec.time_budget == 3600 and "lr" in spec.space.fixed_by_set and spec.space.variant == "wide"
    assert load_yaml((folder.path / "study.yaml").read_text(), "study.yaml")["trials"] == 9


def test_a_study_keeps_its_own_copy_of_the_space(home: Home, tmp_path: Path) -> None:
    from tests.tune.helpers import SPACE

    path = tmp_path / "mine.yaml"
    path.write_text(SPACE)
    folder, _ = make_study(home, space=str(path))
    path.write_text("gone: wrong")
    space = read_spec(folder.path).search_space()
    assert [p.name for p in space.parameters] == ["lr", "warmup_epochs"]
    assert space.digest() == read_spec(folder.path).space.digest


def test_a_warmup_range_is_refused_where_no_run_is_longer(home: Home, tmp_path: Path) -> None:
    from tests.tune.helpers import SPACE

    path = tmp_path / "mine.yaml"
    path.write_text(SPACE)
    with pytest.raises(ConfigError, match="shorter than the run of 1"):
        make_spec(home, space=str(path), epochs=1)


def test_a_relative_data_folder_is_kept_absolute(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    for options in ({"dataset": "folder:shapes"}, {"settings": {"dataset": "folder:shapes"}}):
        spec = make_spec(home, labels=6, network="wrn-10-1", name=None, **options)
        assert spec.config["dataset"] == f"folder:{tmp_path / 'shapes'}"
        assert spec.name == "shapes@6-pseudo_label"
        assert re.fullmatch(r"shapes-[0-9a-f]{4}@6", spec.experiment)


def test_data_sets_of_one_name_and_of_any_script_are_told_apart_in_mlflow() -> None:
    one, other = dataset_label("folder:/x/animals"), dataset_label("folder:/y/animals")
    assert one != other and one.startswith("animals-") and other.startswith("animals-")
    assert dataset_label("folder:/x/animals") == one and dataset_label("cifar10") == "cifar10"
    assert dataset_label("table:/x/animals.csv") not in (one, other)
    scripts = [dataset_label(f"folder:/x/{name}") for name in ("猫", "犬", "été")]
    assert [label.rpartition("-")[0] for label in scripts] == ["猫", "犬", "été"]
    assert dataset_label("folder:/").startswith("data-")


def test_a_study_made_before_folders_were_told_apart_keeps_its_experiment(home: Home, tmp_path: Path) -> None:
    make_pictures(tmp_path / "shapes")
    spec = make_spec(home, dataset=f"folder:{tmp_path / 'shapes'}", labels=6, network="wrn-10-1")
    before = {k: v for k, v in spec.model_dump(mode="json").items() if k not in ("label", "protocol")}
    again = StudySpec(**before)
    assert again.experiment == "shapes@6" and again.protocol == "simulated"


def test_the_default_name_says_data_labels_and_method_and_is_free(home: Home) -> None:
    first, spec = make_study(home, name=None)
    assert spec.name == first.path.name == "digits@100-pseudo_label"
    assert make_study(home, name=None)[1].name == "digits@100-pseudo_label-2"
    assert make_spec(home, name=None, method="supervised", labels=50).name == "digits@50-supervised"


def test_threads_are_shared_out_among_the_trials_that_run_together(home: Home) -> None:
    cores = len(os.sched_getaffinity(0))
    for concurrent in (1, cores, 8 * cores):
        spec = make_spec(home, concurrent=concurrent, settings={"threads": None})
        assert spec.config["threads"] == max(1, cores // concurrent)


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, count in (("", 0), ("0", 1), ("0,3", 2), ("-1", 0), ("GPU-a,GPU-b", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_count() == count


def test_trials_run_together_as_gpus_or_cores_allow(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert make_spec(home, concurrent=None, trials=64).concurrent == min(cores, 64)
    assert make_spec(home, concurrent=None, trials=1).concurrent == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert make_spec(home, concurrent=None).concurrent == 2
    assert make_spec(home, concurrent=None, gpus_per_trial=0.5).concurrent == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert make_spec(home, concurrent=None, trials=64, gpus_per_trial=0.3).concurrent == 24


def test_a_trial_has_no_more_than_the_one_gpu_that_it_trains_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 2: must be between 0 and 1"):
        make_spec(home, gpus_per_trial=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 1: this machine has no GPUs that may be used"):
        make_spec(home, gpus_per_trial=1)


def test_options_win_over_the_file_and_the_environment_over_the_default(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "method: supervised\ntrials: 5\nmax-failures: 0\ntime-budget: 90\nset: {lr: 0.01, momentum: 0.5}\n"
    )
    given: dict[str, Any] = {"study": path, "trials": 7, "settings": ["lr=0.02"], "epochs": None}
    request = request_of(given)
    assert request == SearchRequest(
        method="supervised",
        trials=7,
        max_failures=0,
        time_budget=90,
        settings={"lr": 0.02, "momentum": 0.5},
    )
    assert resolve_request(request, home).tracking_uri == f"sqlite:///{home.path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert resolve_request(request, home).tracking_uri == "http://there:5000"


def test_a_request_resolves_without_torch_ray_mlflow_or_optuna_storage() -> None:
    script = (
        "import sys; from tune.launch.request import *; from tune.store.home import Home\n"
        "from tune.store.study_folder import *\n"
        "resolve_request(SearchRequest(), Home('/tmp/never-made'))\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]" and not Path("/tmp/never-made").exists()


def test_the_home_is_the_option_the_environment_or_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_TUNE_HOME", "there")
    assert Home("mine").path == tmp_path / "mine" and Home().path == tmp_path / "there"
    monkeypatch.delenv("SSL_TUNE_HOME")
    assert Home().path == tmp_path / "ssl-tune-home"


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "it", "Name another.")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"it .* is a file, not a folder\. Name another\."):
        check_writable(tmp_path / "file" / "b", "it", "Name another.")


def test_a_spec_refuses_what_it_does_not_know(home: Home) -> None:
    document = make_spec(home).model_dump(mode="json")
    assert StudySpec.model_validate(document)
    with pytest.raises(ValueError, match="extra"):
        StudySpec.model_validate(document | {"colour": "red"})
