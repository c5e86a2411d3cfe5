"""The command that trains one configuration."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_core.measures import OVERCONFIDENT
from ssl_core.system.errors import counted
from tune import api
from tune.cli.options import (
    AddressOption,
    DataRootOption,
    DatasetOption,
    EpochsOption,
    HomeOption,
    JsonOption,
    LabelsOption,
    MethodOption,
    NetworkOption,
    PresetOption,
    SetOption,
    TrustOption,
)
from tune.cli.show import console, print_json

if TYPE_CHECKING:
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
    preset: PresetOption = None,
    settings: SetOption = None,
    config: Annotated[Path | None, typer.Option("--config", help="A file that `export` wrote")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run [a fresh one in HOME/runs]")
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="Read the test set, once, at the end")] = False,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="With --final: train on the validation images too, for as many steps"),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out from the last whole checkpoint")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="With --final: make a model of it, for `predict`"),
    ] = None,
    data_root: DataRootOption = None,
    trust_method: TrustOption = False,
    home: HomeOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one configuration; its result is that of the last epoch."""
    training = api.train(
        method=method,
        dataset=dataset,
        labels=labels,
        network=network,
        epochs=epochs,
        seed=seed,
        preset=preset,
        settings=settings,
        config=config,
        out=out,
        final=final,
        refit=refit,
        resume=resume,
        model=model,
        data_root=data_root,
        home=home,
        trust_method=trust_method,
        address=address,
        on_report=_show_report,
        say=_say,
    )
    if as_json:
        print_json(training.result.document())
        return
    _show_result(training)


def _show_result(training: api.Training) -> None:
    """What came out, in words."""
    result = training.result
    test = "" if result.test_error is None else f", test/error {result.test_error:.2f} %"
    validated = (
        "trained on training and validation images"
        if result.val_error is None
        else f"val/error {result.val_error:.2f} %"
    )
    console().print(
        f"{validated}{test} after {counted(result.epochs, 'epoch')}, {result.seconds:.1f} s, "
        f"{result.images_per_second:.0f} images/s; result in {training.folder / 'result.json'}"
    )
    if training.model is not None:
        predict = shlex.join(["ssl-tune", "predict", str(training.model)])
        console().print(f"model: {training.model}; use it with: {predict} IMAGES")
    if (expected := training.expected) is not None:
        same = "the same as exported" if expected == result.val_error else f"exported was {expected:.2f} %"
        console().print(f"val/error is {same}.")


def _say(message: str) -> None:
    print(f"ssl-tune: {message}", file=sys.stderr)  # noqa: T201


def _show_report(report: Report) -> None:
    metrics = report.metrics
    phase = "warm-up" if report.ssl_epoch is None else f"ssl epoch {report.ssl_epoch}"
    mask = f", mask rate {metrics['ssl/mask_rate']:.3f}" if "ssl/mask_rate" in metrics else ""
    accuracy = metrics.get("ssl/pseudo_label_accuracy")
    right = "" if accuracy is None else f", pseudo-labels right {100 * accuracy:.1f} %"
    beyond = metrics.get("val/overconfidence", 0.0)
    warned = f", overconfident by {beyond:.0f} points" if mask and beyond >= OVERCONFIDENT else ""
    validated = f"val/error {metrics['val/error']:.2f} %, " if "val/error" in metrics else ""
    print(  # noqa: T201
        f"epoch {report.epoch} ({phase}): {validated}train/loss "
        f"{metrics['train/loss']:.4f}{mask}{right}{warned}, {metrics['time/epoch_seconds']:.1f} s",
        file=sys.stderr,
        flush=True,
    )
