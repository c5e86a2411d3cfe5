"""Models of the confirmed trainings: one for each seed of the winner, the best of them named by validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_core import method_file
from ssl_core.model.card import FORMAT, Card, read_card
from ssl_core.system.errors import ConfigError
from tune.confirmation.document import REFIT, FinalTraining, training_folder
from tune.confirmation.trainings import FIRST_SEED, Places, Trained, each_of
from tune.definition.objective import FIELDS, told
from tune.findings.confirmation import confirmed, title
from tune.findings.study import Study
from tune.store.home import Home
from tune.store.layout import CONFIRM_FOLDER, MODELS

Say = Callable[[str], None]


def folder_of(study: Study, task: FinalTraining) -> Path:
    """Where the model of a training lies."""
    return study.folder.path / MODELS / f"trial-{task.who}-{task.out.name}"


def make_models(
    study: Study,
    tasks: Sequence[FinalTraining],
    trained: Sequence[Trained],
    places: Places,
    say: Say,
) -> dict[str, Any]:
    """Make a model of each training that has a result; one that is there is left as it is.

    Args:
        study: the study.
        tasks: the winner's trainings, each refit after its sibling.
        trained: what came out of each.
        places: where.
        say: told as each is made.

    Returns:
        What ``confirm.json`` says of them: `rows`, and the folder of the `best`, relative to the study's.
    """
    done = [(t, r.result) for t, r in zip(tasks, trained, strict=True) if r.result is not None]
    (study.folder.path / MODELS).mkdir(exist_ok=True)
    # Siblings first: a refit takes the temperature of its sibling's model.
    for refit in (False, True):
        some = [task for task, _ in done if task.config.refit is refit]
        arguments = [_arguments(study, task, places) for task in some]
        for place, folder in each_of(_make, arguments, places):
            what = f"{title(some[place].who)}, seed {some[place].number}{', refit' * refit}"
            say(f"model of {what}: {folder}")
    rows = [_row(study, task, result) for task, result in done]
    return {"best": _best(rows, study.spec.objective), "rows": rows}


def _row(study: Study, task: FinalTraining, result: Mapping[str, Any]) -> dict[str, Any]:
    folder = folder_of(study, task)
    card = read_card(folder)
    fields = dict.fromkeys([*FIELDS.values(), "test_error"])
    return {
        "folder": str(folder.relative_to(study.folder.path)),
        "run": task.run,
        "seed": task.config.seed,
        "refit": task.config.refit,
        **{name: result[name] for name in fields if name in result},
        "temperature": card.temperature,
    }


def _best(rows: Sequence[Mapping[str, Any]], objective: str) -> str | None:
    """The folder of the model with the lowest objective on its validation images; a refit has none."""
    field = FIELDS[told(objective)]
    measured = [row for row in rows if field in row]
    return None if not measured else str(min(measured, key=lambda row: row[field])["folder"])


def _arguments(study: Study, task: FinalTraining, places: Places) -> tuple[Any, ...]:
    config = task.config
    text = None if config.method_digest is None else method_file.text_of(config.method_digest)
    sibling = None
    if config.refit:
        sibling = folder_of(study, task).with_name(folder_of(study, task).name.removesuffix(REFIT))
    return (
        str(task.out),
        str(folder_of(study, task)),
        None if sibling is None else str(sibling),
        text,
        places.data_root,
        str(places.home.cache),
        _origin(study, task.who, config.seed),
    )


def _origin(study: Study, who: str, seed: int) -> dict[str, str]:
    """Where a model comes from, for its card."""
    return {"study": study.name, "trial": who, "seed": str(seed), "split": study.spec.split_hash or ""}


def _make(
    training: str,
    folder: str,
    sibling: str | None,
    method_text: str | None,
    data_root: str | None,
    cache: str,
    origin: dict[str, str],
) -> str:
    """One model, here or on a worker. Returns its folder."""
    from ssl_core.model.making import make_model  # loads torch

    if method_text is not None:
        method_file.load(method_text, str(Path(training) / method_file.COPY))
    if not _is_there(Path(folder), origin):
        make_model(
            Path(training),
            Path(folder),
            data_root=Path(data_root) if data_root else None,
            cache=Path(cache),
            sibling=Path(sibling) if sibling else None,
            origin=origin,
        )
    return folder


def _is_there(folder: Path, origin: Mapping[str, str]) -> bool:
    try:
        card: Card = read_card(folder)
    except ConfigError:
        return False
    return card.format == FORMAT and card.origin == dict(origin)


@dataclass(frozen=True)
class Confirmed:
    """A training that a confirmation made: `out` is its folder."""

    title: str
    who: str
    seed: int
    out: Path


def best_training(study: Study, trial: str | None = None) -> Confirmed | None:
    """The training with the lowest objective on its validation images, of a confirmed configuration.

    Args:
        study: the study.
        trial: of a configuration; None: of the confirmation's winner.

    Returns:
        None: the configuration is not confirmed, or its trainings are no longer there.
    """
    document = confirmed(study.folder)
    who = trial or (None if document is None else document["winner"])
    row = next((r for r in document["rows"] if r["who"] == who), None) if document is not None else None
    if document is None or row is None or not row["seeds"]:
        return None
    values = row[FIELDS[told(study.spec.objective)]] or row["val_error"]
    seed = row["seeds"][min(range(len(values)), key=values.__getitem__)]
    number = seed - FIRST_SEED
    out = (
        study.folder.path
        / CONFIRM_FOLDER
        / str(who)
        / training_folder(number, document.get("redrawn", "labels"))
    )
    return Confirmed(f"{title(str(who))}, seed {number}", str(who), seed, out) if out.is_dir() else None


def best_model(study: Study) -> dict[str, Any] | None:
    """The row of the best model in ``confirm.json``; None where `confirm` has made none."""
    models = (confirmed(study.folder) or {}).get("models")
    if models is None or models["best"] is None:
        return None
    rows: list[dict[str, Any]] = models["rows"]
    return next(row for row in rows if row["folder"] == models["best"])


def make_one(study: Study, training: Confirmed, folder: Path, home: Home) -> Card:
    """The model of one training, in a folder of the user's."""
    from ssl_core.model.making import make_model  # loads torch

    made = make_model(
        training.out,
        folder,
        data_root=Path(study.spec.data_root) if study.spec.data_root else None,
        cache=home.cache,
        origin=_origin(study, training.who, training.seed),
    )
    return made.card
