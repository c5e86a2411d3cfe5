"""A study on disk: its folder, its lock, its state and its specification.

`tune.store.layout` lists the files. In a home that is a place in an object store the folder is a working copy: see
`tune.store.remote_study`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from search_spaces import dump_yaml
from ssl_core import method_file
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError
from tune.store.integrity import damaged, half_made, read_json
from tune.store.layout import (
    EVENTS_DB,
    INBOX,
    INCARNATION,
    LOCK_FILE,
    OPTUNA_DB,
    STATE_FILE,
    STOP,
    STUDY_FILE,
    TRIALS,
    kept_uri,
)
from tune.store.mirror import Mirror
from tune.store.remote_study import remote_of

LOOK_SECONDS = 2.0
"""How long a driver waits for commands that look at a study, each of which holds its lock for a moment."""
STATES = ("running", "finished", "interrupted", "failed")


class StudyFolder:
    """Paths and state of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.optuna_db = path / OPTUNA_DB
        self.events_db = path / EVENTS_DB
        self.trials = path / TRIALS
        self.remote = remote_of(path)
        self._lock: TextIO | None = None
        self._mirror: Mirror | None = None

    def create(self, spec: StudySpec) -> None:
        """Make the folder, take its lock and write the specification, in this order.

        A folder that an earlier driver had made when it was killed, and that holds no study yet, is used.

        Raises:
            ConfigError: if a study of this name exists, or the folder cannot be made.
            DamagedError: what is there is a study that has lost its specification.
            ServiceError: another driver is making a study of this name.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.remote is not None and not self.remote.exists() and not self._is_locked_here():
                shutil.rmtree(self.path, ignore_errors=True)  # the copy of one that is not there any more
            self.path.mkdir()
        except FileExistsError:
            self._check_half_made()
        except OSError as error:
            raise ConfigError(
                f"the home folder {self.path.parent.parent} cannot be used: {error.strerror}. "
                "Name another with --home or SSL_TUNE_HOME."
            ) from None
        self.lock()
        try:
            self._check_half_made()  # of two that find a half-made one, the first has made it by now
        except (ConfigError, ServiceError):
            self.unlock()
            raise
        self.set_state("running")
        method_file.keep(self.path, spec.config.get("method_digest"))
        self.write_spec(spec)
        if self.remote is not None:
            (self.path / INCARNATION).write_text(spec.uid)
        self.commit()

    def command(self, verb: str, *words: str) -> str:
        """A command about this study, which works as printed wherever it is typed."""
        home = self.remote.store.url if self.remote is not None else str(self.path.parent.parent)
        return shlex.join(["ssl-tune", verb, self.path.name, *words, "--home", home])

    def _way_on(self) -> str:
        if self.state() != "finished":
            return f"Carry it on with `{self.command('resume')}`, or choose another --name."
        return (
            f"It is finished: let it grow with `{self.command('resume', '--trials')} N`, or choose another --name and "
            f"begin from what it learned with `--warm-start {self.path.name}`."
        )

    def _check_half_made(self) -> None:
        """Refuse to make a study where there is one."""
        if (self.path / STUDY_FILE).exists():
            raise ConfigError(f"the study {self.path.name!r} exists already. {self._way_on()}")
        if not half_made(self.path):
            raise damaged(self.path / STUDY_FILE, "it is missing")

    def write_spec(self, spec: StudySpec) -> None:
        """Write ``study.yaml``, whole or not at all."""
        document = spec.model_dump(mode="json")
        document["tracking_uri"] = kept_uri(spec.tracking_uri, self.path.parent.parent)
        write_atomically(self.path / STUDY_FILE, dump_yaml(document).encode())

    def lock(self) -> None:
        """Become the study's driver; the lock of a driver that died is free.

        Raises:
            ServiceError: if another driver holds it.
            StoreError: the home is an object store that does not answer.
        """
        try:
            file = (self.path / LOCK_FILE).open("a+")
        except OSError as error:
            self._not_writable(error)
        if not self._got(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ServiceError(
                f"the study {self.path.name!r} is in use by another driver (process {holder}). "
                f"Wait for it, or end its sitting with `{self.command('stop')}`.",
                Exit.IN_USE,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file
        (self.path / STOP).unlink(missing_ok=True)  # meant for the driver before
        if self.remote is not None:
            try:
                self._mirror = Mirror(self.remote)
            except BaseException:
                self.unlock()
                raise

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written, for a command that cannot do without.

        Raises:
            ServiceError: it cannot.
        """
        try:  # permissions alone do not tell
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            self._not_writable(error)

    def is_writable(self) -> bool:
        """Whether files can be made in the folder."""
        try:
            self.check_writable()
        except ServiceError:
            return False
        return True

    def _not_writable(self, error: OSError) -> NoReturn:
        raise ServiceError(
            f"the study {self.path.name!r} can be read here, but not written: {self.path}: {error.strerror}. Carrying "
            "it on and delivering it to MLflow need a home that this user may write: go where it is, or to a copy.",
            Exit.STORAGE,
        ) from None

    def _got(self, file: TextIO) -> bool:
        """Take the lock; whether it was free.

        A command that looks whether a driver holds it holds it for a moment itself, together with others. In an object
        store's working copy one that brings it up to date holds it alone. Both are waited for.
        """
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline or (self.remote is None and _is_held(file)):
                    return False
                time.sleep(0.02)

    def request_stop(self) -> None:
        """Ask the driver, whoever and wherever it is, to end its sitting resumably."""
        if self.remote is not None and not self._is_locked_here():
            self.remote.request_stop()
        else:
            (self.path / STOP).touch()

    def stop_requested(self) -> bool:
        """Whether somebody asked for that since the lock was taken."""
        return (self.path / STOP).exists()

    def drop_wish(self, name: str) -> None:
        """Remove a wish from the inbox once it is carried out (`tune.steering.inbox`)."""
        if self._mirror is not None:
            self._mirror.forget_wish(name)
        (self.path / INBOX / name).unlink(missing_ok=True)

    def is_mine(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def unlock(self) -> None:
        """Let go of the lock; does nothing where it is not held.

        Raises:
            ServiceError: the home is an object store, and the last state could not be written there.
        """
        mirror, self._mirror = self._mirror, None
        try:
            if mirror is not None:
                mirror.close()
        except OSError as error:
            assert self.remote is not None
            raise ServiceError(
                f"{error}. The last state of {self.path.name} is on this machine alone, in {self.path}: once the store "
                f"can be written, go on here.\nCarry on with: {self.command('resume')}",
                Exit.STORAGE,
            ) from None
        finally:
            if self._lock is not None:
                with contextlib.suppress(OSError):  # whoever finds it held tells this number
                    self._lock.truncate(0)
                self._lock.close()
                self._lock = None

    def commit(self) -> None:
        """In a home that is an object store: write there what has changed; returns when it is durable.

        Raises:
            StoreError: it could not be written, or the study is another driver's now.
        """
        if self._mirror is not None:
            self._mirror.commit()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """For the block, hold a study in an object store, and write there what changed; a folder needs nothing of that.

        Raises:
            ServiceError: the study is being driven.
        """
        if self.remote is None:
            yield
            return
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def trouble(self) -> str | None:
        """Why this driver's state could not be written to its object store for too long; None where all is well."""
        return None if self._mirror is None else self._mirror.trouble

    def keep(self, trial: int, name: str) -> None:
        """Give a file of a trial's folder to the object store, for workers on other machines."""
        if self.remote is not None:
            self.remote.keep(trial, name)

    def bring(self, trial: int, name: str) -> None:
        """Get a file of a trial's folder that a worker on another machine wrote."""
        if self.remote is not None:
            self.remote.bring(trial, name)

    def drop_trial(self, trial: int) -> None:
        """Remove the files of a trial that nobody carries on."""
        shutil.rmtree(self.trials / str(trial), ignore_errors=True)
        if self._mirror is not None:
            self._mirror.forget_trial(trial)

    def is_locked(self) -> bool:
        """Whether a driver holds the lock."""
        return self._is_locked_here() or (self.remote is not None and self.remote.driver() is not None)

    def _is_locked_here(self) -> bool:
        path = self.path / LOCK_FILE
        if self._lock is not None or not path.exists():
            return self._lock is not None
        try:
            with path.open() as file:
                return _is_held(file)
        except OSError:  # this user may not even read it, or the file system knows no locks
            return False

    def set_state(self, state: str) -> None:
        """Write how the study stands: running, finished, interrupted or failed."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomically(self.path / STATE_FILE, json.dumps({"state": state, "time": now}).encode())

    def state(self) -> str:
        """running, finished, interrupted or failed.

        Raises:
            DamagedError: the file that says so is damaged.
        """
        path = self.path / STATE_FILE
        document = read_json(path) if path.exists() else {"state": "running"}
        noted = document.get("state") if isinstance(document, dict) else None
        if noted not in STATES:
            raise damaged(path, f"state = {noted!r}: one of {', '.join(STATES)} is expected")
        return "interrupted" if noted == "running" and not self.is_locked() else str(noted)

    def remove(self) -> None:
        """Remove a folder that this process made and that came to nothing."""
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.abandon()
        self.unlock()
        shutil.rmtree(self.path)
        for parent in self.path.parents[:2]:  # studies/ and the home folder, where they were made for it
            try:
                parent.rmdir()
            except OSError:
                break


def _is_held(file: TextIO) -> bool:
    """Whether a driver holds this lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
