"""One configuration trained by itself."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.config import RunConfig, from_document
from ssl_core.model.card import check_place
from ssl_core.system.errors import ConfigError
from ssl_core.trusted import load_kept, trust_named
from tune.definition.inputs import parse_sets, with_absolute_place, with_overrides
from tune.findings.exports import differences, read_exported
from tune.images.held_out import held_out_before, keep_held_out, membership_of_document
from tune.signals import resumable
from tune.store.home import Home, check_writable

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
    on_report: Callable[[Report], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Training:
    """Train one configuration, with a checkpoint after every epoch.

    Args:
        method: see `methods`; None: pseudo_label, or what `config` names.
        dataset, labels, network, epochs, seed: None: what `config` says, else what fits the data.
        settings: other values by dotted name, or ``["vat.eps=4"]``.
        config: a file that `export` wrote.
        out: folder of the run; None: a fresh one in the home.
        final: read the test set, once, at the end; the reading is recorded.
        refit: train on the validation images as well, for as many steps; needs `final`, and gives no `val/error`.
        resume: go on in `out` from the last whole checkpoint.
        model: a folder for the model (see `ssl_core.load`), which is made at the end; needs `final`.
        data_root, home: where downloaded data lie; the home folder.
        trust_method: a method file that `config` or the run names is run also where this user has not run it before.
        on_report, say: called with the report of every epoch; told where the bits may differ from an exported run's.

    Raises:
        ConfigError: anything wrong with what is asked for, or other data than the exported configuration's.
        NonFiniteError: a loss or gradient that is not finite.
        ServiceError: interrupted; says how to carry on.
    """
    folder, made, root, file = map(_as_path, (out, model, data_root, config))
    _check(refit, final, resume, folder, made)
    place = Home(home).folder_for("train")
    common = {"dataset": dataset, "labels": labels, "network": network, "epochs": epochs, "seed": seed}
    given = {k: v for k, v in common.items() if v is not None}
    kept = folder if resume else None
    chosen, document = _configuration(method, given, settings or {}, file, kept, trust_method)
    as_exported = bool(document) and not (set(given) - {"dataset"} or settings)
    membership = _membership(chosen, document, place)
    if as_exported:
        _compare_origin(chosen, document, root, place, membership, say)
    chosen = chosen.model_copy(update={"refit": True}) if refit else chosen
    folder = folder or _fresh_folder(place, chosen.method)
    result = _train(
        chosen, folder, place, root, made, membership, final=final, resume=resume, on_report=on_report
    )
    expected = (document.get("expect") or {}).get("val_error") if as_exported and not refit else None
    return Training(result, folder, expected, made)


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
    elif resumed is not None and ((resumed / CONFIG).exists() or not (method or given or settings)):
        document, start = {}, _kept(resumed, trust_method).document()
        _check_same_method(resumed, start, method)
    else:
        document, start = {}, {"method": method or DEFAULT_METHOD}
        trust_named(start["method"])
    if isinstance(settings, list):
        settings = parse_sets(settings, start["method"], start.get("method_digest"))
    chosen = from_document(with_overrides(start, given | dict(settings)))
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
    root: Path | None,
    home: Home,
    membership: Membership | None,
    say: Callable[[str], None],
) -> None:
    """Refuse other data than an exported configuration was made with; say when the bits may differ."""
    from ssl_core.system.environment import fingerprint  # loads torch
    from ssl_core.training.result import prepare

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
    for difference in differences(document, fingerprint(resolved.device)):
        say(f"the bits may differ from the exported run's: {difference}")


def _fresh_folder(home: Home, method: str) -> Path:
    home.check_writable()
    base = home.path / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{method}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _train(
    config: RunConfig,
    folder: Path,
    home: Home,
    root: Path | None,
    model: Path | None,
    membership: Membership | None,
    *,
    final: bool,
    resume: bool,
    on_report: Callable[[Report], None] | None,
) -> Result:
    from ssl_core import train as train_run  # loads torch
    from ssl_core.model.making import make_model

    words = ["ssl-tune", "train", "--resume", "--out", str(folder.resolve()), *(["--final"] if final else [])]
    words += ["--home", home.shown, *([] if root is None else ["--data-root", str(root.resolve())])]
    words += [] if model is None else ["--model", str(model.resolve())]
    try:
        with resumable(shlex.join(words)):
            result = train_run(
                config,
                out=folder,
                cache=home.cache,
                readings=home.test_readings if final else None,
                on_report=on_report,
                data_root=root,
                membership=membership,
                final=final,
                resume=resume,
            )
            if model is not None:
                make_model(folder, model, data_root=root, cache=home.cache)
            return result
    finally:
        _keep_held_out(folder, config.dataset, home)
