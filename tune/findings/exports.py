"""The best configuration of a study as a YAML file that ``ssl-tune train --config`` runs as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import dump_yaml, load_yaml
from ssl_core import method_file
from ssl_core.config import RunConfig, from_document
from ssl_core.system.errors import ConfigError
from tune.definition.inputs import read_text
from tune.findings.confirmation import confirmed
from tune.findings.ranking import best_record
from tune.findings.study import Study, load_study
from tune.revision import git_revision
from tune.store.home import Home
from tune.trials.record import TrialRecord

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


def export(
    name: str,
    output: Path | str | None = None,
    *,
    trial: str | None = None,
    home: Path | str | None = None,
) -> dict[str, Any]:
    """Write a study's best configuration as YAML; returns what was written, as plain data.

    It is the winner of the study's confirmation; where it was not confirmed, the best of its search, and the
    document says so. A method of the user's own is written beside it, as ``<output's stem>.<method>.py``; without
    an output its `method` refers to the copy in the study's folder.

    Args:
        name: the study.
        output: the file; None: write nothing.
        trial: a trial of one's choice instead of the best.
        home: the home folder.

    Raises:
        ConfigError: no such study or trial, or none that has a result.
    """
    study = load_study(name, home=home)
    document = exported(study, trial)
    if output is not None:
        _write(Path(output).expanduser(), document, study)
    return document


def _write(path: Path, document: dict[str, Any], study: Study) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
    config = document["config"]
    digest = config.get("method_digest")
    try:
        if digest is not None:
            beside = path.with_name(f"{path.stem}.{study.spec.config['method']}.py")
            method_file.write(beside, digest)
            config = {**config, "method": f"{method_file.PREFIX}{beside.name}"}
        path.write_text(HEADER.format(name=study.name) + dump_yaml({**document, "config": config}))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None


def export_all(folder: Path | str, *, home: Path | str | None = None) -> dict[str, Path | str]:
    """Write the best configuration of every study that has one to ``FOLDER/<study>.yaml``.

    Args:
        folder: made where it does not exist.
        home: the home folder.

    Returns:
        Of each study its file, or in words why there is none.

    Raises:
        ConfigError: there is no study, or the folder cannot be made.
    """
    place, folder = Home(home), Path(folder).expanduser()
    names = place.study_names()
    if not names:
        raise ConfigError(f"there is no study in {place.shown} to export. Start one with `ssl-tune search`.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}. Name another folder.") from None
    found: dict[str, Path | str] = {}
    for name in names:
        path = folder / f"{name}.yaml"
        study = Study(place.study_folder(name))
        if not any(r.val_error is not None for r in study.records()):
            found[name] = "it has no trial with a result yet"
            continue
        export(name, path, home=home)
        found[name] = path
    return found


def trials_table(study: Study) -> pd.DataFrame:
    """All trials of a study, one row each, with what tells the study from others: a tidy table.

    Columns: study, method, dataset, labels, network, then those of `Study.trials`.
    """
    config = study.spec.config
    table = study.trials()
    facts = {
        "study": study.name,
        "method": config["method"],
        "dataset": study.spec.dataset_tag,
        "labels": config["labels"],
        "network": config["network"],
    }
    for place, (name, value) in enumerate(facts.items()):
        table.insert(place, name, value)
    return table


def export_table(name: str, path: Path | str, *, home: Path | str | None = None) -> int:
    """Write all trials of a study as ``.csv`` or ``.parquet``; returns how many.

    Args:
        name: the study.
        path: the file; its ending says which.
        home: the home folder.

    Raises:
        ConfigError: no such study, another ending, or a file that cannot be written.
    """
    path = Path(path).expanduser()
    table = trials_table(load_study(name, home=home))
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
    try:
        if path.suffix == ".csv":
            table.to_csv(path, index=False)
        elif path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            raise ConfigError(f"{path}: name a file that ends in .csv or .parquet.")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None
    return len(table)


HEADER = """\
# Written by `ssl-tune export {name}`. Run it with: ssl-tune train --config FILE
# `config` holds all that the bits of the run depend on, `expect` what came out of it where it was made;
# `origin` says where that was, and changes nothing. A `method` of the form file:NAME lies beside this file.
"""


def exported(study: Study, trial: str | None = None) -> dict[str, Any]:
    """What `export` writes of a study."""
    confirmation = confirmed(study.folder)
    record, full = _chosen(study, trial, confirmation)
    row = _confirmed_row(confirmation, record.trial)
    config = study.spec.trial_config(record.values)
    if record.epoch < (config.epochs or 0):
        # A shorter budget would change the schedule: the run keeps its own and stops where the trial did.
        config = config.model_copy(update={"stop_after_epoch": record.epoch})
    plain = config.document()
    if config.method_digest is not None:
        plain["method"] = f"{method_file.PREFIX}{study.folder.path / method_file.COPY}"
    document = {
        "format": FORMAT,
        "config": plain,
        "expect": {"val_error": record.val_error, "val_loss": record.val_loss, "epochs": record.epoch},
        "origin": {
            "study": study.name,
            "trial": record.trial,
            "stop_reason": record.stop_reason,
            "full_budget": full,
            "trials": study.spec.trials,
            "classes": _classes(config),
            "confirmed": row is not None,
            "split_hash": study.spec.split_hash,
            "created": study.spec.created,
            "git_revision": git_revision(),
            "fingerprint": dict(study.spec.fingerprint or {}),
        },
    }
    return document if row is None else document | {"confirmation": _provenance(confirmation or {}, row)}


def _classes(config: RunConfig) -> int | None:
    """How many classes the data have; None where they cannot be read any more."""
    from ssl_core.data.datasets import describe

    try:
        return describe(config.dataset, image_size=config.data.image_size).num_classes
    except ConfigError:
        return None


def _confirmed_row(confirmation: Mapping[str, Any] | None, trial: str) -> dict[str, Any] | None:
    rows = [] if confirmation is None else confirmation["rows"]
    return next((row for row in rows if row["who"] == trial and row["test_error"]), None)


def _provenance(confirmation: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the confirmation found of a configuration; none of it changes a bit of its run."""
    names = ("seeds", "val_error", "test_error", "test_mean", "test_std", "test_interval", "luck", "seconds")
    baseline = _confirmed_row(confirmation, confirmation["baseline"] or "")
    facts = {name: row[name] for name in names}
    if baseline is not None:
        own = ("who", "study", "trial", "params", "test_error", "test_mean", "test_std", "seconds")
        facts["baseline"] = {name: baseline[name] for name in own}
    return facts | {"steps": confirmation["steps"], "verdict": list(confirmation["verdict"])}


def _chosen(
    study: Study, trial: str | None, confirmation: Mapping[str, Any] | None
) -> tuple[TrialRecord, bool]:
    records = study.records()
    if trial is None and confirmation is not None:
        trial = confirmation["winner"]
    if trial is None:
        record, full = best_record(records)
        if record is None:
            raise ConfigError(
                f"the study {study.name!r} has no trial with a result yet. Carry it on with "
                f"`ssl-tune resume {study.name}`."
            )
        return record, full
    for record in records:
        if record.trial == trial and record.val_error is not None:
            return record, record.state == "completed"
    with_result = ", ".join(r.trial for r in records if r.val_error is not None) or "none"
    raise ConfigError(
        f"the study {study.name!r} has no trial {trial!r} with a result. Those that have one: {with_result}."
    )


def read_exported(path: Path) -> tuple[RunConfig, Mapping[str, Any]]:
    """A configuration file: what `export` wrote, or a plain configuration document.

    Returns:
        The configuration, and the whole document (for `expect` and `origin`; empty ones for a plain file).

    Raises:
        ConfigError: no such file, one that does not parse (names the line), or a wrong configuration.
    """
    if not path.is_file():
        raise ConfigError(f"--config {path}: there is no such file.")
    document = load_yaml(read_text(path, "--config"), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of `name: value`, this is not.")
    if "format" not in document:
        return from_document(_placed(document, path), where=str(path)), {}
    if document["format"] != FORMAT:
        raise ConfigError(
            f"{path}: written in format {document['format']!r}, this version reads {FORMAT}. Export it again with "
            "this version."
        )
    if not isinstance(document.get("config"), dict):
        raise ConfigError(f"{path}: `config` is missing.")
    return from_document(_placed(document["config"], path), where=str(path)), document


def _placed(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A configuration whose method's file, if it has one, is looked for from the configuration's own folder on."""
    method = config.get("method")
    if not isinstance(method, str) or not method.startswith(method_file.PREFIX):
        return config
    return {**config, "method": f"{method_file.PREFIX}{path.parent / method_file.path_of(method)}"}


def differences(document: Mapping[str, Any], fingerprint: Mapping[str, str]) -> list[str]:
    """What of processor and versions differs from where an exported run was made, in words."""
    made = (document.get("origin") or {}).get("fingerprint") or {}
    return [f"{k}: {v} there, {fingerprint.get(k)} here" for k, v in made.items() if fingerprint.get(k) != v]
