"""Small studies, and what tests read out of them."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tune.definition.coherence import SHORT_RUNS
from tune.definition.request import SearchRequest
from tune.definition.rungs import rungs
from tune.definition.spec import StudySpec
from tune.launch.request import resolve_request
from tune.store.event_log import EventLog
from tune.store.events import packed, unpacked
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_tracker

SSL_TUNE = str(Path(sys.executable).with_name("ssl-tune"))

SMALL = {"steps_per_epoch": 2, "batch_size": 4, "mu": 1, "threads": 1, "precision": "float32"}
"""Settings under which an epoch takes hundredths of a second."""

SPACE = """\
method: pseudo_label
default:
  lr:
    type: categorical
    choices: [0.05, 1.0e-6]
    role: nuisance
    why: one learns and one does not, so that the search has something to stop
  warmup_epochs:
    type: int
    low: 1
    high: 3
    role: scientific
    why: short runs
baseline:
  lr: 0.05
  warmup_epochs: 1
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Whether this process is to fill a folder that several share; the others wait until it is filled."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_name(f"{folder.name}.done")
        is_mine = not done.exists()
        if is_mine:
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed over it
            folder.mkdir()
        yield is_mine
        done.touch()


def make_home(path: Path, migrated_store: Path) -> Home:
    """A home folder whose MLflow database needs no migration."""
    path.mkdir(parents=True)
    shutil.copy(migrated_store, path / "mlflow.db")
    return Home(path)


def copy_home(source: Home, target: Path) -> Home:
    """A copy of a home, tracked in its own database."""
    shutil.copytree(source.path, target)
    rewrite_paths(target, {str(source.path): str(target)})
    return Home(target)


def rewrite_paths(home: Path, moved: Mapping[str, str]) -> None:
    """Give a home that was moved the new absolute paths: of itself, of its images, of a method's file.

    They are in each study's files, in Optuna's database and the event log, and in MLflow's database.
    """
    for pattern in ("*.yaml", "*.json"):
        for path in (home / "studies").rglob(pattern):
            if "ray" in path.relative_to(home).parts:  # Ray's own, which nobody reads again
                continue
            text = path.read_text()
            for old, new in moved.items():
                text = text.replace(old, new)
            path.write_text(text)
    for path in (*home.glob("*.db"), *(home / "studies").rglob("*.db")):
        with closing(sqlite3.connect(path)) as database, database:
            _rewrite_database(database, moved)


def _rewrite_database(database: sqlite3.Connection, moved: Mapping[str, str]) -> None:
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
            if not kind.upper().startswith(("TEXT", "VARCHAR", "JSON")):
                continue
            if (table, column) == ("events", "payload"):
                rewrite_payloads(database, moved)
                continue
            for old, new in moved.items():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '
                    f'WHERE instr("{column}", ?) > 0',
                    [old, new, old],
                )


def rewrite_payloads(database: sqlite3.Connection, moved: Mapping[str, str]) -> None:
    """Replace text in the data of all events, which lie compressed."""
    for id, kind, payload in database.execute("SELECT id, kind, payload FROM events").fetchall():
        text = json.dumps(unpacked(payload))
        for old, new in moved.items():
            text = text.replace(old, new)
        database.execute("UPDATE events SET payload = ? WHERE id = ?", [packed(kind, json.loads(text)), id])


def make_pictures(
    folder: Path, *, classes: str = "abc", train: int = 20, test: int = 4, side: int = 8
) -> Path:
    """A data folder: a pattern of each class's own under noise, as PNG files. Asked again, it is the same."""
    from PIL import Image

    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, (len(classes), side, side, 3))
    for part, count in (("train", train), ("test", test)):
        for name, pattern in zip(classes, patterns, strict=True):
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noise = random.integers(0, 256, pattern.shape)
                pixels = ((3 * pattern + noise) // 4).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number:03d}.png")
    return folder


def make_spec(home: Home, **options: Any) -> StudySpec:
    """A study's specification: digits with small settings unless told otherwise."""
    settings = SMALL | dict(options.pop("settings", {}))
    request = {"epochs": 6, "trials": 6, "concurrent": 1, "name": "s", "settings": settings}
    # Where early stopping looks, and what is asked next, as the assertions of the tests know them.
    request |= {"sampler": "tpe", "objective": "val/error"} | options
    if request.get("scheduler", "asha") == "asha" and request["epochs"] in SHORT_RUNS:
        request.setdefault("grace", rungs(request["epochs"], request.get("eta", 3))[0])
    return resolve_request(SearchRequest(**request), home)


def make_study(home: Home, **options: Any) -> tuple[StudyFolder, StudySpec]:
    """A study's folder as a driver leaves it that is killed at once: created, unlocked."""
    spec = make_spec(home, **options)
    folder = StudyFolder(home.study_folder(spec.name))
    folder.create(spec)
    folder.unlock()
    return folder, spec


def note_trials(folder: StudyFolder, spec: StudySpec, home: Home, numbers: Iterable[int]) -> None:
    """The beginnings of trials in a study's event log, as its driver writes them before Optuna knows an epoch."""
    with EventLog(folder.events_db) as log:
        tracker = open_tracker(log, spec, home)
        for number in numbers:
            tracker.trial_started(str(number), {}, {}, "")


def shapes_options(home: Home, pictures: Path) -> dict[str, Any]:
    """A search of six configurations of which some learn and some do not: ASHA stops some of the latter."""
    space = home.path / "space.yaml"
    space.write_text(SPACE)
    return {
        "dataset": f"folder:{pictures}",
        "labels": 12,
        "network": "wrn-10-1",
        "epochs": 6,
        "trials": 6,
        "name": "shapes",
        "space": str(space),
        "settings": SMALL | {"steps_per_epoch": 4, "ema_decay": 0.0, "bn_momentum": 0.1},
        "concurrent": 1,
        "objective": "val/error",
        "sampler": "tpe",
        "seed": 14,  # the three that learn come in the order of their warm-ups
    }


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options of a search as they are typed."""
    words = []
    for name, value in options.items():
        if name == "settings":
            words += [word for key, text in value.items() for word in ("--set", f"{key}={text}")]
        else:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@contextmanager
def driver(*words: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The installed command in a process of its own, which does not outlive the block."""
    process = subprocess.Popen(
        [SSL_TUNE, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait for something that a driver does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@contextmanager
def when(condition: Callable[[], bool], action: Callable[[], object]) -> Iterator[None]:
    """Something is done in a thread as soon as something else holds."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            if condition():
                action()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:  # a thread that goes on waiting would keep the whole test run from ending
        over.set()
        thread.join()


@contextmanager
def signal_when(condition: Callable[[], bool], number: int) -> Iterator[None]:
    """A signal to this process as soon as something holds."""
    with when(condition, lambda: os.kill(os.getpid(), number)):
        yield


def carry_on_words(output: str) -> list[str]:
    """The command that an interrupted one says it is carried on with, without its first word."""
    line = next(line for line in output.splitlines() if "Carry on with: " in line)
    first, *words = shlex.split(line.partition("Carry on with: ")[2])
    assert first == "ssl-tune"
    return words


def reports(folder: Path) -> int:
    """Epochs that a study's event log has."""
    if not (folder / "events.db").exists():
        return 0
    with sqlite3.connect(f"file:{folder / 'events.db'}?mode=ro", uri=True) as log:
        try:
            query = "SELECT count(*) FROM events WHERE kind = 'metrics' AND key LIKE '%:epoch:%'"
            return int(log.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # being made
            return 0


def mlflow_runs(home: Home, study: str | None = None) -> dict[str, Any]:
    """Every run in the home's whole store, or of one study there, by its name; two of one name fail."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.default_tracking_uri)
    found = client.search_runs([item.experiment_id for item in client.search_experiments()])
    found = [run for run in found if study in (None, run.data.tags["ssl.study"])]
    names = Counter(run.info.run_name for run in found)
    assert not [name for name, count in names.items() if count > 1], names
    return {run.info.run_name: run for run in found}


def mlflow_steps(home: Home, run: Any, metric: str = "val/error") -> list[int]:
    """The steps of a metric's points, straight from the database: a point that is there twice is seen."""
    with sqlite3.connect(home.path / "mlflow.db") as database:
        query = "SELECT step FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
        return [step for (step,) in database.execute(query, [run.info.run_id, metric])]


def mlflow_times(home: Home, run: Any, metric: str = "val/error") -> list[int]:
    """When a metric's points were measured, in order of their steps."""
    with sqlite3.connect(home.path / "mlflow.db") as database:
        query = "SELECT timestamp FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
        return [time for (time,) in database.execute(query, [run.info.run_id, metric])]


def told(home: Home, name: str = "shapes") -> list[dict[str, Any]]:
    """All that Optuna knows of a study's trials, less the time they took."""
    from tune.findings.study import load_study

    found = load_study(name, home=home.path).records()
    rows = [r.row() | r.params | {"values": r.values, "at": r.intermediate, "folds": r.folds} for r in found]
    return [row | {"seconds": None} for row in rows]
