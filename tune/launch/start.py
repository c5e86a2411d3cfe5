"""Begin a study, or carry one on.

`new_sitting` and `resumed_sitting` give a sitting that is ready for its first trial; `start` and `carry_on` run it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ssl_core.system.errors import counted
from tune.cluster.capacity import gpu_places
from tune.cluster.connection import joined, machines_of
from tune.cluster.gpus import gpu_count
from tune.cluster.readiness import autoscales
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec
from tune.delivery.check import require_tracking
from tune.engine.outcome import Outcome
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.errors import Exit, ServiceError
from tune.findings.study import Study
from tune.launch.afterwards import check_afterwards
from tune.launch.baseline import baseline_request, find_baseline, refuse_supervised, wanted_baseline
from tune.launch.preparation import (
    create_study,
    prepared,
    remove_study,
    say_if_method_changed,
    say_if_password_kept,
    say_if_version_changed,
)
from tune.launch.request import resolve_request
from tune.steering import inbox
from tune.steering.inbox import Wish
from tune.store.home import Home
from tune.store.study_folder import StudyFolder


@contextmanager
def new_sitting(request: SearchRequest, home: Home, progress: Progress) -> Iterator[Sitting]:
    """Make the study that is asked for, and prepare its first sitting.

    Args:
        request: what is asked for.
        home: the home folder.
        progress: shows how it goes.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: MLflow or a cluster does not answer; likewise. Or Ctrl-C; the study can be resumed.
    """
    with joined(request.address):
        grows = request.address is not None and autoscales()
        spec = resolve_request(request, home, machines_of(request.address), grows=grows)
        check_afterwards(request, spec, home)
        if spec.require_tracking:
            require_tracking(spec.tracking_uri)
        folder, is_first = StudyFolder(home.study_folder(spec.name)), not home.path.exists()
        create_study(spec, folder, progress.say)
        if spec.trials != request.trials:
            progress.say(
                f"the grid, with the points that are tried first, has {counted(spec.trials, 'trial')}, not "
                f"{request.trials}"
            )
        if home.url is not None and spec.address is not None and spec.warmup_cache != 0:
            progress.say(
                "warm-ups are shared by the trials of one machine, not between machines: an object store has no bound "
                "for what they take, and each is as large as a checkpoint"
            )
        progress.say(f"study {spec.name}: reading {spec.config['dataset']}, starting Ray")

        def undo() -> None:
            remove_study(folder, home, is_first=is_first)

        with prepared(Sitting(spec, folder, home, progress), undo) as sitting:
            yield sitting


@contextmanager
def resumed_sitting(
    study: Study,
    home: Home,
    progress: Progress,
    address: str | None = None,
    *,
    trust_method: bool = False,
    wishes: Sequence[Wish] = (),
) -> Iterator[Sitting]:
    """Prepare another sitting of a study that is not finished, or that is to grow.

    Args:
        study: the study.
        home: the home folder.
        progress: shows how it goes.
        address: of another cluster than the one it ran on; "local": this machine; None: where it ran.
        trust_method: the file of its method is run also where this user has not run it before (`ssl_core.trusted`).
        wishes: what is to be changed before the first trial, once the data are known to be the same.

    Raises:
        ConfigError: its data changed, machines do not fit, or its method file is not trusted.
        DamagedError: its event log or its trials are damaged.
        ServiceError: another driver has it; MLflow or a cluster does not answer; Ctrl-C.
    """
    folder, spec = study.folder, moved(study.spec, address)
    study.load_method(trust_method=trust_method)
    if spec.require_tracking:
        require_tracking(spec.tracking_uri)
    with joined(spec.address):
        folder.lock()
        try:
            study.check_whole()
        except ServiceError:
            folder.unlock()
            raise
        say_if_method_changed(study, progress)
        say_if_version_changed(study, progress)
        say_if_password_kept(study, progress)
        with prepared(Sitting(spec, folder, home, progress), folder.unlock) as sitting:
            if sitting.spec != study.spec:
                folder.write_spec(sitting.spec)
            for wish in wishes:
                inbox.put(folder, wish)
            yield sitting


def moved(spec: StudySpec, address: str | None) -> StudySpec:
    """The study on another cluster, or on this machine, which may hold fewer of its trials side by side."""
    if address is None:
        return spec
    if address != "local":
        return spec.model_copy(update={"address": address})
    here = spec.model_copy(update={"address": None, "elastic": False})
    if spec.address is None:
        return here
    gpus, threads = spec.gpus_per_trial, int(spec.config["threads"])
    room = gpu_places(gpu_count(), gpus) if gpus else len(os.sched_getaffinity(0)) // threads
    return here.model_copy(update={"concurrent": max(1, min(spec.concurrent, room))})


def start(request: SearchRequest, home: Home, progress: Progress) -> Outcome:
    """Make the study that is asked for and run it; arguments and errors as of `new_sitting`."""
    with new_sitting(request, home, progress) as sitting:
        return sitting.search()


def carry_on(name: str, home: Home, progress: Progress, address: str | None = None) -> Outcome:
    """Run what is left of a study; nothing where it is finished.

    Args:
        name: the study's name.
        home, progress, address: as of `resumed_sitting`.

    Raises:
        ConfigError: no such study, or as `resumed_sitting`.
        ServiceError: as `resumed_sitting`.
    """
    study = Study(home.existing_study_folder(name))
    if is_finished(study):
        return finished_before(study)
    with resumed_sitting(study, home, progress, address) as sitting:
        return sitting.search()


def is_finished(study: Study) -> bool:
    """Whether nothing is left of a study: it has ended, and nothing waits in its inbox."""
    return study.folder.state() == "finished" and not inbox.waiting(study.folder)


def finished_before(study: Study) -> Outcome:
    """The outcome of a study that was finished before this sitting."""
    tracking = study.status()["tracking"]
    code = Exit.TRACKING_PENDING if tracking["pending"] or tracking["refused"] else Exit.DONE
    if not study.folder.is_locked():
        with study.folder.settled():  # in an object store: write what an earlier driver here could not
            pass
    return Outcome(study, code, tracking["pending"], 0.0, tracking["refused"], was_finished=True)


def tune_baseline(study: Study, home: Home, progress: Progress) -> Outcome:
    """Find the tuned baseline of a study and run what is left of it, or make it.

    Raises:
        ConfigError: nothing is left to tune (learning rate and weight decay are fixed).
        ServiceError: another driver has it.
    """
    refuse_supervised(study.spec)
    found = find_baseline(study.spec, home)
    if found is not None:
        if found.folder.state() != "finished":
            progress.say(f"the tuned baseline is the study {found.name}, which is carried on")
        return carry_on(found.name, home, progress, study.spec.address or "local")
    name = wanted_baseline(study.spec, home).name
    progress.say(f"the tuned baseline is made: study {name}, {counted(study.spec.trials, 'trial')}")
    return start(baseline_request(study.spec).model_copy(update={"name": name}), home, progress)
