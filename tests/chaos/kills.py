"""Twenty drivers and ten workers of one study are killed, and it ends as if none had been: `make chaos`, nine minutes.

Real drivers in processes of their own, killed with SIGKILL at random moments and at each of the dangerous ones
(`ssl_core.system.faults`); what is asserted is read from Optuna's storage, the study's folder and MLflow's database.
The suite has a shorter version: tests/tune/engine/test_kill_points.py, test_faults.py and test_interrupt.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from tests.tune.engine.test_interrupt import History, check_whole, histories
from tests.tune.helpers import SSL_TUNE, make_home, make_pictures, reports, shapes_options, told, words_of
from tune.findings.study import Study, load_study
from tune.store.home import Home
from tune.trials.reading import stored_trials

TRIALS = 40
AT_POINTS = [
    ("ask:before", 1),
    ("ask:after", 1),
    ("report:inside", 2),
    ("rung:before", 2),
    ("rung:after", 2),
    ("tell:before", 1),
    ("tell:after", 1),
    ("rename:before", 2),  # in a worker, which takes the driver along
    ("rename:after", 2),
    ("sender:after-send", 2),  # in the process that delivers to MLflow, likewise
]
AT_RANDOM, AT_START = 10, 3
WORKERS = 10


THRESHOLD = """\
  pseudo_label.threshold:
    type: float
    low: 0.5
    high: 0.95
    role: scientific
    why: so that no configuration comes twice
"""


def many_options(home: Home, pictures: Path) -> dict[str, Any]:
    """The options of `shapes_options` with more configurations than trials: a space that is exhausted ends a study."""
    options = shapes_options(home, pictures)
    space = Path(options["space"])
    head, baseline = space.read_text().split("baseline:\n")
    space.write_text(f"{head}{THRESHOLD}baseline:\n  pseudo_label.threshold: 0.95\n{baseline}")
    return options


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("pictures") / "shapes")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow.tracking import MlflowClient

    database = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments(max_results=1)
    return database


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The study that nobody disturbs."""
    home = make_home(tmp_path_factory.mktemp("undisturbed") / "home", store)
    options = many_options(home, pictures) | {"trials": TRIALS}
    with started(home, ["search", *words_of(options)]) as process:
        assert process.wait(timeout=900) == 0
    return home


@contextlib.contextmanager
def started(home: Home, words: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A driver whose fault points, also those in the processes it starts, kill it too."""
    command = [
        "sh",
        "-c",
        'SSL_TUNE_FAULT_ALSO=$$ exec "$0" "$@"',
        SSL_TUNE,
        *words,
        "--home",
        str(home.path),
    ]
    with (home.path / "driver.log").open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | environment, start_new_session=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def descendants(pid: int) -> set[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return set(psutil.Process(pid).children(recursive=True))
    return set()


def check_consistent(study: Study, trials: int) -> None:
    """What a driver left that was killed: whole trials, none twice, and at most the one that ran."""
    stored = stored_trials(study.folder, study.spec)
    assert [t.number for t in stored] == list(range(len(stored))) and len(stored) <= trials
    names = {p.name for p in study.spec.search_space().parameters}
    assert all(set(t.params) == names for t in stored)
    assert sum(t.state == TrialState.RUNNING for t in stored) <= study.spec.concurrent
    assert study.folder.state() == "interrupted"


def check_kept(before: dict[str, History], study: Study) -> None:
    """No epoch that had a checkpoint was trained again: what the checkpoints say of it is the same, to the second."""
    after = histories(study)
    for trial, history in before.items():
        if trial in after:  # checkpoints of stopped trials are gone
            assert after[trial][: len(history)] == history, trial


def check_gone(processes: set[psutil.Process]) -> None:
    """What killed drivers had started ends by itself (Ray's agents look once a minute)."""
    deadline = time.monotonic() + 90
    while left := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


@pytest.mark.timeout(3600)
def test_twenty_drivers_of_one_study_are_killed(
    undisturbed: Home, pictures: Path, store: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", store)
    options = many_options(home, pictures) | {"trials": TRIALS}
    folder = home.study_folder("shapes")
    kills: list[tuple[str, int] | int | float] = [*AT_POINTS]
    chance = random.Random(0)
    # Some while it starts, after so many seconds; the others while trials run, after so many reports, so that a fast
    # machine is not through with the study before the last kill.
    most = reports(undisturbed.study_folder("shapes")) // (2 * AT_RANDOM)
    for place in range(AT_RANDOM):
        kill = chance.uniform(0.5, 4.0) if place < AT_START else chance.randrange(most)
        kills.insert(chance.randrange(len(kills) + 1), kill)
    seen: set[psutil.Process] = set()
    words, before = ["search", *words_of(options)], {}
    for kill in kills:
        fault = f"{kill[0]}:{kill[1]}" if isinstance(kill, tuple) else ""
        known, began = reports(folder), time.monotonic()
        with started(home, words, SSL_TUNE_FAULT=fault) as process:
            while process.poll() is None:
                seen |= descendants(process.pid)
                if isinstance(kill, float) and time.monotonic() > began + kill:
                    process.kill()
                if isinstance(kill, int) and reports(folder) > known + kill:
                    time.sleep(chance.uniform(0.0, 0.05))  # within an epoch, too
                    process.kill()
                time.sleep(0.02)
            assert process.returncode == -signal.SIGKILL, (
                kill,
                (home.path / "driver.log").read_text()[-3000:],
            )
        if not (folder / "study.yaml").exists():
            continue  # killed before there was a study
        words = ["resume", "shapes"]
        study = load_study("shapes", home=home.path)
        check_consistent(study, TRIALS)
        check_kept(before, study)
        before = histories(study)
    with started(home, ["resume", "shapes"]) as process:
        assert process.wait(timeout=900) == 0, (home.path / "driver.log").read_text()[-3000:]
    study = load_study("shapes", home=home.path)
    assert told(home) == told(undisturbed)
    check_whole(home, study, TRIALS)
    check_gone(seen)


@pytest.mark.timeout(3600)
def test_ten_workers_are_killed_and_no_trial_pays_for_it(
    undisturbed: Home, pictures: Path, store: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", store)
    options = many_options(home, pictures) | {"trials": TRIALS, "max_failures": 0}
    folder, chance, killed = home.study_folder("shapes"), random.Random(1), 0
    with started(home, ["search", *words_of(options)]) as process:
        while killed < WORKERS:
            known = reports(folder)
            while (
                reports(folder) <= known
            ):  # each time after some progress: one that never makes any is given up
                assert process.poll() is None, (killed, (home.path / "driver.log").read_text()[-3000:])
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
            for child in descendants(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "ResourceTrainable" in " ".join(child.cmdline()):
                        child.kill()
                        killed += 1
        assert process.wait(timeout=900) == 0
    assert told(home) == told(undisturbed)
    check_whole(home, load_study("shapes", home=home.path), TRIALS)


@pytest.mark.timeout(900)
def test_sigterm_ends_a_driver_within_thirty_seconds_also_in_a_long_epoch(
    pictures: Path, store: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", store)
    options: dict[str, Any] = many_options(home, pictures)
    options["settings"] |= {"steps_per_epoch": 500_000}
    with started(home, ["search", *words_of(options)]) as process:
        deadline = time.monotonic() + 300
        while not (home.path / "studies/shapes/events.db").exists() or not _runs(home):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 143
        assert time.monotonic() - began < 30
    assert load_study("shapes", home=home.path).status()["state"] == "interrupted"


def _runs(home: Home) -> bool:
    """Whether a trial has begun."""
    from tune.store.event_log import EventLog

    with EventLog(home.study_folder("shapes") / "events.db", read_only=True) as log:
        return len(log.runs()) > 1
