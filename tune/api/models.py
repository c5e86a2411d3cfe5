"""Models taken out of studies: as a folder, as an ONNX file, into MLflow's registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ssl_core.model.card import Card, check_place, read_card
from ssl_core.system.errors import ConfigError
from tune.api.single import train
from tune.confirmation.models import best_model, best_training, make_one
from tune.findings.exports import export
from tune.findings.study import load_study
from tune.store.home import Home

Place = Path | str | None
Say = Callable[[str], None]


def _nothing(_: str) -> None:
    """What is done with news that nobody wants."""


def export_model(
    name: str, folder: Path | str, *, trial: str | None = None, home: Place = None, say: Say = _nothing
) -> Card:
    """The model of a study's best configuration, in a folder of its own.

    Of a confirmed configuration it is the seed with the lowest validation error. Without a confirmation the
    configuration is trained once, on the study's own seed, and the test set is read for it.

    Args:
        name: the study.
        folder: of the model; one that holds a model is replaced.
        trial: a trial of your choice; None: the confirmation's winner, else the best of the search.
        home: the home folder.
        say: told which model it is, and that one is trained.

    Returns:
        What ``model.json`` says.

    Raises:
        ConfigError: no such study or trial, none with a result, a folder that cannot be written, or a method file that
            this user has not run before.
    """
    place, study, target = Home(home), load_study(name, home=home), Path(folder).expanduser()
    check_place(target)
    study.load_method()
    training = best_training(study, trial)
    if training is not None:
        say(f"the model of {training.title}, the best of its seeds by validation")
        return make_one(study, training, target, place)
    say(
        "there is no confirmed training: the best configuration is trained now, and the test set is read for it"
    )
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as aside:
        file = Path(aside, "best.yaml")
        export(name, file, trial=trial, home=home)
        train(config=file, final=True, model=target, data_root=study.spec.data_root, home=home, say=say)
    return read_card(target)


def export_onnx(
    name: str, file: Path | str, *, trial: str | None = None, home: Place = None, say: Say = _nothing
) -> Path:
    """The model of a study's best configuration as an ONNX file: pixels in, logits and probabilities out.

    Args:
        name, trial, home, say: as of `export_model`.
        file: its ending is .onnx.

    Raises:
        ConfigError: as `export_model`; another ending, or the extra `onnx` is not installed.
    """
    from ssl_core.model.model import load  # loads torch
    from ssl_core.model.onnx import check_onnx, to_onnx

    path = Path(file).expanduser()
    check_onnx(path)
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as aside:
        export_model(name, Path(aside, "model"), trial=trial, home=home, say=say)
        to_onnx(load(Path(aside, "model"), device="cpu", precision="float32"), path)
    return path


def register_model(name: str, registered: str, *, home: Place = None) -> str:
    """Register the best model of a confirmation in MLflow, with the study's tags, as the alias ``candidate``.

    Args:
        name: the study; `confirm` with models has been run.
        registered: the name in MLflow's registry; a new version of it is made, unless this model has one.
        home: the home folder.

    Returns:
        The version.

    Raises:
        ConfigError: the study has no such model, or it has not been delivered to MLflow.
        ServiceError: MLflow does not answer.
    """
    from tune.delivery.models.registration import register  # loads MLflow

    study = load_study(name, home=home)
    best = best_model(study)
    if best is None:
        raise ConfigError(
            f"the study {name!r} has no model that was confirmed. Make some with "
            f"`{study.folder.command('confirm', '--models')}`."
        )
    return register(study.folder.events_db, best["run"], registered)
