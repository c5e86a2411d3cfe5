"""Asks something of a study, whoever drives it: its driver does it, or where there is none this process."""

from __future__ import annotations

import time

from ssl_core.system.errors import ConfigError
from tune.errors import Exit, ServiceError
from tune.steering import inbox
from tune.steering.inbox import Wish
from tune.steering.steering import Steering
from tune.store.event_log import EventLog
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.tracking import history
from tune.trials.study_trials import StudyTrials

LOOK_SECONDS = 0.1
PATIENCE = 60.0
"""Seconds after which a driver that has not looked is not waited for any longer; the wish stays."""


def ask(folder: StudyFolder, wish: Wish, patience: float = PATIENCE) -> str:
    """Have a wish carried out; returns when it is durable.

    Args:
        folder: the study's folder.
        wish: what is asked for, checked by the caller (`tune.steering.checks`).
        patience: how many seconds to wait for the driver.

    Returns:
        What was done: a sentence without its full stop. Where no trial of the study has begun yet: when it will be.

    Raises:
        ConfigError: it could not be done any more.
        ServiceError: the driver has not looked yet: it will, as soon as it can.
    """
    inbox.put(folder, wish)
    if not folder.is_locked() and not _has_begun(folder):
        return "it is done when the study is carried on"
    deadline = time.monotonic() + patience
    while wish.name in inbox.waiting(folder):
        if not folder.is_locked():
            try:
                carry_out(folder)
                continue
            except ServiceError as error:
                if error.code != Exit.IN_USE:
                    raise
        if time.monotonic() >= deadline:
            raise ServiceError(
                f"the driver of {folder.path.name!r} has not looked yet. What was asked for is kept, and is done as "
                f"soon as it can be; see `{folder.command('status')}`.",
                Exit.IN_USE,
            )
        time.sleep(LOOK_SECONDS)
    return _outcome(folder, wish)


def carry_out(folder: StudyFolder) -> None:
    """Do what waits in the inbox of a study that nobody drives.

    Raises:
        ServiceError: somebody does, or its storage does not answer.
    """
    folder.lock()
    try:
        more = any(wish.kind in ("grow", "retry") for wish in inbox.read(folder))
        spec = read_spec(folder.path)
        records = StudyTrials(folder, spec)
        try:
            with EventLog(folder.events_db, shared=spec.address is not None) as log:
                Steering(folder, records, log).look()
            left = records.asked() < records.spec.trials or records.unfinished()
            if more and left and folder.state() == "finished":
                folder.set_state(
                    "interrupted"
                )  # its driver had ended before it looked: `resume` runs what is new
        finally:
            records.close()
    finally:
        folder.unlock()


def _has_begun(folder: StudyFolder) -> bool:
    """Whether a driver has begun the study's run: before, there is nothing that a note could belong to."""
    if not folder.events_db.exists():
        return False
    with EventLog(folder.events_db, read_only=True) as log:
        return log.find(f"{folder.path.name}:start") is not None


def _outcome(folder: StudyFolder, wish: Wish) -> str:
    if folder.remote is not None:
        folder.remote.fetch()
    with EventLog(folder.events_db, read_only=True) as log:
        note = history.noted(log, folder.path.name, wish.name)
    if note is None:
        return "it is done"
    if "refused" in note.payload:
        raise ConfigError(str(note.payload["refused"]))
    return str(note.payload["said"])
