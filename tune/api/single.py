"""One configuration trained by itself."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core import method_file
from ssl_core.config import RunConfig, from_document
from ssl_core.model.card import check_place
from ssl_core.system.errors import ConfigError
from ssl_core.trusted import load_kept, trust_named
from tune.cluster import connection
from tune.cluster.capacity import share
from tune.cluster.connection import joined
from tune.cluster.readiness import autoscales, folders_of, make_ready
from tune.definition.inputs import parse_sets, preset_of, with_absolute_place, with_overrides
from tune.errors import ServiceError
from tune.findings.exports import differences, expected_error, read_exported
from tune.images.held_out import held_out_before, keep_held_out, membership_of_document
from tune.signals import resumable
from tune.store.home import Home, check_writable
from tune.worker.one_run import OneRun, train_here, train_there

if TYPE_CHECKING:
    from ssl_core.data.splits.holdout import Membership
    from ssl_core.training.result import Result
    from ssl_core.training.run import Report

CONFIG = "config.json"
DEFAULT_METHOD = "pseudo_label"


@dataclass(frozen=True)
class Training:
    """A training that has ended.

    Attributes:
        result: what came out.
        folder: where its checkpoints, configuration and result lie.
        expected: the `val/error` that an exported configuration promises; None where it was changed, or is no export.
        model: the folder of the model that was made of it; None: none was asked for.
    """

    result: Result
    folder: Path
    expected: float | None = None
    model: Path | None = None


def train(
    *,
    method: str | None = None,
    dataset: str | None = None,
    labels: int | None = None,
    network: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | list[str] | None = None,
    config: Path | str | None = None,
    out: Path | str | None = None,
    final: bool = False,
    refit: bool = False,
    resume: bool = False,
    model: Path | str | None = None,
    data_root: Path | str | None = None,
    home: Path | str | None = None,
    trust_method: bool = False,
    address: str | None = None,
    on_report: Callable[[Report], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Training:
    """Train one configuration, with a checkpoint after every epoch.

    Args:
        method: see `methods`; None: pseudo_label, or what `config` names.
        dataset, labels, network, epochs, seed: None: what `config` says, else what fits the data.
        preset: a set of the method's parameters by name (vat's ``report``), below those of `settings`.
        settings: other values by dotted name, or ``["vat.eps=4"]``.
        config, out: a file that `export` wrote; folder of the run, None: a fresh one in the home.
        final: read the test set, once, at the end; the reading is recorded.
        refit: train on the validation images as well, for as many steps; needs `final`, and gives no `val/error`.
        resume: go on in `out` from the last whole checkpoint.
        model: a folder for the model (see `ssl_core.load`), which is made at the end; needs `final`.
        data_root, home: where downloaded data lie; the home folder.
        trust_method: a method file that `config` or the run names is run also where this user has not run it before.
        address: of a Ray cluster that this machine belongs to, to train there: its machines share `out` and the home.
        on_report, say: called with the report of every epoch; told where the bits may differ from an exported run's.

    Raises:
        ConfigError: anything wrong with what is asked for, or other data than the exported configuration's.
        NonFiniteError: a loss or gradient that is not finite.
        ServiceError: interrupted; says how to carry on. Or the cluster does not answer, or lost the machine.
    """
    folder, made, root, file = map(_as_path, (out, model, data_root, config))
    _check(refit, final, resume, folder, made)
    place = Home(home).folder_for("train")
    common = {"dataset": dataset, "labels": labels, "network": network, "epochs": epochs, "seed": seed}
    given, kept = {k: v for k, v in common.items() if v is not None}, folder if resume else None
    chosen, document = _configuration(method, given, preset, settings or {}, file, kept, trust_method)
    as_exported = bool(document) and not (set(given) - {"dataset"} or settings or preset)
    membership = _membership(chosen, document, place)
    folder = folder or _fresh_folder(place, chosen.method)
    run = _run_of(chosen, folder, place, root, made, membership, refit=refit, final=final, resume=resume)
    check = partial(_compare_origin, chosen, document if as_exported else {}, place, membership, say)
    result = _trained(run, place, check, address, on_report, say)
    return Training(result, folder, expected_error(document) if as_exported and not refit else None, made)


def _trained(
    run: OneRun,
    home: Home,
    check: Callable[[OneRun, _There | None], None],
    address: str | None,
    on_report: Callable[[Report], None] | None,
    say: Callable[[str], None],
) -> Result:
    """Train here or on a cluster, once the data are known to be the right ones."""
    words = [*_as_typed(run, home), *([] if address is None else ["--address", address])]
    try:
        with resumable(shlex.join(words)), joined(address):
            there = None if address is None else _made_ready(run, say)
            check(run, there)
            return train_here(run, on_report) if there is None else _train_there(run, there, on_report)
    finally:
        _keep_held_out(Path(run.out), run.config["dataset"], home)


def _as_path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _membership(config: RunConfig, document: Mapping[str, Any], home: Home) -> Membership | None:
    """The record of held-out test images: that of an exported configuration, else the home's."""
    exported = membership_of_document(document.get("held_out"))
    return exported or held_out_before(home, config.dataset)


def _keep_held_out(folder: Path, dataset: str, home: Home) -> None:
    """Add the test images that a run held out to the home's record, also where the run did not come to its end."""
    record, config = folder / "held-out.json", folder / "config.json"
    if record.is_file() and json.loads(config.read_text())["dataset"] == dataset:  # else another run's folder
        keep_held_out(home, dataset, membership_of_document(json.loads(record.read_text())))


def _check(refit: bool, final: bool, resume: bool, out: Path | None, model: Path | None) -> None:
    if resume and out is None:
        raise ConfigError("--resume goes on in a run's folder: name it with --out.")
    if out is not None:
        check_writable(out, "--out", "Name another folder.")
    if model is not None and not final:
        raise ConfigError(
            "--model makes a model for others, who need to know its error on test images: add --final."
        )
    if model is not None:
        check_place(model)
    if refit and not final:
        raise ConfigError(
            "--refit trains on the validation images too, so the test set alone can measure the model: add --final, "
            "once everything is chosen."
        )


def _configuration(
    method: str | None,
    given: dict[str, Any],
    preset: str | None,
    settings: Mapping[str, Any] | list[str],
    file: Path | None,
    resumed: Path | None,
    trust_method: bool,
) -> tuple[RunConfig, Mapping[str, Any]]:
    """The configuration that is asked for, and the exported document it came from (or {})."""
    if file is not None:
        if method is not None:
            raise ConfigError("--config names the method already: leave --method out.")
        base, document = read_exported(file, trust_method=trust_method)
        start = base.document()
    elif resumed is not None and ((resumed / CONFIG).exists() or not (method or given or settings or preset)):
        document, start = {}, _kept(resumed, trust_method).document()
        _check_same_method(resumed, start, method)
    else:
        document, start = {}, {"method": method or DEFAULT_METHOD}
        trust_named(start["method"])
    if isinstance(settings, list):
        settings = parse_sets(settings, start["method"], start.get("method_digest"))
    named = {} if preset is None else preset_of(preset, start["method"], start.get("method_digest"))
    chosen = from_document(with_overrides(start, given | named | dict(settings)))
    return chosen.model_copy(update={"dataset": with_absolute_place(chosen.dataset)}), document


def _check_same_method(folder: Path, kept: Mapping[str, Any], method: str | None) -> None:
    """Raise ConfigError where another method is named than that of the run that goes on."""
    asked = kept
    if method is not None:
        trust_named(method)
        asked = from_document({"method": method}).document()
    if any(asked.get(name) != kept.get(name) for name in ("method", "method_digest")):
        raise ConfigError(
            f"--method {method}: the run in {folder} is one of {kept['method']}. Leave --method out, or name another "
            "folder with --out."
        )


def _kept(folder: Path, trust_method: bool) -> RunConfig:
    """The configuration of the run in a folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"{folder} holds no run ({path.name} is missing): leave --resume out to start one.")
    kept = json.loads(path.read_text())
    if digest := kept.get("method_digest"):
        load_kept(folder, kept["method"], digest, trust_method=trust_method)
    return from_document(kept, where=str(path))


def _compare_origin(
    config: RunConfig,
    document: Mapping[str, Any],
    home: Home,
    membership: Membership | None,
    say: Callable[[str], None],
    run: OneRun,
    there: _There | None,
) -> None:
    """Refuse other data than an exported configuration was made with; say when the bits may differ. {}: no such one."""
    if not document:
        return
    from ssl_core.system.environment import fingerprint  # loads torch
    from ssl_core.training.result import prepare

    if there is not None:  # its device is that machine's; this one only looks at the data
        config = config.model_copy(update={"device": "cpu", "precision": "float32", "compile": False})
    root = Path(run.data_root) if run.data_root else None
    resolved, data, split = prepare(config, data_root=root, cache=home.cache, membership=membership)
    origin = document.get("origin") or {}
    classes, made_with = origin.get("classes"), origin.get("split_hash")
    if classes not in (None, data.num_classes):
        raise ConfigError(
            f"this configuration was exported for {classes} classes of {document['config']['dataset']}, "
            f"{config.dataset} has {data.num_classes}. Name the right data with --dataset."
        )
    if made_with not in (None, split.hash):
        raise ConfigError(
            f"this configuration was exported for the split {made_with}, the data of {config.dataset} give "
            f"{split.hash}: they are other images or other labels. Name the right ones with --dataset."
        )
    made_on = fingerprint(resolved.device) if there is None else there.fingerprint
    for difference in differences(document, made_on):
        say(f"the bits may differ from the exported run's: {difference}")


def _fresh_folder(home: Home, method: str) -> Path:
    home.check_writable()
    base = home.path / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{method}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _run_of(
    config: RunConfig,
    folder: Path,
    home: Home,
    root: Path | None,
    model: Path | None,
    membership: Membership | None,
    *,
    refit: bool,
    final: bool,
    resume: bool,
) -> OneRun:
    config = config.model_copy(update={"refit": True}) if refit else config
    digest = config.method_digest
    return OneRun(
        config=config.document(),
        method_text=None if digest is None else method_file.text_of(digest),
        out=str(folder.resolve()),
        cache=str(home.cache),
        readings=str(home.test_readings) if final else None,
        data_root=None if root is None else str(root.resolve()),
        model=None if model is None else str(model.resolve()),
        held_out=None if membership is None else membership.document(),
        resume=resume,
    )


def _as_typed(run: OneRun, home: Home) -> list[str]:
    """The command that carries a run on."""
    words = ["ssl-tune", "train", "--resume", "--out", run.out]
    words += ["--final"] if run.readings is not None else []
    words += ["--home", home.shown, *([] if run.data_root is None else ["--data-root", run.data_root])]
    return words + ([] if run.model is None else ["--model", run.model])


@dataclass(frozen=True)
class _There:
    """What a run takes of a cluster, and the machine that was asked."""

    threads: int
    gpus: float
    fingerprint: Mapping[str, str]


def _made_ready(run: OneRun, say: Callable[[str], None]) -> _There:
    """Look at the cluster that was joined before anything is trained there.

    Raises:
        ConfigError, ServiceError: its machines differ, share no folder, or none can hold the run.
    """
    machines, config = connection.machines(), run.config
    gpus = 1.0 if config.get("device") != "cpu" and any(machine.gpus for machine in machines) else 0.0
    _, threads = share(
        machines, trials=1, gpus=gpus, concurrent=1, threads=config.get("threads"), grows=autoscales()
    )
    out, home = Path(run.out), Path(run.cache).parent
    is_new = not out.exists()
    for folder in (home, out):
        folder.mkdir(parents=True, exist_ok=True)
    folders = [*folders_of([config["dataset"]], run.data_root), home]
    folders += [] if run.model is None else [Path(run.model).parent]
    try:
        make_ready(out, folders, threads, gpus, say)
        _, made_on = connection.chosen_there(config, threads, gpus)
    except (ConfigError, ServiceError):
        if is_new:
            with suppress(OSError):
                out.rmdir()
        raise
    return _There(threads, gpus, made_on)


def _train_there(run: OneRun, there: _There, on_report: Callable[[Report], None] | None) -> Result:
    run = replace(run, config={**run.config, "threads": there.threads})
    return train_there(run, there.threads, there.gpus, on_report)
