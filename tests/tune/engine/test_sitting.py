"""A sitting lets go of all that it holds, however its block ends; and the parts that it is made of."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import SMALL, Done, make_spec, make_study, mlflow_runs, reports, shapes_options
from tune.cluster import local_ray
from tune.definition.request import SearchRequest
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import Exit, ServiceError
from tune.findings.confirmation import confirmed
from tune.findings.study import load_study
from tune.launch.start import new_sitting
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.worker.task import PRELOAD, Task

ROOT = Path(__file__).resolve().parents[3]

A_BLOCK_THAT_RAISES = """
import sys
import psutil, ray
from tests.tune.helpers import shapes_options
from tune.engine.progress import Progress
from tune.definition.request import SearchRequest
from tune.launch.start import new_sitting
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

home, options = Home(sys.argv[1]), dict(eval(sys.argv[2]))
try:
    with new_sitting(SearchRequest(**options), home, Progress()) as sitting:
        assert StudyFolder(sitting.folder.path).is_locked()
        children = psutil.Process().children(recursive=True)
        assert [p for p in children if "tune.delivery.sender" in p.cmdline()]
        if sys.argv[3] == "searched":
            sitting.search(stay=True)
            assert sitting.is_open
        raise ZeroDivisionError("a cell of a notebook")
except ZeroDivisionError:
    pass
assert not ray.is_initialized()
left = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
assert not [p.cmdline() for p in left if "tune.delivery.sender" in p.cmdline()], left
assert not StudyFolder(home.study_folder(options["name"])).is_locked()
print("let go")
"""


@pytest.mark.parametrize("when", [pytest.param("prepared", marks=pytest.mark.long), "searched"])
def test_a_block_that_raises_leaves_no_lock_no_sender_and_no_ray_and_is_resumed(
    when: str, local_ray: None, ready_home: Home, pictures: Path
) -> None:
    options = shapes_options(ready_home, pictures) | {"trials": 2, "epochs": 3}
    words = [str(ready_home.path), repr(options), when]
    done = subprocess.run(
        [sys.executable, "-c", A_BLOCK_THAT_RAISES, *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.stdout.strip() == "let go", done.stderr
    study = load_study("shapes", home=ready_home.path)
    assert study.status()["state"] == {"prepared": "interrupted", "searched": "finished"}[when]
    study = tune.resume("shapes", home=ready_home.path, quiet=True)
    assert study.status()["state"] == "finished" and len(study.records()) == 2
    if when == "prepared":
        runs = mlflow_runs(ready_home)
        assert set(runs) == {"shapes", "trial 0", "trial 1"} and study.status()["tracking"]["pending"] == 0
    assert reports(study.folder.path) == sum(r.epoch for r in study.records())


def test_a_study_in_use_is_not_entered_and_stays_the_other_drivers(home: Home) -> None:
    folder, spec = make_study(home)
    folder.lock()
    with (
        pytest.raises(ServiceError, match="in use by another driver") as refused,
        Sitting(spec, StudyFolder(folder.path), home, Progress()),
    ):
        pytest.fail("the block is not entered")
    assert refused.value.code == Exit.IN_USE and folder.is_mine()


def test_a_lock_that_is_held_is_taken_over_and_let_go(home: Home) -> None:
    folder, spec = make_study(home)
    folder.lock()
    with Sitting(spec, folder, home, Progress()) as sitting:
        assert sitting.is_open
    assert not folder.is_locked() and not sitting.is_open


@pytest.mark.usefixtures("fresh_senders")
def test_a_sitting_that_cannot_be_prepared_leaves_no_study(ready_home: Home, tmp_path: Path) -> None:
    def senders() -> list[int]:
        return [p.pid for p in psutil.Process().children() if "tune.delivery.sender" in p.cmdline()]

    for name in "ab":
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for number in range(30):
            (folder / f"{number}.png").write_bytes(b"not an image")
    request = SearchRequest(
        dataset=f"folder:{tmp_path / 'data'}",
        labels=4,
        name="s",
        network="wrn-10-1",
        settings={"data.valid": 4},
    )
    with pytest.raises(ConfigError), new_sitting(request, ready_home, Progress()):
        pytest.fail("the block is not entered")
    assert ready_home.study_names() == [] and senders() == []


@pytest.mark.parametrize(
    ("cores", "concurrent", "threads", "cpus"), [(16, 1, 1, 1), (16, 3, 4, 12), (2, 1, 8, 2), (2, 3, 8, 3)]
)
def test_ray_is_no_larger_than_the_trials_side_by_side(
    home: Home, monkeypatch: pytest.MonkeyPatch, cores: int, concurrent: int, threads: int, cpus: int
) -> None:
    """It starts a worker for each processor that it is given, and each takes most of a gigabyte."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    spec = make_spec(home, concurrent=concurrent, settings=SMALL | {"threads": threads})
    assert local_ray.cpus_for(spec) == cpus
    assert concurrent * local_ray.resources(spec)["cpu"] <= cpus


def test_the_module_that_workers_preload_can_be_imported() -> None:
    """Ray says nothing where it cannot be, and each worker then loses seconds."""
    assert importlib.import_module(PRELOAD).TrialTrainable


def test_a_task_is_the_same_after_it_was_rays_configuration() -> None:
    task = Task(
        trial=3, config={"method": "vat"}, method_text=None, folder="/f/3", store={"url": "memory://a"},
        max_failures=1, known_epoch=2, split_hash="h", cache="/c", data_root=None, gpus=0.5, system_metrics=True,
    )  # fmt: skip
    config = task.as_config()
    assert config["trial"] == 3 and config["folder"] == "/f/3"
    assert Task.from_config(config) == task


def test_a_search_that_is_resumed_confirms_in_the_same_sitting(
    local_ray: None, readable: None, copied: Home, ssl_tune: Callable[..., Done]
) -> None:
    """Also where the study was finished before."""
    done = ssl_tune("resume", "shapes", "--home", copied.path, "--confirm-seeds", 1)
    assert done.code == 0, done
    assert "finished already" in done.out and "2/2 " in done.err and "cannot tell below 3 seeds" in done.out
    assert load_study("shapes", home=copied.path).status()["tracking"]["pending"] == 0


def test_search_in_python_confirms_too(
    local_ray: None, readable: None, ready_home: Home, pictures: Path
) -> None:
    options = shapes_options(ready_home, pictures) | {"trials": 1, "epochs": 2, "confirm_seeds": 1}
    study = tune.search(**options, home=ready_home.path, quiet=True)
    found = confirmed(study.folder)
    assert found is not None and [row["who"] for row in found["rows"]] == ["0", "supervised"]
    assert study.status()["tracking"]["pending"] == 0 and not study.folder.is_locked()
