"""Names of the files and folders of a home and of its studies, in one place.

HOME/mlflow.db, mlartifacts/, cache/         what MLflow keeps, and decoded images
     cache/measured.json                     how long steps of training took on this machine: `tune.launch.pricing`
     cache/warmups/KEY/epoch-N.ckpt          warm-ups that trainings share, by what they depend on
     test-readings.jsonl                     every reading of a test set
     held-out/DATASET-DIGEST.json            test images of a data set that brings none: never trained on again
     studies/NAME/study.yaml                 what was asked, resolved
                  images.json                which images are labelled, for validation and test
                  state.json                 finished, interrupted or failed; "running" with a free lock is interrupted
                  method.py                  the study's own copy of a method that does not come with the package
                  lock                       held by the one driver
                  stop                       there while somebody asks that driver to end its sitting
                  inbox/                     what else somebody asks of it (`tune.steering.inbox`), until it is done
                  optuna.db                  trials: parameters, intermediate values, end states
                  events.db                  every report, and what tracking still owes
                  sender.lock, sender.log    of the process that delivers to MLflow
                  plan.json                  what the study was expected to take
                  warm-start.json            trials that were taken over from an earlier study
                  confirm.json, confirm/     what a confirmation found, and its trainings
                  models/                    models of the confirmed trainings
                  trials/N/                  checkpoints of a trial
                  ray/                       what Ray Tune writes while a sitting lasts, and nobody reads
     comparisons/NAME/comparison.json        which studies answer one question together
                      state.json, lock, stop, events.db, sender.*, ray/    as of a study
                      confirm.json           their best on fresh seeds, and the answer
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from ssl_core.system.errors import ConfigError

# A home

STUDIES, CACHE, ARTIFACTS = "studies", "cache", "mlartifacts"
WARMUPS = "warmups"
"""The folder of warm-ups that trainings share, in the cache (`ssl_core.training.warmups.store`)."""
MLFLOW_DB = "mlflow.db"
READINGS_FILE = "test-readings.jsonl"
MEASURED_FILE = "measured.json"
HELD_OUT = "held-out"
"""The folder of records of test images that were held out, one file for each data set."""
COMPARISONS, COMPARISON_FILE = "comparisons", "comparison.json"
STORE_FILE = "store-url"
"""In a working copy: the URL of its object store."""
COPY_FILE = "copy"
"""In a working copy: a random name, which tells it from other machines' copies of the same store."""

# A study

STUDY_FILE, STATE_FILE = "study.yaml", "state.json"
LOCK_FILE, STOP = "lock", "stop"
INBOX = "inbox"
"""The folder of wishes that no driver has carried out yet, one file each."""
PARTS = "parts"
"""In an object store: the folder of parts of databases, below a study's (`tune.store.changes.chain`)."""
OPTUNA_DB, EVENTS_DB = "optuna.db", "events.db"
SENDER_LOCK, SENDER_LOG = "sender.lock", "sender.log"
IMAGES_FILE = "images.json"
PLAN_FILE = "plan.json"
"""What a study is expected to take."""
WARM_START_FILE = "warm-start.json"
CONFIRM_FILE, CONFIRM_FOLDER, MODELS = "confirm.json", "confirm", "models"
TRIALS, RAY_FOLDER = "trials", "ray"

ERROR_FILE, FAILURES_FILE, VERDICT_FILE = FAILURE_FILES = "error.txt", "failures", "killed-for-memory.txt"
"""What a worker leaves of a trial's failures in the trial's folder."""

# A study in an object store, and the working copy of it

INCARNATION = "incarnation"
"""Holds the study's unique id: two studies of the same name in one store differ in it."""
KNOWN = "store.json"
"""In a working copy: the snapshot that it was made from, or that it was last written to."""
LIMIT_FILE = "durable"
"""Beside the event log: the id of the last event that the store has. MLflow may hear of no later one: a driver that
carries on elsewhere does not know those, and may do otherwise."""
DRIVER = "driver.json"
LEASES = "drivers"
"""Holds an object for each driver that has taken the study, by number; the newest is the one that has it."""
FETCH_LOCK = "fetch.lock"


def prefix_of(study: str) -> str:
    """Where a study lies in its store."""
    return f"{STUDIES}/{study}"


_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


def is_plain_name(name: str) -> bool:
    """Whether a study may have this name: it is that of a folder, and part of others."""
    return _PLAIN_NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raise ConfigError unless a study's name is a plain one."""
    if not is_plain_name(name):
        raise ConfigError(
            f"{name!r} cannot be a study's name: take letters, digits and . _ @ + - (at most 100, the first a "
            "letter or digit; no folders)."
        )


def stays_inside(name: str) -> bool:
    """Whether a name from a store or an archive, parts joined by "/", lies below the folder that it is joined to."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts)


_WISH = re.compile(r"[0-9]{16}-[0-9a-f]{32}\.json")


def is_wish_name(name: str) -> bool:
    """Whether a file of the inbox has this name: the time in microseconds, and a random word. Names sort by time."""
    return _WISH.fullmatch(name) is not None


IN_HOME = f"home:{MLFLOW_DB}"
"""The tracking URI of a study that is tracked in its home's own database, as the study keeps it."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file as SQLAlchemy reads it: what has a meaning in a URL is quoted."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def sqlite_file(url: str) -> Path | None:
    """The file that a SQLite URL names, as SQLAlchemy reads it; None where it names none."""
    kind, _, rest = url.partition("://")
    path = unquote(rest.partition("?")[0].removeprefix("/"))
    return Path(path) if kind.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def kept_uri(uri: str, home: Path) -> str:
    """A tracking URI as a study keeps it: the home's own database without the home's path, which may be moved."""
    return IN_HOME if uri == sqlite_url(home / MLFLOW_DB) else uri


def uri_here(kept: str, home: Path, study: str) -> str:
    """The tracking URI that a study kept, as it is now that its home is here.

    An earlier version kept the whole path: it is taken for this home's where the study is not there any more.
    """
    here = sqlite_url(home / MLFLOW_DB)
    if kept == IN_HOME:
        return here
    file = sqlite_file(kept)
    if file is None or file.name != MLFLOW_DB or not file.is_absolute() or not (home / MLFLOW_DB).exists():
        return kept
    return kept if (file.parent / STUDIES / study / STUDY_FILE).exists() or file.exists() else here
