"""The best configuration of a study as a YAML file that ``ssl-tune train --config`` runs as it is."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces import dump_yaml, load_yaml
from ssl_core.config import RunConfig, from_document
from ssl_core.errors import ConfigError
from tune.records import TrialRecord
from tune.spec import read_text
from tune.study import Study, load_study
from tune.views import best_record

FORMAT = 1


def export(
    name: str,
    output: Path | str | None = None,
    *,
    trial: str | None = None,
    home: Path | str | None = None,
) -> dict[str, Any]:
    """Write a study's best configuration as YAML; returns what was written, as plain data.

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
        path = Path(output).expanduser()
        if not path.parent.is_dir():
            raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
        try:
            path.write_text(HEADER.format(name=name) + dump_yaml(document))
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None
    return document


HEADER = """\
# Written by `ssl-tune export {name}`. Run it with: ssl-tune train --config FILE
# `config` holds all that the bits of the run depend on, `expect` what came out of it where it was made;
# `origin` says where that was, and changes nothing.
"""


def exported(study: Study, trial: str | None = None) -> dict[str, Any]:
    """What `export` writes of a study."""
    record, full = _chosen(study, trial)
    config = study.spec.trial_config(record.values)
    if record.epoch < (config.epochs or 0):
        # A shorter budget would change the schedule: the run keeps its own and stops where the trial did.
        config = config.model_copy(update={"stop_after_epoch": record.epoch})
    return {
        "format": FORMAT,
        "config": config.document(),
        "expect": {"val_error": record.val_error, "val_loss": record.val_loss, "epochs": record.epoch},
        "origin": {
            "study": study.name,
            "trial": record.trial,
            "stop_reason": record.stop_reason,
            "full_budget": full,
            "confirmed": False,
            "split_hash": study.spec.split_hash,
            "created": study.spec.created,
            "git_revision": git_revision(),
            "fingerprint": dict(study.spec.fingerprint or {}),
        },
    }


def _chosen(study: Study, trial: str | None) -> tuple[TrialRecord, bool]:
    records = study.records()
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
        return from_document(document, where=str(path)), {}
    if document["format"] != FORMAT:
        raise ConfigError(
            f"{path}: written in format {document['format']!r}, this version reads {FORMAT}. Export it again with "
            "this version."
        )
    if not isinstance(document.get("config"), dict):
        raise ConfigError(f"{path}: `config` is missing.")
    return from_document(document["config"], where=str(path)), document


def differences(document: Mapping[str, Any], fingerprint: Mapping[str, str]) -> list[str]:
    """What of processor and versions differs from where an exported run was made, in words."""
    made = (document.get("origin") or {}).get("fingerprint") or {}
    return [f"{k}: {v} there, {fingerprint.get(k)} here" for k, v in made.items() if fingerprint.get(k) != v]


def git_revision() -> str:
    """The revision of this package's checkout; "unknown" where it was not installed from one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
