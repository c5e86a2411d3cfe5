"""One run from a configuration to a result: data, loop, checkpoints, and the test set where asked for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssl_core import method_file
from ssl_core.config import from_document, resolve
from ssl_core.data.datasets import Dataset, Split, TestSet, describe, draw_split, load_test, load_train
from ssl_core.pictures import panels as pictures
from ssl_core.schema import RunConfig
from ssl_core.system import environment
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from ssl_core.training import checkpoint
from ssl_core.training.loop import run_epochs
from ssl_core.training.run import Report, Run, differences

CONFIG_FILE, RESULT_FILE, READINGS_FILE, CHECKPOINTS = (
    "config.json",
    "result.json",
    "test-readings.jsonl",
    "checkpoints",
)


@dataclass(frozen=True)
class Result:
    """The result of a run: that of its last finished epoch, never of its best.

    Attributes:
        val_error: percent of validation images misclassified by the EMA model.
        test_error: percent of test images; None unless the test set was asked for.
        epochs: finished epochs.
        seconds: spent in epochs, before and after every interruption.
        images_per_second: labelled and unlabelled images trained on, over `seconds`.
        config: resolved, as a plain document.
        split_hash: of the split of the training images.
        seed: training seed.
        versions: fingerprint of processor and versions.
    """

    val_error: float
    test_error: float | None
    epochs: int
    seconds: float
    images_per_second: float
    config: dict[str, Any]
    split_hash: str
    seed: int
    versions: dict[str, str]

    def document(self) -> dict[str, Any]:
        """As plain data; `test_error` is absent, not null, where the test set was not read."""
        return {k: v for k, v in asdict(self).items() if not (k == "test_error" and v is None)}


def prepare(
    config: RunConfig | Mapping[str, Any],
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
    cores: int | None = None,
) -> tuple[RunConfig, Dataset, Split]:
    """Resolve a configuration, load its training images and draw its split.

    Args:
        config: a RunConfig, or the plain document of one.
        data_root: where downloaded data sets lie.
        cache: folder of decoded images, shared by all runs of this machine; None: decode into memory.
        cores: threads where the configuration names none.

    Raises:
        ConfigError: anything wrong with the configuration or the data.
    """
    config = _resolved(config, data_root, cores)
    data = load_train(config.dataset, root=data_root, image_size=config.data.image_size, cache=cache)
    return config, data, split_of(config, data)


def _resolved(
    config: RunConfig | Mapping[str, Any], data_root: Path | None, cores: int | None = None
) -> RunConfig:
    if not isinstance(config, RunConfig):
        config = from_document(config)
    info = describe(config.dataset, root=data_root, image_size=config.data.image_size)
    return environment.choose_device(resolve(config, info, cores=cores))


def split_of(config: RunConfig, data: Dataset) -> Split:
    """The split that a resolved configuration asks for."""
    assert config.labels is not None and config.data.valid is not None
    return draw_split(
        data.labels,
        data.num_classes,
        labelled=config.labels,
        valid=config.data.valid,
        split_seed=config.data.split_seed,
        label_seed=config.data.label_seed,
        fingerprint=data.fingerprint,
    )


def train(
    config: RunConfig | Mapping[str, Any],
    *,
    data_root: Path | None = None,
    cache: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    final: bool = False,
    readings: Path | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Result:
    """Train one configuration.

    Args:
        config: a RunConfig, or the plain document of one.
        data_root: where downloaded data sets lie (default: SSL_TUNE_DATA, else ./ssl-tune-data).
        cache: folder of decoded images, shared by all runs of this machine.
        out: folder for checkpoints (one an epoch, the two newest kept), the configuration, the result, the
            arrays of the method's picture and a copy of the method's file, where it is the user's own.
        resume: continue from the newest undamaged checkpoint in `out`; a finished run returns its result again.
        final: read the test set, once, at the end; the reading is recorded.
        readings: another file that a reading of the test set is appended to, besides the one in `out`.
        on_report: called with the report of every epoch.

    Raises:
        ConfigError: anything wrong with the configuration or the data, an `out` that is in use, or `final`
            without a place to record the reading.
        NonFiniteError: a loss or gradient that is not finite.
    """
    if final and out is None and readings is None:
        raise ConfigError(
            "reading the test set is recorded: name a folder with out=, or a file with readings="
        )
    config = _resolved(config, data_root)
    done, recorded = (
        _from_before(out, config, final, readings) if resume and out is not None else (None, None)
    )
    if done is not None:
        return done
    config, data, split = prepare(config, data_root=data_root, cache=cache)
    # Loaded now, so that an unreadable test image is found at once; nothing is computed on them before the end.
    test = None
    if final and recorded is None:
        test = load_test(config.dataset, root=data_root, image_size=data.image_size, cache=cache)
    run = Run(config, data, split)
    _train_in(run, out, resume, on_report)
    test_error = None if recorded is None else float(recorded["test_error"])
    if test is not None:
        test_error = _read_test(run, test, out, readings)
    result = result_of(run, test_error)
    if out is not None:
        pictures.keep(out, run)
        write_atomically(out / RESULT_FILE, json.dumps(result.document(), indent=1).encode())
    return result


def _train_in(run: Run, out: Path | None, resume: bool, on_report: Callable[[Report], None] | None) -> None:
    """Train to the end, with a checkpoint in `out` after every epoch."""
    if out is not None:
        _open_folder(out, run, resume)
    for report in run_epochs(run):
        if out is not None:
            checkpoint.save(out / CHECKPOINTS, report.epoch, run.state())
        if on_report is not None:
            on_report(report)


def _read_test(run: Run, test: TestSet, out: Path | None, readings: Path | None) -> float:
    """Percent of the test images that the finished run misclassifies; the reading is recorded."""
    test_error = error_percent(run, test.images, test.labels)
    # The run's own record comes first: if a crash comes between the two, `_from_before` copies it to the other.
    for path in (out / READINGS_FILE if out is not None else None, readings):
        if path is not None:
            append_reading(path, reading_of(run, test_error))
    return test_error


def result_of(run: Run, test_error: float | None = None) -> Result:
    """The result of a run that has finished at least one epoch."""
    seconds = sum(r.metrics["time/epoch_seconds"] for r in run.history)
    images = sum(r.metrics["time/epoch_seconds"] * r.metrics["images_per_second"] for r in run.history)
    return Result(
        val_error=run.history[-1].metrics["val/error"],
        test_error=test_error,
        epochs=run.epoch,
        seconds=seconds,
        images_per_second=images / seconds,
        config=run.config.document(),
        split_hash=run.split.hash,
        seed=run.config.seed,
        versions=environment.fingerprint(run.config.device),
    )


def error_percent(run: Run, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """Percent of some images, (n, H, W, 3) uint8 and (n,) int64 arrays, that the EMA model misclassifies."""
    pixels, truth = torch.tensor(images).to(run.device), torch.tensor(labels).to(run.device)
    logits = run.evaluated_in_batches(pixels, torch.arange(len(truth), device=run.device))
    return 100 * int((logits.argmax(dim=1) != truth).sum()) / len(truth)


def reading_of(run: Run, test_error: float) -> dict[str, Any]:
    """A reading of the test set as a document: when, of which model, and its error."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": run.config.document(),
        "split_hash": run.split.hash,
        "epochs": run.epoch,
        "test_error": test_error,
    }


def append_reading(path: Path, reading: Mapping[str, Any]) -> None:
    """Append a reading to a record; half a line that a crash left behind stays on its own line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        broken = False
        if end:
            file.seek(end - 1)
            broken = file.read(1) != b"\n"
        file.write((b"\n" if broken else b"") + json.dumps(reading).encode() + b"\n")


def _from_before(
    out: Path, config: RunConfig, final: bool, readings: Path | None
) -> tuple[Result | None, dict[str, Any] | None]:
    """What was there before: the result of a finished run, or else its reading of the test set."""
    done = _finished(out, config, final)
    if done is not None or not final:
        return done, None
    recorded = _recorded(out / READINGS_FILE, config)
    if recorded is not None and readings is not None and _recorded(readings, config) is None:
        append_reading(readings, recorded)  # a crash came between the two records
    return None, recorded


def _finished(out: Path, config: RunConfig, final: bool) -> Result | None:
    """The result of a finished run, read from its file: nothing is computed again."""
    path = out / RESULT_FILE
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    differing = differences(document["config"], config.document())
    if differing:
        raise ConfigError(
            f"{out}: result of another configuration: {', '.join(differing)} differ. Name another folder, or "
            f"the same configuration."
        )
    if document["epochs"] < config.last_epoch or (final and "test_error" not in document):
        return None
    return Result(**{"test_error": None, **document})


def _recorded(path: Path, config: RunConfig) -> dict[str, Any] | None:
    """The recorded reading of this model, if a crash came before its result was written."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            reading: dict[str, Any] = json.loads(line)
        except ValueError:  # half a line, from a crash
            continue
        same = not differences(reading["config"], config.document())
        if same and reading["epochs"] == config.last_epoch:
            return reading
    return None


def _open_folder(out: Path, run: Run, resume: bool) -> None:
    used = out.exists() and any(out.iterdir())
    if used and not resume:
        raise ConfigError(f"the folder {out} is not empty. Continue with --resume, or name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    state = checkpoint.load_newest(out / CHECKPOINTS) if resume else None
    if state is not None:
        try:
            run.load_state(state)
        except ValueError as error:
            raise ConfigError(f"{out}: {error}. Name another folder, or the same configuration.") from None
    method_file.keep(out, run.config.method_digest)
    write_atomically(out / CONFIG_FILE, json.dumps(run.config.document(), indent=1).encode())
