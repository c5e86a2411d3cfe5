"""What a study found, for its run in MLflow: the table of its trials, and a description in words."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from ssl_core.system.errors import counted
from tune.definition.objective import DEFAULT
from tune.definition.spec import StudySpec
from tune.findings.ranking import best_record, deviation_of, near_ties
from tune.findings.words import PROTOCOLS, certainty, parameters_in_words, result
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.trials.optuna_storage import open_to_read
from tune.trials.record import TrialRecord

TABLE_FILES = ("trials.csv", "trials.json")
TABLE_TAG = {"mlflow.loggedArtifacts": json.dumps([{"path": TABLE_FILES[1], "type": "table"}])}
"""Makes MLflow show the JSON file as a table."""


def rows(records: Sequence[TrialRecord]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table of trials: one a trial, searched parameters last."""
    names = list(dict.fromkeys(name for r in records for name in r.params))
    columns = [*(records[0].row() if records else ["trial"]), *names]
    return columns, [[*r.row().values(), *(r.params.get(name) for name in names)] for r in records]


def trials_csv(records: Sequence[TrialRecord]) -> str:
    """The table of trials as comma-separated values; what is not known is empty."""
    columns, table = rows(records)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(table)
    return text.getvalue()


def trials_json(records: Sequence[TrialRecord]) -> str:
    """The table of trials in the form of MLflow's tables."""
    columns, table = rows(records)
    return json.dumps({"columns": columns, "data": [[_finite(value) for value in row] for row in table]})


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def importances(folder: StudyFolder, name: str) -> dict[str, float]:
    """Share of each searched parameter in the differences between trials at full budget; {} where there are too
    few of them, or no differences."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # experimental; and where trials do not differ enough, all shares are equal
        try:
            storage = open_to_read(folder, read_spec(folder.path).storage)
            if storage is None:
                return {}
            study = optuna.load_study(study_name=name, storage=storage)
            found = optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError, KeyError):
            return {}
    return {parameter: float(share) for parameter, share in found.items() if math.isfinite(share)}


def description(
    spec: StudySpec, records: Sequence[TrialRecord], state: str, weights: Mapping[str, float]
) -> str:
    """What the study found, in words (Markdown).

    Args:
        spec: the study.
        records: its trials.
        state: finished, interrupted or failed.
        weights: as `importances` gives them.
    """
    config = spec.config
    states = Counter(r.state for r in records)
    by_state = ", ".join(f"{states[s]} {s.replace('_', ' ')}" for s in sorted(states))
    seconds = sum(r.seconds for r in records)
    lines = [
        f"Search of **{config['method']}** on {spec.dataset_tag} with {config['labels']} labels, {config['network']}, "
        f"{'' if spec.folds == 1 else f'{spec.folds} folds of '}{counted(config['epochs'], 'epoch')} at full budget; "
        f"{PROTOCOLS[spec.protocol]}.",
        f"{state.capitalize()}: {len(records)} of {counted(spec.trials, 'trial')} begun ({by_state or 'none'}), "
        f"{seconds / 60:.1f} minutes of training.",
    ]
    best, full = best_record(records)
    if best is None or best.val_error is None:
        lines.append("No trial has a result.")
    else:
        valid = config["data"]["valid"]
        by = "" if spec.objective == DEFAULT else f" by {spec.objective}"
        at = "" if full else f" after {counted(best.epoch, 'epoch')}, not the full budget"
        lines.append(
            f"Best{by}: **trial {best.trial}, {result(best)}** ± "
            f"{deviation_of(best, valid):.2f} (one standard deviation on {valid} validation images){at}, with "
            f"{parameters_in_words(best.params)}."
        )
        lines += _compared(records, best, valid)
    if weights:
        ranked = sorted(weights.items(), key=lambda pair: -pair[1])
        lines.append(
            "Importance among trials at full budget: "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in ranked)
            + "."
        )
    lines.append(
        f"The best of many trials is flattered by having been chosen: `ssl-tune confirm {spec.name}` trains it "
        "on fresh seeds and reads the test set."
    )
    return "\n\n".join(lines)


def _compared(records: Sequence[TrialRecord], best: TrialRecord, valid: int) -> list[str]:
    """How the best trial stands beside the others and the point that was tried first."""
    lines = []
    ties = near_ties(records, best, valid)
    if ties:
        points = deviation_of(best, valid)
        lines.append(certainty(valid, points, best.trial, [r.trial for r in ties]))
    first = next((r for r in records if r.trial == "0"), None)
    if first is not None and first.val_error is not None and first.trial != best.trial:
        how = "" if first.state == "completed" else f", stopped after {counted(first.epoch, 'epoch')}"
        point = parameters_in_words(first.params)
        lines.append(f"The space's baseline point (trial 0: {point}) has {result(first)}{how}.")
    return lines
