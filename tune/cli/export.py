"""The command that takes results out of a home: configurations as YAML, trials as a table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from search_spaces import dump_yaml
from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.line.completion import complete_study
from tune.cli.options import HomeOption
from tune.cli.show import console, typed
from tune.definition.objective import DEFAULT, FIELDS, in_words, told

_OnnxOption = Annotated[
    Path | None, typer.Option("--onnx", metavar="FILE", help="The best as an ONNX file (extra `onnx`)")
]
_RegisterOption = Annotated[
    str | None,
    typer.Option("--register", metavar="MODEL_NAME", help="The best into MLflow's registry, as candidate"),
]
_PointsOption = Annotated[
    Path | None,
    typer.Option("--points", metavar="FILE", help="The best trials as points, for `search` and `enqueue`"),
]


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("export")(export_command)


def export_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The study's name", autocompletion=complete_study)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write [standard output]")
    ] = None,
    trial: Annotated[str | None, typer.Option(help="The trial to export [the best]")] = None,
    every: Annotated[
        Path | None, typer.Option("--all", metavar="DIR", help="One file for each study, in this folder")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="All trials as comma-separated values")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option("--parquet", metavar="FILE", help="All trials as a Parquet table")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="DIR", help="The best as a model's folder, for `predict`"),
    ] = None,
    onnx: _OnnxOption = None,
    register: _RegisterOption = None,
    points: _PointsOption = None,
    top: Annotated[int, typer.Option(help="With --points: how many")] = 5,
    home: HomeOption = None,
) -> None:
    """Write the best configuration as YAML, which `ssl-tune train --config` runs as it is; a model; or all trials."""
    tables = [path for path in (csv, parquet) if path is not None]
    models = model is not None or onnx is not None or register is not None
    if every is not None:
        if name is not None or tables or models or output is not None or trial is not None:
            raise ConfigError("--all writes every study's best: leave NAME and the other options out.")
        _export_all(every, home)
        return
    if name is None:
        raise ConfigError("name a study to export, or take --all DIR. `ssl-tune studies` lists them.")
    if points is not None:
        if output is not None or trial is not None or models or tables:
            raise ConfigError("--points writes points: leave the other options out.")
        count = api.export_points(name, points, top=top, home=home)
        console().print(f"{points}: {counted(count, 'point')}, best first")
        return
    if tables:
        if output is not None or trial is not None or models:
            raise ConfigError("--csv and --parquet write all trials: leave the other options out.")
        _export_tables(name, csv, parquet, home)
        return
    if models:
        _export_models(name, model, onnx, register, trial, home)
        if output is None:
            return
    document = api.export(name, output, trial=trial, home=home)
    if output is None:
        print(dump_yaml(document), end="")  # noqa: T201
        return
    console().print(f"{output}: {_outcome(document)}. Run it with:")
    console().print(typed("train", None, home, "--config", str(output)))


def _outcome(document: dict[str, Any]) -> str:
    """What is known of an exported configuration: a sentence without its full stop."""
    origin, confirmation = document["origin"], document.get("confirmation")
    objective, expect = origin["objective"], document["expect"]
    finished = origin.get("folds", {}).get("finished", [])
    if len(finished) > 1:  # `expect` is what the configuration gives, which is that of the first fold
        names = [name for name in expect if name != "epochs"]
        expect = {name: fmean(fold[name] for fold in finished) for name in names}
    over = f", the mean of {len(finished)} folds," if len(finished) > 1 else ""
    shown = told(objective)
    value = "" if shown == DEFAULT else f"{shown} {in_words(shown, expect[FIELDS[shown]])}, "
    error = f"val/error {expect['val_error']:.2f} %{over} in the search"
    what = f"trial {origin['trial']} of {origin['study']}, {value}{error}"
    if (stops := document["config"].get("stop_after_epoch")) is not None:
        what += f" after {stops} of {document['config']['epochs']} epochs, where it stops; confirm trains it to the end"
    if confirmation is None:
        return f"{what} (not confirmed on fresh seeds)"
    deviation = "" if confirmation["test_std"] is None else f" ± {confirmation['test_std']:.2f}"
    return (
        f"{what}; confirmed on {counted(len(confirmation['seeds']), 'fresh seed')}: test/error "
        f"{confirmation['test_mean']:.2f}{deviation} %"
    )


def _export_all(folder: Path, home: str | None) -> None:
    found = api.export_all(folder, home=home)
    written = [path for path in found.values() if isinstance(path, Path)]
    for name, path in found.items():
        if not isinstance(path, Path):
            print(f"ssl-tune: {name} is left out: {path}", file=sys.stderr)  # noqa: T201
    for path in written:
        console().print(str(path))
    if not written:
        raise ConfigError("no study has a trial with a result: nothing was exported.")


def _export_tables(name: str, csv: Path | None, parquet: Path | None, home: str | None) -> None:
    for path, suffix in ((csv, ".csv"), (parquet, ".parquet")):
        if path is None:
            continue
        if path.suffix != suffix:
            raise ConfigError(f"--{suffix[1:]} {path}: name a file that ends in {suffix}.")
        count = api.export_table(name, path, home=home)
        console().print(f"{path}: {counted(count, 'trial')} of {name}")


def _export_models(
    name: str,
    model: Path | None,
    onnx: Path | None,
    register: str | None,
    trial: str | None,
    home: str | None,
) -> None:
    def say(message: str) -> None:
        print(f"ssl-tune: {message}", file=sys.stderr, flush=True)  # noqa: T201

    if register is not None and trial is not None:
        raise ConfigError("--register takes the confirmation's best model: leave --trial out.")
    if model is not None:
        card = api.export_model(name, model, trial=trial, home=home, say=say)
        error = (
            "" if card.test is None else f", test/error {card.test.error:.2f} % of {card.test.images} images"
        )
        console().print(
            f"{model}: {card.network.name}, {len(card.classes)} classes{error}. Label images with:"
        )
        console().print(shlex.join(["ssl-tune", "predict", str(model)]) + " IMAGES")
    if onnx is not None:
        console().print(f"{api.export_onnx(name, onnx, trial=trial, home=home, say=say)}: ONNX")
    if register is not None:
        version = api.register_model(name, register, home=home)
        console().print(f"registered as {register}, version {version}, alias candidate")
