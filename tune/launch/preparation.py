"""What comes before a study's first trial: the study is made, machines are checked, the data are read.

Ray and the sender take seconds to start and need no data, so they are started first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_core import method_file
from ssl_core.system.errors import ConfigError
from ssl_core.system.version import __version__
from tune.cluster import connection
from tune.cluster.gpus import check_gpus
from tune.cluster.readiness import folders_of, make_ready, told_of_places
from tune.definition.spec import StudySpec
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import ServiceError, has_password
from tune.findings.study import Study
from tune.images.held_out import keep_held_out
from tune.images.study import read_images, write_images
from tune.launch.counts import lines_of
from tune.launch.fitting import places_that_fit, price_lines
from tune.launch.plan import Expectation, keep_expectation, looked_at, warnings_of
from tune.store.home import Home
from tune.store.layout import COMPARISONS, MEASURED_FILE, MLFLOW_DB, STUDY_FILE
from tune.store.study_folder import StudyFolder


def create_study(
    spec: StudySpec, folder: StudyFolder, say: Callable[[str], None] = lambda message: None
) -> None:
    """Make the folder of a new study, locked by this process, with the trials that it takes over; `say`: how many.

    Raises:
        ConfigError: there is a study or a comparison of this name, or the place cannot be used.
        ServiceError: the trials' storage does not answer.
    """
    if (folder.path.parents[1] / COMPARISONS / spec.name).exists():
        raise ConfigError(f"there is a comparison {spec.name!r} already. Choose another --name.")
    if spec.storage is not None:
        from tune.trials.optuna_storage import check_name_is_free  # loads Optuna and SQLAlchemy

        check_name_is_free(spec, folder)
    folder.create(spec)
    if spec.warm_start is not None:
        from tune.trials.handover import keep_warm_trials  # loads Optuna

        try:
            say(keep_warm_trials(folder, spec))
        except (
            ConfigError,
            ServiceError,
            OSError,
        ):  # the earlier study's storage is away: nothing is left behind
            folder.remove()
            raise


def remove_study(folder: StudyFolder, home: Home, *, is_first: bool) -> None:
    """Take away a study that came to nothing.

    Args:
        folder: the study's folder, locked by this process.
        home: the home folder.
        is_first: the home was made for this study, and goes with it.
    """
    folder.remove()
    if is_first and not home.studies.exists():  # nobody else has begun one
        for database in home.path.glob(f"{MLFLOW_DB}*"):  # the sender may have made its tables
            database.unlink()
        (home.cache / MEASURED_FILE).unlink(missing_ok=True)
        for folder_of_home in (home.cache, home.path):
            with suppress(OSError):
                folder_of_home.rmdir()


@contextmanager
def prepared(sitting: Sitting, undo: Callable[[], None]) -> Iterator[Sitting]:
    """A sitting, ready for its first trial: machines are checked, the data read, and Ray and the sender are starting.

    Args:
        sitting: it is entered here.
        undo: called where the sitting cannot be prepared, once nothing of it writes to the study's folder any more.

    Raises:
        ConfigError, ServiceError: what is wrong with the data or the cluster, after `undo`.
        ServiceError: Ctrl-C; says how to carry on.
    """
    with sitting:
        try:
            sitting.start_sender()
            sitting.start_ray()
            check_machines(sitting.spec, sitting.folder, sitting.progress.say)
            is_new = sitting.spec.split_hash is None
            warned = warnings_of(sitting.spec) if is_new else []
            sitting.spec, told = with_data(sitting.spec, sitting.folder, sitting.home)
        except (ConfigError, ServiceError):
            sitting.release()
            undo()
            raise
        except KeyboardInterrupt:
            raise sitting.interrupted_early() from None
        for line in [*told, *[f"warning: {line}" for line in warned]]:
            sitting.progress.say(line)
        yield sitting


def check_machines(
    spec: StudySpec,
    folder: StudyFolder,
    say: Callable[[str], None],
    remedy: str = "The study began with them: carry it on where they are.",
) -> None:
    """Find what would make trials wait for ever, or fail on other machines, before any starts.

    Args:
        spec: the study.
        folder: its folder.
        say: told what is waited for, where a cluster has to start machines first.
        remedy: what to do where this machine has too few GPUs.

    Raises:
        ConfigError: a machine that differs, or none that can hold a trial.
        ServiceError: storage that is not shared.
    """
    if spec.address is None:
        # Known of a new study, but this one may have begun elsewhere.
        check_gpus(spec.gpus_per_trial, remedy)
        return
    shared = folder.path if folder.remote is None else folder.remote.store
    threads, gpus = int(spec.config["threads"]), spec.gpus_per_trial
    make_ready(shared, folders_of([spec.config["dataset"]], spec.data_root), threads, gpus, say)
    if not spec.elastic:
        for line in told_of_places(spec.concurrent, threads, gpus):
            say(line)


def with_data(spec: StudySpec, folder: StudyFolder, home: Home) -> tuple[StudySpec, list[str]]:
    """Decode the data once for all trials, and tie the study to its split.

    Returns:
        The study, and what is to be said of its images.

    Raises:
        ConfigError: data that cannot be used, or that are not those the study began with.
    """
    if spec.split_hash is None:
        return _with_new_data(spec, folder, home)
    from ssl_core.preparation import prepare

    base, root = spec.base_config(), Path(spec.data_root) if spec.data_root else None
    if spec.address is not None:  # the device is a worker's; this machine only decodes
        base = base.model_copy(update={"device": "cpu"})
    images = read_images(folder.path)
    membership = None if images is None else images.membership
    config, _, split = prepare(base, data_root=root, cache=home.cache, membership=membership)
    if split.hash != spec.split_hash:
        raise ConfigError(
            f"the data of {config.dataset} changed since the study {spec.name!r} began: its split is "
            f"{spec.split_hash}, now it would be {split.hash}. Bring the old data back, or start a new study."
        )
    return spec, []


def _with_new_data(spec: StudySpec, folder: StudyFolder, home: Home) -> tuple[StudySpec, list[str]]:
    from ssl_core.preparation import fold_hashes  # loads torch
    from ssl_core.system.environment import fingerprint

    config, data, split, images, told = looked_at(spec, home, home.cache)
    if spec.address is None:
        made_on = fingerprint(config.device)
    else:
        chosen, made_on = connection.chosen_there(
            spec.config, int(spec.config["threads"]), spec.gpus_per_trial
        )
        config = config.model_copy(update=chosen)
    known = {"config": config.document(), "split_hash": split.hash, "fingerprint": made_on}
    spec = spec.model_copy(update={**known, "fold_hashes": fold_hashes(config, data, split, spec.folds)})
    write_images(folder.path, images)
    folder.write_spec(spec)
    keep_held_out(home, config.dataset, images.membership)
    said: list[str] = []
    if spec.address is None:  # how long a step takes here says nothing of a cluster's machines
        expected = keep_expectation(folder, spec, config, data, split, home)
        fitting = places_that_fit(spec, expected)
        if fitting < spec.concurrent:
            told = [*told, _fewer(spec.concurrent, fitting, expected)]
            spec = spec.model_copy(update={"concurrent": fitting})
            folder.write_spec(spec)
        said = price_lines(spec, expected)
    return spec, [*lines_of(images), *[f"warning: {line}" for line in told], *said]


def _fewer(asked: int, fitting: int, expected: Expectation) -> str:
    assert expected.memory_bytes is not None
    return (
        f"--concurrent is {fitting} instead of {asked}: a trial takes about {expected.memory_bytes / 1e9:.1f} GB of "
        "memory, and this machine does not hold more of them side by side."
    )


def say_if_method_changed(study: Study, progress: Progress) -> None:
    """Say so where the file of a method of the user's own has changed: the study goes on with its own copy."""
    path, digest = study.spec.method_path, study.spec.config.get("method_digest")
    if path is None:
        return
    try:
        same = method_file.digest_of(method_file.read(Path(path))) == digest
    except ConfigError:
        same = False
    if not same:
        copy = study.folder.path / method_file.COPY
        progress.say(
            f"{path} was changed or moved since the study began: it goes on with its own copy, {copy}"
        )


def say_if_version_changed(study: Study, progress: Progress) -> None:
    """Say so where the study was begun with another version: the same configuration may have other bits in this one."""
    begun = (study.spec.fingerprint or {}).get("ssl-tune")
    if begun is not None and begun != __version__:
        progress.say(
            f"warning: {study.name} was begun with ssl-tune {begun}, and goes on with {__version__}: from here on the "
            "same configuration and seed may give another val/error than in its earlier trials, as another seed would. "
            f"For the bits of before install ssl-tune {begun}"
        )


def say_if_password_kept(study: Study, progress: Progress) -> None:
    """Say so where a study of an earlier version keeps a password in its specification."""
    if study.spec.storage is not None and has_password(study.spec.storage):
        progress.say(
            f"warning: {study.folder.path / STUDY_FILE} holds the password of `storage`. Take it out there, and put it "
            "into SSL_TUNE_STORAGE_PASSWORD, or into the file that SSL_TUNE_STORAGE_PASSWORD_FILE names"
        )
