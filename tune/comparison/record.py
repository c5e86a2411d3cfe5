"""A comparison on disk: which studies answer one question together, and what is held while they are run.

``comparisons/NAME`` of the home holds what a study's folder holds of a driver: lock, state, a request to stop, an event
log for the one run in MLflow below which those of the studies lie. The studies themselves are ordinary ones.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.comparison.race import Left
from tune.definition.spec import StudySpec
from tune.errors import DamagedError
from tune.findings.study import Study
from tune.store.home import Home
from tune.store.layout import COMPARISON_FILE, COMPARISONS, CONFIRM_FILE, check_name, is_plain_name
from tune.store.study_folder import StudyFolder


@dataclass(frozen=True)
class Member:
    """A study that takes part: its method's name, and its own."""

    method: str
    study: str


@dataclass(frozen=True)
class Record:
    """What a comparison was asked for.

    Attributes:
        name: its name.
        members: the studies, the baseline first.
        confirm_seeds: on how many fresh seeds the best of each is trained afterwards; 0: on none.
        created: when, in UTC.
        uid: tells it from another of the same name.
        complete: all of its studies have been made. One that is not was being made when its driver ended.
        epochs_budget: epochs that all methods have together; None: no limit.
        race: methods that cannot win any more get no more of them.
        left: those that have left the race, in order.
    """

    name: str
    members: tuple[Member, ...]
    confirm_seeds: int
    created: str
    uid: str
    complete: bool = False
    epochs_budget: int | None = None
    race: bool = False
    left: tuple[Left, ...] = ()


def new_record(
    name: str,
    members: tuple[Member, ...],
    confirm_seeds: int,
    *,
    epochs_budget: int | None = None,
    race: bool = False,
) -> Record:
    """The record of a new comparison."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = Record(name, members, confirm_seeds, now, uuid.uuid4().hex)
    return replace(made, epochs_budget=epochs_budget, race=race)


class Comparison:
    """A comparison, to be read: works while it runs, and after.

    Args:
        record: what it was asked for.
        home: the home folder.
    """

    def __init__(self, record: Record, home: Home) -> None:
        self.record, self.home = record, home
        self.folder = folder_of(record.name, home)

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    def studies(self) -> list[Study]:
        """The studies that take part, in order.

        Raises:
            ConfigError: one of them has been deleted.
            DamagedError: one of them is damaged.
        """
        return [Study(self.home.existing_study_folder(member.study)) for member in self.record.members]

    def spec_of_run(self) -> StudySpec:
        """What says where the comparison's own run in MLflow goes: to the place of its studies, under its own id."""
        return self.studies()[0].spec.model_copy(update={"uid": self.record.uid})

    def confirmation(self) -> dict[str, Any] | None:
        """What the last confirmation found, or None.

        Raises:
            DamagedError: its file is damaged.
        """
        path = self.folder.path / CONFIRM_FILE
        try:
            document = json.loads(path.read_text())
            if not {"rows", "comparisons", "verdict"} <= document.keys():
                raise ValueError
        except FileNotFoundError:
            return None
        except (AttributeError, ValueError):
            raise DamagedError(
                f"{path} is damaged. The trainings are kept: write it anew with `{self.folder.command('resume')}`."
            ) from None
        return dict(document)

    def keep(self, record: Record) -> None:
        """Write what it was asked for anew."""
        self.record = record
        text = json.dumps(asdict(record), indent=1)
        write_atomically(self.folder.path / COMPARISON_FILE, text.encode())


def folder_of(name: str, home: Home) -> StudyFolder:
    """The folder of a comparison: it is held, stopped and stands like a study.

    Raises:
        ConfigError: the name is not a plain one.
    """
    check_name(name)
    return StudyFolder(home.path / COMPARISONS / name)


def is_comparison(name: str, home: Home) -> bool:
    """Whether a home has a comparison of this name."""
    return is_plain_name(name) and (home.path / COMPARISONS / name / COMPARISON_FILE).is_file()


def comparison_names(home: Home) -> list[str]:
    """Names of a home's comparisons, oldest first."""
    found = (home.path / COMPARISONS).glob(f"*/{COMPARISON_FILE}")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def load_comparison(name: str, home: Home) -> Comparison:
    """A comparison of a home.

    Raises:
        ConfigError: there is none of this name; lists those that there are.
        DamagedError: its file is damaged.
    """
    path = folder_of(name, home).path / COMPARISON_FILE
    if not path.is_file():
        names = comparison_names(home)
        listed = f"Comparisons there: {', '.join(names)}." if names else "There is no comparison there yet."
        raise ConfigError(f"no comparison {name!r} in {home.shown}. {listed}")
    try:
        document = json.loads(path.read_text())
        members = tuple(Member(**each) for each in document.pop("members"))
        left = tuple(Left(**each) for each in document.pop("left", ()))  # earlier versions had no race
        return Comparison(Record(members=members, left=left, **document), home)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{path} is damaged ({error}): it says which studies belong together. Restore it from a backup, or carry "
            "each study on by its own name (`ssl-tune studies`)."
        ) from None


def make_comparison(record: Record, home: Home) -> Comparison:
    """Make the folder of a new comparison and hold it.

    What an earlier driver of this name had made before it ended within seconds is removed.

    Raises:
        ConfigError: there is a comparison or a study of this name, or of the name of one of its studies.
        ServiceError: another driver is making it.
    """
    folder = folder_of(record.name, home)
    if is_comparison(record.name, home):
        _remove_half_made(load_comparison(record.name, home))
    for name in (record.name, *(member.study for member in record.members)):
        if home.has_study(name):
            raise ConfigError(
                f"there is a study {name!r} already, and a comparison needs that name. Choose another --name."
            )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the home folder {home.path} cannot be used: {error.strerror}. Name another with --home or SSL_TUNE_HOME."
        ) from None
    folder.lock()
    made = Comparison(record, home)
    made.folder = folder
    folder.set_state("running")
    made.keep(record)
    return made


def _remove_half_made(found: Comparison) -> None:
    if found.record.complete:
        way_on = (
            "It is finished: choose another --name."
            if found.folder.state() == "finished"
            else f"Carry it on with `{found.folder.command('resume')}`, or choose another --name."
        )
        raise ConfigError(f"the comparison {found.name!r} exists already. {way_on}")
    found.folder.lock()  # refused where another driver is making it
    remove(found)


def remove(made: Comparison, *, is_first: bool = False) -> None:
    """Remove a comparison that came to nothing, with its studies; this process holds it.

    Args:
        made: the comparison.
        is_first: the home was made for it, and goes with it.
    """
    from tune.launch.preparation import remove_study  # loads what a command that reads does not need

    made.folder.unlock()
    shutil.rmtree(made.folder.path)
    with suppress(OSError):
        made.folder.path.parent.rmdir()
    for member in made.record.members:
        folder = StudyFolder(made.home.study_folder(member.study))
        if folder.path.exists():
            folder.lock()
            remove_study(folder, made.home, is_first=is_first)
    with suppress(OSError):  # where no study had been made yet
        made.home.path.rmdir()
