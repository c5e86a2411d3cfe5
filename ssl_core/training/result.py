"""One run from a configuration to a result: data, loop, checkpoints, and the test set where asked for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ssl_core import method_file
from ssl_core.config import options_of
from ssl_core.data.datasets import Dataset, TestSet, load_test, membership_of
from ssl_core.data.inspecting.overlaps import check_leak
from ssl_core.data.splits.holdout import Membership
from ssl_core.measures import errors_by_class, images_and_wrong, matrix_of
from ssl_core.pictures import panels as pictures
from ssl_core.preparation import asked
from ssl_core.preparation import prepare as prepare
from ssl_core.preparation import split_of as split_of
from ssl_core.same_run import differences
from ssl_core.schema import RunConfig
from ssl_core.system import environment
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from ssl_core.training import checkpoint
from ssl_core.training.loop import run_epochs
from ssl_core.training.reading import (
    READINGS_FILE,
    append_reading,
    confusion_of,
    reading_of,
    recorded_reading,
)
from ssl_core.training.run import Report, Run
from ssl_core.training.warmups.sharing import WarmupSharing
from ssl_core.training.warmups.store import WarmupStore

CONFIG_FILE, RESULT_FILE, CHECKPOINTS = "config.json", "result.json", "checkpoints"
HELD_OUT_FILE = "held-out.json"
"""The record of the test images that were held out, where the data set brings none."""


@dataclass(frozen=True)
class Result:
    """The result of a run: that of its last finished epoch, never of its best.

    Attributes:
        val_error: percent of validation images misclassified by the EMA model; None of a refit, which has none left.
        test_error: percent of test images; None unless the test set was asked for.
        epochs: finished epochs.
        seconds: spent in epochs, before and after every interruption.
        images_per_second: labelled and unlabelled images trained on, over `seconds`.
        config: resolved, as a plain document.
        split_hash: of the split of the training images.
        seed: training seed.
        versions: fingerprint of processor and versions.
        val_loss: mean cross-entropy of the EMA model on the validation images, in nats.
        val_ece: expected calibration error on the validation images, in points.
        val_overconfidence: mean confidence less accuracy there, in points.
        val_error_balanced, test_error_balanced: means of the classes' errors in percent.
        classes: their names, in the order of the labels.
        val_error_by_class, test_error_by_class: percent of each class's images; None for a class without an image.
        val_confusion, test_confusion: counts, a row for each true class and a column for each predicted one.
        protocol: real (there are images without a label) or simulated (labels beyond the wanted number are hidden).
        held_out: digest of the record of the test images (`Membership.digest`), where they were held out.

    What begins with ``test_`` is None unless the test set was asked for. Results of earlier versions have none of the
    fields after `versions`. A refit has no field that begins with ``val_``.
    """

    val_error: float | None
    test_error: float | None
    epochs: int
    seconds: float
    images_per_second: float
    config: dict[str, Any]
    split_hash: str
    seed: int
    versions: dict[str, str]
    val_loss: float | None = None
    val_ece: float | None = None
    val_overconfidence: float | None = None
    val_error_balanced: float | None = None
    test_error_balanced: float | None = None
    classes: list[str] | None = None
    val_error_by_class: list[float | None] | None = None
    val_confusion: list[list[int]] | None = None
    test_error_by_class: list[float | None] | None = None
    test_confusion: list[list[int]] | None = None
    protocol: str | None = None
    held_out: str | None = None

    def document(self) -> dict[str, Any]:
        """As plain data; what is None, such as `test_error` where the test set was not read, is absent."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def kept_membership(out: Path) -> Membership | None:
    """The record of held-out test images of the run in a folder; None: its data set brings its own, or there is no run.

    Raises:
        ConfigError: the record is damaged.
    """
    path = out / HELD_OUT_FILE
    return Membership.of(json.loads(path.read_text()), where=str(path)) if path.is_file() else None


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
    membership: Membership | None = None,
    warmups: WarmupStore | None = None,
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
        membership: the record of test images that earlier runs held out of this data set; a run that is resumed
            keeps its own, which lies in `out`.
        warmups: warm-ups that runs share: what another has trained of this one's is taken over (the same bits).

    Raises:
        ConfigError: anything wrong with the configuration or the data, an `out` that is in use, `final` without a
            place to record the reading or on leaked test images, or a refit that is not `final`.
        NonFiniteError: a loss or gradient that is not finite.
    """
    if final and out is None and readings is None:
        raise ConfigError(
            "reading the test set is recorded: name a folder with out=, or a file with readings="
        )
    if resume and out is not None:
        membership = kept_membership(out) or membership
    config = asked(config, data_root, cache, membership, counted=resume)
    if config.refit and not final:
        raise ConfigError(
            "refit: the model is trained on the validation images too, so the test set alone can measure it: train it "
            "with --final (final=True), once everything is chosen."
        )
    found = _from_before(out, config, final, readings) if resume and out is not None else (None, None)
    done, recorded = found
    if done is not None:
        return done
    config, data, split = prepare(config, data_root=data_root, cache=cache, membership=membership)
    test = _opened_test(config, data, data_root, cache, membership) if final and recorded is None else None
    run = Run(config, data, split)
    _train_in(run, out, resume, on_report, WarmupSharing(run, warmups))
    reading = _read_test(run, test, out, readings) if test is not None else recorded
    result = result_of(run, reading)
    if out is not None:
        pictures.keep(out, run)
        write_atomically(out / RESULT_FILE, json.dumps(result.document(), indent=1).encode())
    return result


def _opened_test(
    config: RunConfig,
    data: Dataset,
    data_root: Path | None,
    cache: Path | None,
    membership: Membership | None,
) -> TestSet:
    """The test images, once it is known that they are not training images.

    Loaded before the training, so that an unreadable one is found at once; nothing is computed on them before its end.
    """
    options = replace(options_of(config), image_size=data.image_size)
    test = load_test(config.dataset, root=data_root, cache=cache, options=options, membership=membership)
    told = None if data.rows is None else check_leak(data, test, allow=config.data.allow_leak)
    if told is not None:
        warnings.warn(told, stacklevel=3)
    return test


def _train_in(
    run: Run,
    out: Path | None,
    resume: bool,
    on_report: Callable[[Report], None] | None,
    sharing: WarmupSharing,
) -> None:
    """Train to the end, with a checkpoint in `out` before an epoch is reported."""
    if out is not None:
        _open_folder(out, run, resume)
    taken = sharing.take()
    if out is not None and taken:
        checkpoint.save(out / CHECKPOINTS, run.epoch, run.state())
    for report in taken:
        if on_report is not None:
            on_report(report)
    for report in run_epochs(run):
        if out is not None:
            checkpoint.save(out / CHECKPOINTS, report.epoch, run.state())
        sharing.keep()
        if on_report is not None:
            on_report(report)


def _read_test(run: Run, test: TestSet, out: Path | None, readings: Path | None) -> dict[str, Any]:
    """The reading of the test set by the finished run; it is recorded."""
    reading = reading_of(run, confusion_of(run, test.images, test.labels))
    # The run's own record comes first: if a crash comes between the two, `_from_before` copies it to the other.
    for path in (out / READINGS_FILE if out is not None else None, readings):
        if path is not None:
            append_reading(path, reading)
    return reading


def result_of(run: Run, reading: Mapping[str, Any] | None = None) -> Result:
    """The result of a run that has finished at least one epoch.

    Args:
        run: the run.
        reading: of the test set, as `reading_of` gives it; None: the test set was not read.
    """
    seconds = sum(r.metrics["time/epoch_seconds"] for r in run.history)
    images = sum(r.metrics["time/epoch_seconds"] * r.metrics["images_per_second"] for r in run.history)
    last = run.history[-1]
    cells, read = last.classes.get("confusion"), reading or {}
    return Result(
        val_error=last.metrics.get("val/error"),
        test_error=read.get("test_error"),
        epochs=run.epoch,
        seconds=seconds,
        images_per_second=images / seconds,
        config=run.config.document(),
        split_hash=run.split.hash,
        seed=run.config.seed,
        versions=environment.fingerprint(run.config.device),
        val_loss=last.metrics.get("val/loss"),
        val_ece=last.metrics.get("val/ece"),
        val_overconfidence=last.metrics.get("val/overconfidence"),
        val_error_balanced=last.metrics.get("val/error_balanced"),
        test_error_balanced=read.get("test_error_balanced"),
        classes=list(run.data.classes),
        protocol=run.data.protocol,
        held_out=held.digest if (held := membership_of(run.data)) else None,
        **_by_class("val", None if cells is None else matrix_of(cells)),
        **_by_class("test", read.get("test_confusion")),
    )


def _by_class(part: str, matrix: list[list[int]] | None) -> dict[str, Any]:
    """The fields of a result that a confusion matrix gives; none where there is no matrix."""
    if matrix is None:
        return {}
    return {
        f"{part}_error_by_class": errors_by_class(*images_and_wrong(matrix)),
        f"{part}_confusion": matrix,
    }


def _from_before(
    out: Path, config: RunConfig, final: bool, readings: Path | None
) -> tuple[Result | None, dict[str, Any] | None]:
    """What was there before: the result of a finished run, or else its reading of the test set."""
    done = _finished(out, config, final)
    if done is not None or not final:
        return done, None
    recorded = recorded_reading(out / READINGS_FILE, config)
    if recorded is not None and readings is not None and recorded_reading(readings, config) is None:
        append_reading(readings, recorded)  # a crash came between the two records
    return None, recorded


def _finished(out: Path, config: RunConfig, final: bool) -> Result | None:
    """The result of a finished run, read from its file: nothing is computed again."""
    path = out / RESULT_FILE
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    there = document["config"]
    if _same_place(there["dataset"], config.dataset):
        there = there | {"dataset": config.dataset}
    differing = differences(there, config.document())
    if differing:
        raise ConfigError(
            f"{out}: result of another configuration: {', '.join(differing)} differ. Name another folder, or "
            f"the same configuration."
        )
    if document["epochs"] < config.last_epoch or (final and "test_error" not in document):
        return None
    return Result(**{"val_error": None, "test_error": None, **document})


def _same_place(one: str, other: str) -> bool:
    """Whether two names of data sets name one folder or file, one of them perhaps relative to where it was given."""
    (kind, _, here), (also, _, there) = one.partition(":"), other.partition(":")
    return (
        bool(here)
        and kind == also
        and Path(here).expanduser().resolve() == Path(there).expanduser().resolve()
    )


def _open_folder(out: Path, run: Run, resume: bool) -> None:
    used = out.exists() and any(out.iterdir())
    if used and not resume:
        raise ConfigError(f"the folder {out} is not empty. Continue with --resume, or name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    if resume:
        try:
            checkpoint.load_newest(out / CHECKPOINTS, run.load_state)
        except ValueError as error:
            raise ConfigError(f"{out}: {error}. Name another folder, or the same configuration.") from None
    method_file.keep(out, run.config.method_digest)
    if run.data.facts.membership is not None:
        write_atomically(out / HELD_OUT_FILE, json.dumps(run.data.facts.membership).encode())
    write_atomically(out / CONFIG_FILE, json.dumps(run.config.document(), indent=1).encode())
