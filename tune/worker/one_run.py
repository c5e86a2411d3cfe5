"""One configuration trained by itself, in this process or on a machine of a cluster; a model of it where one is wanted.

All places are the same: whoever trains sees the folder of the run, the home's cache and its record of readings.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core import method_file
from tune.cluster.connection import raise_cause
from tune.errors import Exit, ServiceError
from tune.images.held_out import membership_of_document

if TYPE_CHECKING:
    from ssl_core.training.result import Result
    from ssl_core.training.run import Report


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """What is trained, as plain data.

    Attributes:
        config: the whole configuration (`RunConfig.document`).
        method_text: the text of a method of the user's own; None for one that comes with the package.
        out: the run's folder.
        cache: of decoded images.
        readings: the record that a reading of the test set is added to; None: the test set stays closed.
        data_root: where downloaded data lie.
        model: the folder of the model to be made; None: none.
        held_out: the record of held-out test images (`Membership.document`); None: the data set brings its own.
        resume: go on in `out`.
    """

    config: Mapping[str, Any]
    method_text: str | None
    out: str
    cache: str
    readings: str | None
    data_root: str | None
    model: str | None
    held_out: Mapping[str, Any] | None
    resume: bool


def train_here(run: OneRun, on_report: Callable[[Report], None] | None) -> Result:
    """Train it in this process.

    Raises:
        ConfigError, NonFiniteError: as of `ssl_core.train`.
    """
    from ssl_core import train  # loads torch
    from ssl_core.model.making import make_model

    out, cache, root = Path(run.out), Path(run.cache), Path(run.data_root) if run.data_root else None
    if run.method_text is not None:
        method_file.load(run.method_text, str(out / method_file.COPY))
    result = train(
        dict(run.config),
        out=out,
        cache=cache,
        readings=Path(run.readings) if run.readings else None,
        on_report=on_report,
        data_root=root,
        membership=membership_of_document(run.held_out),
        final=run.readings is not None,
        resume=run.resume,
    )
    if run.model is not None:
        make_model(out, Path(run.model), data_root=root, cache=cache)
    return result


def train_there(run: OneRun, threads: int, gpus: float, on_report: Callable[[Report], None] | None) -> Result:
    """Train it on a machine of the cluster that this process has joined.

    Args:
        run: what is trained.
        threads, gpus: that it takes there.
        on_report: called with the report of every epoch, as it ends.

    Raises:
        ConfigError, NonFiniteError: as of `ssl_core.train`, there.
        ServiceError: the machine was lost; what is trained is kept.
    """
    ray = importlib.import_module("ray")
    task = ray.remote(reports_of).options(
        num_cpus=threads, num_gpus=gpus, max_retries=0, num_returns="streaming"
    )
    try:
        for reference in task.remote(run):
            kind, told = ray.get(reference)
            if kind == "result":
                found: Result = told
                return found
            if on_report is not None:
                on_report(told)
    except ray.exceptions.RayTaskError as error:
        raise_cause(error)
    except ray.exceptions.RayError as error:
        raise ServiceError(
            f"the machine that trained it was lost ({str(error).strip().splitlines()[0]}). What it trained is in "
            f"{run.out}: carry on with --resume --out {run.out}, and the other options as before.",
            Exit.UNREACHABLE,
        ) from None
    raise ServiceError(f"the cluster gave back no result of {run.out}.", Exit.UNREACHABLE)


def reports_of(run: OneRun) -> Iterator[tuple[str, Any]]:
    """Train it, and give each report as its epoch ends: ("report", it); at last ("result", it).

    The training calls back, and Ray wants to be given: so it runs in a thread, beside the one that gives.
    """
    told: queue.Queue[tuple[str, Any]] = queue.Queue()

    def train() -> None:
        try:
            told.put(("result", train_here(run, lambda report: told.put(("report", report)))))
        except BaseException as error:  # raised again below
            told.put(("error", error))

    threading.Thread(target=train, name="training", daemon=True).start()
    while True:
        kind, value = told.get()
        if kind == "error":
            raise value
        yield kind, value
        if kind == "result":
            return
