"""Export the best configuration of a study as a YAML file for ``ssl-tune train --config``, or all its trials as
a table; read such a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import dump_yaml, load_yaml
from ssl_core import method_file
from ssl_core.config import RunConfig, from_document, options_of
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from ssl_core.trusted import load_named
from tune.definition.inputs import read_text
from tune.errors import ServiceError
from tune.findings.confirmation import confirmed
from tune.findings.ranking import best_record
from tune.findings.study import Study, load_study
from tune.images.study import read_images
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
    """Write a study's best configuration as YAML.

    The best configuration is the one that was pinned, else the winner of the study's confirmation; without a
    confirmation it is the best of the search, and the document says so. If the method is the user's own file, a copy is
    written beside the YAML file as ``<output's stem>.<method>.py``. Without an output, `method` names the copy in the
    study's folder.

    Args:
        name: the study.
        output: the file; None: write nothing.
        trial: the trial to export instead of the best.
        home: the home folder.

    Returns:
        The document that was written, as plain data.

    Raises:
        ConfigError: there is no such study or trial, it has no result, or the file cannot be written.
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
            name = study.spec.config["method"]
            beside = path.with_name(f"{path.stem}.{name}.py")
            text = method_file.kept_text(study.folder.path, name, digest)
            write_atomically(beside, text.encode("utf-8"))
            config = {**config, "method": f"{method_file.PREFIX}{beside.name}"}
        path.write_text(HEADER.format(name=study.name) + dump_yaml({**document, "config": config}))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None


def export_all(folder: Path | str, *, home: Path | str | None = None) -> dict[str, Path | str]:
    """Write the best configuration of every study that has one to ``FOLDER/<study>.yaml``.

    Args:
        folder: created if it does not exist.
        home: the home folder.

    Returns:
        By the name of each study, the file, or a sentence that says why there is none.

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
        try:
            study = Study(place.study_folder(name))
            if not any(r.val_error is not None for r in study.records()):
                found[name] = "it has no trial with a result yet"
                continue
            _write(path, exported(study, None), study)
        except ServiceError as error:  # damaged: the others are whole
            found[name] = str(error)
            continue
        found[name] = path
    return found


def trials_table(study: Study) -> pd.DataFrame:
    """All trials of a study in one table, a row per trial.

    Columns: study, method, dataset, protocol, labels and network, which are the same in all rows, then those of
    `Study.trials`.
    """
    config = study.spec.config
    table = study.trials()
    facts = {
        "study": study.name,
        "method": config["method"],
        "dataset": study.spec.dataset_tag,
        "protocol": study.spec.protocol,
        "labels": config["labels"],
        "network": config["network"],
    }
    for place, (name, value) in enumerate(facts.items()):
        table.insert(place, name, value)
    return table


def export_table(name: str, path: Path | str, *, home: Path | str | None = None) -> int:
    """Write all trials of a study as a CSV or Parquet file.

    Args:
        name: the study.
        path: the file; its ending, ``.csv`` or ``.parquet``, decides the format.
        home: the home folder.

    Returns:
        The number of trials written.

    Raises:
        ConfigError: there is no such study, the ending is another one, or the file cannot be written.
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
# `config` holds everything that the result depends on. `expect` holds the result of the run that was exported,
# and `origin` says where that run was made; it changes nothing. A `method` of the form file:NAME is a file beside
# this one. `held_out` holds the hashes of the test images, where they were held out of the labelled ones.
"""


def exported(study: Study, trial: str | None = None) -> dict[str, Any]:
    """The document that `export` writes for a study."""
    confirmation = confirmed(study.folder)
    record, full = _chosen(study, trial, confirmation)
    row = _confirmed_row(confirmation, record.trial)
    config = study.spec.trial_config(record.values)
    if record.epoch < (config.epochs or 0) and row is None:  # fresh seeds have trained it to the end
        # Fewer epochs would change the schedule: the run keeps its schedule and stops where the trial did.
        config = config.model_copy(update={"stop_after_epoch": record.epoch})
    plain = config.document()
    if config.method_digest is not None:
        plain["method"] = f"{method_file.PREFIX}{study.folder.path / method_file.COPY}"
    document = {
        "format": FORMAT,
        "config": plain,
        "expect": _expected(record, int(study.spec.config["epochs"])),
        "origin": {
            "study": study.name,
            "trial": record.trial,
            "stop_reason": record.stop_reason,
            "full_budget": full,
            "objective": study.spec.objective,
            "protocol": study.spec.protocol,
            "trials": study.spec.trials,
            **({} if study.spec.repeats == 1 else {"repeats": study.spec.repeats}),
            **_folds(study, record),
            "classes": _classes(config),
            "confirmed": row is not None,
            "split_hash": study.spec.split_hash,
            "created": study.spec.created,
            "git_revision": git_revision(),
            "fingerprint": dict(study.spec.fingerprint or {}),
        },
    }
    if row is not None:
        document["confirmation"] = _provenance(confirmation or {}, row)
    images = read_images(study.folder.path)
    if images is not None and images.held_out is not None:
        document["held_out"] = images.held_out
    return document


def _expected(record: TrialRecord, epochs: int) -> dict[str, Any]:
    """What a run of a trial's configuration gives: its result or, where it has several folds, that of fold 0."""
    names = ("val_error", "val_error_balanced", "val_loss")
    values = record.folds[0] if record.folds else {name: getattr(record, name) for name in names}
    found = {name: values[name] for name in names if values.get(name) is not None}
    return {**found, "epochs": min(record.epoch, epochs)}


def _folds(study: Study, record: TrialRecord) -> dict[str, Any]:
    """Over how many folds a trial's value is a mean, and what is known of each; nothing in a study with one fold."""
    if study.spec.folds == 1:
        return {}
    hashes = (study.spec.split_hash, *study.spec.fold_hashes)
    each = [{"split_hash": hash, **values} for hash, values in zip(hashes, record.folds, strict=False)]
    return {"folds": {"asked": study.spec.folds, "finished": each, "val_error": record.val_error}}


def _classes(config: RunConfig) -> int | None:
    """The number of classes; None if the data can no longer be read."""
    try:
        from ssl_core.data.datasets import describe  # loads NumPy

        return describe(config.dataset, options=options_of(config)).num_classes
    except (ConfigError, OSError):  # gone, or not for this user to read
        return None


def _confirmed_row(confirmation: Mapping[str, Any] | None, trial: str) -> dict[str, Any] | None:
    rows = [] if confirmation is None else confirmation["rows"]
    return next((row for row in rows if row["who"] == trial and row["test_error"]), None)


def _provenance(confirmation: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The confirmation's results for a configuration. They are for information only: no run depends on them."""
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
    if trial is None:
        trial = study.pinned()
    if trial is None and confirmation is not None:
        trial = confirmation["winner"]
    if trial is None:
        record, full = best_record(records)
        if record is None:
            raise ConfigError(
                f"the study {study.name!r} has no trial with a result yet. Resume it with "
                f"`{study.folder.command('resume')}`."
            )
        return record, full
    for record in records:
        if record.trial == trial and record.val_error is not None:
            return record, record.state == "completed"
    with_result = ", ".join(r.trial for r in records if r.val_error is not None) or "none"
    raise ConfigError(
        f"the study {study.name!r} has no trial {trial!r} with a result. Those that have one: {with_result}."
    )


def read_exported(path: Path, *, trust_method: bool = False) -> tuple[RunConfig, Mapping[str, Any]]:
    """Read a configuration file: one that `export` wrote, or a plain configuration.

    Args:
        path: the file.
        trust_method: a method file that it names is run also where this user has not run it before
            (`ssl_core.trusted`).

    Returns:
        The configuration, and the whole document, which has `expect` and `origin`; empty for a plain configuration.

    Raises:
        ConfigError: there is no such file, it does not parse (the message names the line), the configuration is
            invalid, or it names a method file that this user has not run before.
    """
    if not path.is_file():
        raise ConfigError(f"--config {path}: there is no such file.")
    document = load_yaml(read_text(path, "--config"), str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of `name: value`; this file is not.")
    if "format" not in document:
        return from_document(_placed(document, path, trust_method), where=str(path)), {}
    if document["format"] != FORMAT:
        raise ConfigError(
            f"{path}: it has format {document['format']!r}; this version reads {FORMAT}. Export it again with "
            "this version."
        )
    if not isinstance(document.get("config"), dict):
        raise ConfigError(
            f"{path}: `config` is missing. Write a mapping of `name: value` there, or export the study again."
        )
    return from_document(_placed(document["config"], path, trust_method), where=str(path)), document


def _placed(config: Mapping[str, Any], path: Path, trust_method: bool) -> Mapping[str, Any]:
    """The configuration, with the path of a method's file read relative to the configuration's folder; the file is
    loaded, where this user trusts it.
    """
    method = config.get("method")
    if not isinstance(method, str) or not method.startswith(method_file.PREFIX):
        return config
    file = path.parent / method_file.path_of(method)
    # Before the file is run, and before the user is asked whether to: it may not be the one that was exported.
    found = method_file.digest_of(method_file.read(file))
    method_file.check_digest(method, config.get("method_digest"), found, f"{path}: ")
    load_named(file, str(path), trust_method=trust_method)
    return {**config, "method": f"{method_file.PREFIX}{file}"}


def differences(document: Mapping[str, Any], fingerprint: Mapping[str, str]) -> list[str]:
    """The differences in processor and versions from those with which an exported run was made, in words."""
    made = (document.get("origin") or {}).get("fingerprint") or {}
    return [f"{k}: {v} there, {fingerprint.get(k)} here" for k, v in made.items() if fingerprint.get(k) != v]


def expected_error(document: Mapping[str, Any]) -> float | None:
    """The `val/error` that an exported configuration promises; None where it is that of several seeds (`--repeats`), or
    of a trial that was stopped, whose configuration trains to the end since it was confirmed."""
    origin = document.get("origin") or {}
    is_as_run = origin.get("full_budget", True) or document["config"].get("stop_after_epoch") is not None
    found: float | None = (document.get("expect") or {}).get("val_error")
    return found if is_as_run and origin.get("repeats", 1) == 1 else None
