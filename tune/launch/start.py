"""Search a study: create or carry on, decode the data, run, and say how it ended."""

from __future__ import annotations

import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ssl_core import method_file
from ssl_core.system.errors import ConfigError
from tune.cluster.capacity import check_fit
from tune.cluster.connection import joined, machines_of
from tune.cluster.gpus import check_gpus
from tune.definition.request import SearchRequest
from tune.definition.request_options import RequestOptions
from tune.definition.spec import StudySpec
from tune.delivery.check import require_tracking
from tune.errors import Exit, ServiceError
from tune.findings.study import Study
from tune.launch.afterwards import check_afterwards
from tune.launch.preparation import HeadStart, head_start
from tune.launch.request import resolve_request
from tune.signals import asking_to_stop
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

if TYPE_CHECKING:
    from tune.engine.progress import Progress
    from tune.engine.sitting import Engine


@dataclass(frozen=True)
class Outcome:
    """How a sitting of a study ended.

    Attributes:
        study: the study.
        code: what the command exits with.
        pending: events that tracking still owes.
        seconds: that the sitting took.
        refused: events that MLflow refused for good.
        trouble: what could not be written, where that is why it ended.
        sender: still delivers to MLflow, where that was left to what comes after.
    """

    study: Study
    code: Exit
    pending: int
    seconds: float
    refused: int = 0
    trouble: str | None = None
    sender: subprocess.Popen[bytes] | None = None


Then = Callable[[Outcome], None]


def _nothing(outcome: Outcome) -> None:
    """What comes after a search where nothing does."""


def search(
    method: str = "pseudo_label",
    dataset: str = "digits",
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    **options: Unpack[RequestOptions],
) -> Study:
    """Search a method's hyperparameters on this machine; returns the finished study.

    Args:
        method: the method, see ``ssl-tune methods``.
        dataset: digits, cifar10, cifar100 or folder:PATH.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.
        quiet: show no progress.
        options: the other options of a search, see `tune.definition.request_options.RequestOptions`.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: another driver has the study.
    """
    place = Home(home)
    request = SearchRequest(method=method, dataset=dataset, **options)
    if request.confirm_seeds is not None:
        raise ConfigError(
            f"confirm_seeds = {request.confirm_seeds}: `search` does not confirm. Call "
            "`tune.confirmation.confirm.confirm(name, seeds=N)` after it."
        )
    study = start(request, place, _progress(quiet)).study
    if request.with_baseline:
        from tune.launch.baseline import tune_baseline

        tune_baseline(study, place, _progress(quiet))
    return study


def resume(name: str, *, home: Path | str | None = None, quiet: bool = False) -> Study:
    """Carry on a study that was interrupted; one that is finished is returned as it is.

    Raises:
        ConfigError: no such study, or its data changed since.
        ServiceError: another driver has it.
    """
    return carry_on(name, Home(home), _progress(quiet)).study


def start(
    request: SearchRequest, home: Home, progress: Progress, then: Then = _nothing, *, more: bool = False
) -> Outcome:
    """Create the study that is asked for and run it.

    Args:
        request: what is asked for.
        home: the home folder.
        progress: shows how it goes.
        then: called with the outcome while Ray is still there, for what comes after the search.
        more: `then` goes on with the study's tracking, so the search does not wait for MLflow.
    """
    with joined(request.address):
        spec = resolve_request(request, home, machines_of(request.address))
        check_afterwards(request, spec, home)
        if spec.require_tracking:
            require_tracking(spec.tracking_uri)
        folder, is_first = StudyFolder(home.study_folder(spec.name)), not home.path.exists()
        _create(spec, folder)
        progress.say(f"study {spec.name}: reading {spec.config['dataset']}, starting Ray")
        with _ready(spec, folder, home, lambda: _undo(folder, home, is_first)) as (spec, begun):
            outcome = _run(spec, folder, home, progress, begun, more=more)
            then(outcome)
    return outcome


def _create(spec: StudySpec, folder: StudyFolder) -> None:
    if spec.storage is not None:
        from tune.trials.optuna_storage import check_name_is_free

        check_name_is_free(spec, folder)
    folder.create(spec)
    if spec.warm_start is not None:
        from tune.trials.handover import keep_warm_trials

        keep_warm_trials(folder, spec)


def carry_on(
    name: str, home: Home, progress: Progress, address: str | None = None, then: Then = _nothing
) -> Outcome:
    """Run what is left of a study.

    Args:
        name: the study's name.
        home: the home folder.
        progress: shows how it goes.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.
        then: as for `start`; also called where the study is finished already.
    """
    study = Study(home.existing_study_folder(name))
    folder = study.folder
    if folder.state() == "finished":
        tracking = study.status()["tracking"]
        code = Exit.TRACKING_PENDING if tracking["pending"] or tracking["refused"] else Exit.DONE
        if not folder.is_locked():
            with folder.settled():
                pass
        outcome = Outcome(study, code, tracking["pending"], 0.0, tracking["refused"])
        then(outcome)
        return outcome
    spec = study.spec
    if address is not None:
        local = address == "local"
        update = {"address": None if local else address, "elastic": spec.elastic and not local}
        spec = spec.model_copy(update=update)
    if spec.require_tracking:
        require_tracking(spec.tracking_uri)
    with joined(spec.address):
        folder.lock()
        _say_if_changed(study, progress)
        with _ready(spec, folder, home, folder.unlock) as (spec, begun):
            if spec != study.spec:
                folder.write_spec(spec)
            outcome = _run(spec, folder, home, progress, begun)
            then(outcome)
    return outcome


def _undo(folder: StudyFolder, home: Home, is_first: bool) -> None:
    """Take away a study that came to nothing, and with the first one of a home the home."""
    folder.remove()
    if is_first and not home.studies.exists():  # nobody else has begun one
        for database in home.path.glob("mlflow.db*"):  # the sender may have made its tables
            database.unlink()
        with suppress(OSError):
            home.path.rmdir()


@contextmanager
def _ready(
    spec: StudySpec, folder: StudyFolder, home: Home, undo: Callable[[], None]
) -> Iterator[tuple[StudySpec, HeadStart]]:
    """What a sitting needs, for the block: the data read, Ray and the sender being started meanwhile.

    Raises:
        ConfigError, ServiceError: what is wrong with the data or the cluster, after `undo`; or Ctrl-C.
    """
    with ExitStack() as stack:
        try:
            begun = stack.enter_context(head_start(spec, folder, home))
            _check_machines(spec, folder)
            spec = _with_data(spec, folder, home)
        except (ConfigError, ServiceError):
            stack.close()  # the sender writes to the folder
            undo()
            raise
        except KeyboardInterrupt:
            raise _interrupted_early(folder, home) from None
        yield spec, begun


def _check_machines(spec: StudySpec, folder: StudyFolder) -> None:
    """Find what would make trials wait for ever, or fail on other machines, before any starts.

    Raises:
        ConfigError: a machine that differs, or none that can hold a trial.
        ServiceError: storage that is not shared.
    """
    if spec.address is None:
        # Known of a new study, but this one may have begun elsewhere.
        check_gpus(spec.gpus_per_trial, "The study began with them: carry it on where they are.")
        return
    from tune.cluster import connection, probe
    from tune.cluster.identity import identity

    kind, _, path = spec.config["dataset"].partition("folder:")
    folders = [Path(path)] if path and not kind else []
    folders += [Path(spec.data_root)] if spec.data_root else []
    shared = folder.path if folder.remote is None else folder.remote.store
    probe.check_probes(probe.probe(shared, folders), identity())
    check_fit(connection.machines(), int(spec.config["threads"]), spec.gpus_per_trial)


def _say_if_changed(study: Study, progress: Progress) -> None:
    """A study goes on with the method that it began with, whatever became of the file since."""
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


def _interrupted_early(folder: StudyFolder, home: Home) -> ServiceError:
    """Ctrl-C before the first trial: the study is there, and can be carried on."""
    folder.set_state("interrupted")
    folder.unlock()
    command = shlex.join(["ssl-tune", "resume", folder.path.name, "--home", home.shown])
    return ServiceError(f"interrupted. Carry on with: {command}", Exit.INTERRUPTED)


def _with_data(spec: StudySpec, folder: StudyFolder, home: Home) -> StudySpec:
    """Decode the data once for all trials, and tie the study to its split.

    Raises:
        ConfigError: data that cannot be used, or that are not those the study began with.
    """
    from ssl_core.system.environment import fingerprint
    from ssl_core.training.result import prepare

    root = Path(spec.data_root) if spec.data_root else None
    base = spec.base_config()
    if spec.address is not None:  # the device is a worker's; this machine only decodes
        base = base.model_copy(update={"device": "cpu"})
    config, data, split = prepare(base, data_root=root, cache=home.cache)
    if spec.split_hash is None:
        if spec.address is None:
            made_on = fingerprint(config.device)
        else:
            from tune.cluster.connection import resolve_there

            chosen, made_on = resolve_there(spec)
            config = config.model_copy(update=chosen)
        spec = spec.model_copy(
            update={"config": config.document(), "split_hash": split.hash, "fingerprint": made_on}
        )
        folder.write_spec(spec)
        if spec.address is None:  # elsewhere, a step here says nothing
            from tune.launch.plan import keep_expectation

            keep_expectation(folder, spec, config, data, split)
    elif split.hash != spec.split_hash:
        raise ConfigError(
            f"the data of {config.dataset} changed since the study {spec.name!r} began: its split is "
            f"{spec.split_hash}, now it would be {split.hash}. Bring the old data back, or start a new study."
        )
    return spec


def _run(
    spec: StudySpec,
    folder: StudyFolder,
    home: Home,
    progress: Progress,
    begun: HeadStart,
    *,
    more: bool = False,
) -> Outcome:
    began = time.monotonic()
    try:
        from tune.engine.sitting import Engine

        folder.set_state("running")
        engine = Engine(spec, folder, home, progress, begun.sender)
    except KeyboardInterrupt:
        raise _interrupted_early(folder, home) from None
    except ServiceError:  # a storage that does not answer, which may do so later
        folder.set_state("interrupted")
        folder.unlock()
        raise
    state = "failed"
    try:
        with asking_to_stop(engine.request_stop):
            state = engine.run()
    except KeyboardInterrupt:  # a second Ctrl-C, which did not wait for the trials to end their epoch
        engine.signal, state = signal.SIGINT, "interrupted"
    finally:
        with engine.recorder.writing():  # a study that is "running" without a driver is interrupted
            folder.set_state(state)
        pending = engine.close(state, more=more)
        folder.unlock()
    study, trouble = Study(folder.path), engine.recorder.trouble
    code = _code(study, engine, pending + engine.refused)
    sender = begun.sender if engine.handed_over else None
    return Outcome(study, code, pending, time.monotonic() - began, engine.refused, trouble, sender)


def _code(study: Study, engine: Engine, undelivered: int) -> Exit:
    if engine.recorder.trouble is not None:
        return Exit.STORAGE
    if engine.interrupted:
        return Exit.TERMINATED if engine.signal == signal.SIGTERM else Exit.INTERRUPTED
    states = [r.state for r in study.records()]
    if not any(s in ("completed", "stopped_early") for s in states):
        return Exit.NO_TRIAL_SUCCEEDED
    if "failed" in states:
        return Exit.SOME_TRIALS_FAILED
    return Exit.TRACKING_PENDING if undelivered else Exit.DONE


def _progress(quiet: bool) -> Progress:
    from tune.engine.progress import make_progress

    return make_progress(quiet=quiet)
