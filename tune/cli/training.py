"""The command that trains one configuration."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_core import method_file
from ssl_core.config import RunConfig, from_document
from ssl_core.system.errors import ConfigError
from tune.cli.options import (
    DataRootOption,
    DatasetOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    LabelsOption,
    MethodOption,
    NetworkOption,
    SetOption,
    home_of,
)
from tune.cli.show import console, print_json
from tune.definition.inputs import parse_sets, with_overrides
from tune.errors import Exit
from tune.store.home import Home, check_writable

if TYPE_CHECKING:
    from ssl_core.training.result import Result
    from ssl_core.training.run import Report


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("train")(train_command)


def train_command(
    method: MethodOption = None,
    dataset: DatasetOption = None,
    labels: LabelsOption = None,
    network: NetworkOption = None,
    epochs: EpochsOption = None,
    seed: Annotated[int | None, typer.Option(help="Training seed [0]")] = None,
    settings: SetOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="A file that `export` wrote")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run [a fresh one in HOME/runs]")
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="Read the test set, once, at the end")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out from the last whole checkpoint")
    ] = False,
    data_root: DataRootOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration; its result is that of the last epoch."""
    place = home_of(home).folder_for("train")
    common = {"dataset": dataset, "labels": labels, "network": network, "epochs": epochs, "seed": seed}
    given = {k: v for k, v in common.items() if v is not None}
    if resume and out is None:
        raise ConfigError("--resume goes on in a run's folder: name it with --out.")
    if out is not None:
        check_writable(out, "--out", "Name another folder.")
    run_config, document = _configuration(method, given, settings or [], config, out if resume else None)
    if document and not (set(given) - {"dataset"} or settings):
        _compare_origin(run_config, document, data_root, place)
    folder = out or _fresh_folder(place, run_config.method)
    result = _train(run_config, folder, place, data_root=data_root, final=final, resume=resume)
    if as_json:
        print_json(result.document())
        return
    out_console = console()
    test = "" if result.test_error is None else f", test/error {result.test_error:.2f} %"
    out_console.print(
        f"val/error {result.val_error:.2f} %{test} after {result.epochs} epochs, {result.seconds:.1f} s, "
        f"{result.images_per_second:.0f} images/s; result in {folder / 'result.json'}"
    )
    expected = (document.get("expect") or {}).get("val_error")
    if expected is not None and not (set(given) - {"dataset"} or settings):
        same = "the same as exported" if expected == result.val_error else f"exported was {expected:.2f} %"
        out_console.print(f"val/error is {same}.")


def _configuration(
    method: str | None, given: dict[str, Any], sets: list[str], file: Path | None, resumed: Path | None
) -> tuple[RunConfig, Mapping[str, Any]]:
    """The configuration that the options ask for, and the exported document it came from (or {})."""
    if file is not None:
        from tune.findings.exports import read_exported

        if method is not None:
            raise ConfigError("--config names the method already: leave --method out.")
        base, document = read_exported(file)
        start = base.document()
    elif resumed is not None and method is None and not given and not sets:
        path = resumed / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"{resumed} holds no run ({path.name} is missing): leave --resume out to start one."
            )
        kept = json.loads(path.read_text())
        if digest := kept.get("method_digest"):
            method_file.load_kept(resumed, kept["method"], digest)
        return from_document(kept, where=str(path)), {}
    else:
        document, start = {}, {"method": method or "pseudo_label"}
    overrides = given | (parse_sets(sets, start["method"], start.get("method_digest")) if sets else {})
    return from_document(with_overrides(start, overrides)), document


def _compare_origin(config: RunConfig, document: Mapping[str, Any], root: Path | None, home: Home) -> None:
    """Refuse other data than an exported configuration was made with; say when the bits may differ."""
    from ssl_core.system.environment import fingerprint
    from ssl_core.training.result import prepare
    from tune.findings.exports import differences

    resolved, data, split = prepare(config, data_root=root, cache=home.cache)
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
        print(f"ssl-tune: the bits may differ from the exported run's: {difference}", file=sys.stderr)  # noqa: T201


def _fresh_folder(home: Home, method: str) -> Path:
    home.check_writable()
    base = home.path / "runs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{method}"
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def _train(config: RunConfig, folder: Path, home: Home, **options: Any) -> Result:
    """Train with progress on standard error; Ctrl-C and SIGTERM leave a run that can be carried on."""
    from ssl_core import train

    def terminate(number: int, frame: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        return train(
            config,
            out=folder,
            cache=home.cache,
            readings=home.test_readings if options["final"] else None,
            on_report=_show_report,
            **options,
        )
    except (KeyboardInterrupt, _TerminatedError) as stop:
        words = [
            "ssl-tune",
            "train",
            "--resume",
            "--out",
            str(folder),
            *(["--final"] if options["final"] else []),
        ]
        print(f"interrupted. Carry on with: {shlex.join(words)}", file=sys.stderr)  # noqa: T201
        sys.exit(Exit.INTERRUPTED if isinstance(stop, KeyboardInterrupt) else Exit.TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


class _TerminatedError(BaseException):
    """SIGTERM, on its way out of the training loop."""


def _show_report(report: Report) -> None:
    metrics = report.metrics
    phase = "warm-up" if report.ssl_epoch is None else f"ssl epoch {report.ssl_epoch}"
    mask = f", mask rate {metrics['ssl/mask_rate']:.3f}" if "ssl/mask_rate" in metrics else ""
    accuracy = metrics.get("ssl/pseudo_label_accuracy")
    right = "" if accuracy is None else f", pseudo-labels right {100 * accuracy:.1f} %"
    print(  # noqa: T201
        f"epoch {report.epoch} ({phase}): val/error {metrics['val/error']:.2f} %, train/loss "
        f"{metrics['train/loss']:.4f}{mask}{right}, {metrics['time/epoch_seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )
