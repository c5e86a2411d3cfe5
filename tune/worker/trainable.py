"""A training run as a Ray Tune trainable: one `step` is one epoch.

The worker keeps the run's own checkpoint, one an epoch, in the study's folder. Ray's checkpoints are not
used: a trial goes on from that file wherever and whenever it is started again. Reports that the driver had
not written down when it died are in the checkpoint's history and are given again, so that only the epoch that was under
way is trained again.

An exception is told to Ray, which starts the trial again in a fresh process; how often that happened is kept with
the trial, and once it is more often than allowed the trial's end is reported instead. A full disk is not the
trial's failure: the trial waits, and the driver is told to end the sitting.

Worker processes are used again by the next trial, with data, imports and model code loaded.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune as ray_tune

from ssl_core import method_file
from ssl_core.config import RunConfig, from_document
from ssl_core.data.datasets import Dataset, Split
from ssl_core.pictures import panels as pictures
from ssl_core.pictures.file import FILE_NAME as PICTURE
from ssl_core.preparation import of_fold, prepare, split_of
from ssl_core.system.errors import MemoryExhaustedError, NonFiniteError
from ssl_core.system.files import write_atomically
from ssl_core.training.run import Report, Run
from ssl_core.training.warmups.sharing import WarmupSharing
from ssl_core.training.warmups.store import WarmupStore
from tune.cluster.identity import identity
from tune.errors import FULL
from tune.images.held_out import membership_of_document
from tune.store.layout import STUDY_FILE, WARMUPS
from tune.worker.folds import Told, over_folds
from tune.worker.replicates import load, reports_of, seeds_of, together
from tune.worker.report_keys import (
    BALANCED,
    BOTH,
    CLASSES,
    EPOCH,
    ERROR,
    ERROR_FILE,
    FAILURES_FILE,
    IN_WARMUP,
    LOSS,
    MESSAGE,
    METRICS,
    SSL_EPOCH,
    STOP_REASON,
    STORAGE,
    VERDICT_FILE,
)
from tune.worker.system_metrics import SystemMetrics
from tune.worker.task import Task
from tune.worker.trial_files import folders_of, trial_store

CUDA_CONTEXT = 600 * 2**20
"""Bytes of a GPU that every process on it takes besides what PyTorch allocates and can cap."""


class TrialTrainable(ray_tune.Trainable):
    """Runs one trial of a study; its `config` is a `tune.worker.task.Task` as a dictionary."""

    def setup(self, config: dict[str, Any]) -> None:
        """Prepare the run; a worker that is used again comes here through `reset_config`."""
        self._task = Task.from_config(config)
        self._store = trial_store(self._task)
        self._reports: Iterator[Told] | None = None
        self._system: dict[str, float] = {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch: its report, or the way the trial ended."""
        try:
            return self._epoch()
        except NonFiniteError as error:
            return {"done": True, STOP_REASON: "nan", MESSAGE: str(error)}
        except MemoryExhaustedError as error:
            return {"done": True, STOP_REASON: "oom", MESSAGE: str(error)}
        except (torch.OutOfMemoryError, MemoryError) as error:
            return {"done": True, STOP_REASON: "oom", MESSAGE: f"{type(error).__name__}: {error}"}
        except Exception as error:
            return self._failed(error)

    def _epoch(self) -> dict[str, Any]:
        if self._reports is None:
            self._reports = self._start()
        told = next(self._reports)
        report = told.report
        result: dict[str, Any] = {
            EPOCH: report.epoch,
            ERROR: report.metrics["val/error"],
            BALANCED: report.metrics.get("val/error_balanced"),  # an earlier version did not measure it
            LOSS: report.metrics["val/loss"],
            BOTH: report.metrics[BOTH],
            METRICS: report.metrics | self._system,
            CLASSES: report.classes,
            IN_WARMUP: told.in_warmup,
            "done": False,
        }
        if report.ssl_epoch is not None:  # without it, the scheduler makes no decision: that is the warm-up
            result[SSL_EPOCH] = report.ssl_epoch
        if report.epoch == self._last_epoch:
            result |= {"done": True, STOP_REASON: "completed"}
        return result

    def _start(self) -> Iterator[Told]:
        task = self._task
        if task.identity is not None:
            _check_machine(task)
        cap_gpu_memory(task.gpus)
        if task.method_text is not None:
            method_file.load(task.method_text, str(self._store.folder.parent.parent / method_file.COPY))
        config, data, split = prepare(
            from_document(task.config),
            data_root=Path(task.data_root) if task.data_root else None,
            cache=Path(os.environ.get("SSL_TUNE_CACHE") or self._store.cache),
            membership=membership_of_document(task.held_out),
        )
        self._store.fetch()  # a note that ends the trial may have been written elsewhere
        verdict = self._store.folder / VERDICT_FILE
        if verdict.exists():
            raise MemoryError(verdict.read_text())
        folds, last = 1 + len(task.fold_hashes), config.last_epoch
        self._last_epoch = folds * last

        def trained(fold: int) -> Iterator[Report]:
            """The reports of a fold's run."""
            of = of_fold(config, fold)
            return self._trained(fold, of, data, split_of(of, data, split))

        yield from over_folds(trained, folds, last, task.known_epoch)

    def _trained(self, fold: int, config: RunConfig, data: Dataset, split: Split) -> Iterator[Report]:
        """The reports of a fold, of its replicates' runs together, from where they were left."""
        task, last = self._task, config.last_epoch
        wanted = task.fold_hashes[fold - 1] if fold else task.split_hash
        if split.hash != wanted:
            raise RuntimeError(
                f"this worker's split is {split.hash}, the study's is {wanted}: its data differ"
            )
        below = [place for place in folders_of(fold, task.repeats) if place]
        stores = [trial_store(task, place) for place in below]
        for store in stores:
            store.fetch()
        if not fold:
            stores.insert(0, self._store)
        runs = [Run(each, data, split) for each in seeds_of(config, task.repeats)]
        warmups = WarmupStore(self._store.cache / WARMUPS, task.warmup_cache)
        parts = [(run, at, WarmupSharing(run, warmups)) for run, at in zip(runs, stores, strict=True)]
        done = min(load(*part) for part in parts)
        monitor = SystemMetrics(config.device) if task.system_metrics else None
        known = task.known_epoch - fold * last
        for report in together([reports_of(*part, known, last) for part in parts]):
            # Beside the report, not in it: they are no part of what makes a run the same run.
            self._system = monitor.sample() if monitor is not None and report.epoch > done else {}
            if fold == 0 and report.epoch == last:
                pictures.keep(self._store.folder, runs[0])
                self._store.keep(PICTURE)
            yield report

    def _failed(self, error: Exception) -> dict[str, Any]:
        """Raise an exception again for another attempt, or report the end that it is."""
        text, failures = traceback.format_exc(), 0
        try:
            failures = self._note_failure(text)
        except OSError as second:
            error = second
        if isinstance(error, OSError) and error.errno in FULL:
            return {"done": True, STORAGE: str(error)}
        if failures <= self._task.max_failures:
            raise error
        return {"done": True, STOP_REASON: "error", MESSAGE: text}

    def _note_failure(self, text: str) -> int:
        """Keep a traceback; returns how many there were."""
        folder = self._store.folder
        folder.mkdir(parents=True, exist_ok=True)
        noted = folder / FAILURES_FILE
        failures = 1 + (int(noted.read_text()) if noted.exists() else 0)
        # The driver reads it at any time. A traceback may name a file that is no UTF-8.
        write_atomically(folder / ERROR_FILE, text.encode(errors="backslashreplace"))
        write_atomically(noted, str(failures).encode())
        for name in (ERROR_FILE, FAILURES_FILE):
            self._store.keep(name)
        return failures


def cap_gpu_memory(gpus: float) -> None:
    """Hold this process to its share of a GPU: one that wants more ends its own trial, not its neighbours'.

    Args:
        gpus: what the trial was given; Ray counts fractions of a GPU, but bounds nothing.
    """
    if 0 < gpus < 1 and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(gpus - CUDA_CONTEXT / total, 0.01))


def _check_machine(task: Task) -> None:
    """Refuse to run on a machine that joined a cluster late and is not like the others."""
    study = Path(task.folder).parent.parent
    if task.store is None and not (study / STUDY_FILE).is_file():
        raise RuntimeError(
            f"{socket.gethostname()} does not see {study}: the study's storage is not shared with it"
        )
    here = identity()
    differing = [f"{k} {here[k]}, the driver {v}" for k, v in (task.identity or {}).items() if here[k] != v]
    if differing:
        raise RuntimeError(f"{socket.gethostname()} differs from the driver: it has {'; '.join(differing)}")
