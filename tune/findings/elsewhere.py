"""What other studies of a home know of a configuration.

The same one, on the same split, machine and versions, gives the same bits: it is not trained again
(`tune.trials.repeats`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tune.definition.objective import FIELDS
from tune.definition.spec import StudySpec
from tune.errors import ServiceError
from tune.findings.study import Study, studies_of
from tune.store.home import Home
from tune.trials.record import TrialRecord
from tune.trials.repeats import Found

_SEARCHED_TOO = {"warmup_epochs", "warmup_share"}


class HomeResults:
    """Looks for a point's configuration among the runs at full budget of a home's other studies.

    They are read once, when the first point is looked for. A home in an object store, whose studies would be fetched
    for it, is not looked through.

    Args:
        home: the home folder.
        spec: the study that looks.
    """

    def __init__(self, home: Home, spec: StudySpec) -> None:
        self._home, self._spec = home, spec
        self._found: dict[str, Found] | None = None

    def __call__(self, values: Mapping[str, Any]) -> Found | None:
        """The run of just this configuration, where there is one."""
        if self._found is None:
            self._found = dict(self._look())
        if not self._found:
            return None
        return self._found.get(_key(self._spec, values))

    def _look(self) -> Iterator[tuple[str, Found]]:
        if self._home.url is not None or self._spec.split_hash is None or self._spec.fingerprint is None:
            return
        others, _ = studies_of(self._home)
        for other in others:
            if other.name == self._spec.name or not comparable(self._spec, other.spec):
                continue
            try:
                records = other.records()
            except ServiceError:  # damaged, or its storage is away: this study trains for itself
                continue
            for record in records:
                if record.state == "completed" and getattr(record, FIELDS[self._spec.objective]) is not None:
                    yield _key(other.spec, record.values), self._of(other, record)

    def _of(self, other: Study, record: TrialRecord) -> Found:
        last = {
            "epoch": record.epoch,
            "ssl_epoch": record.ssl_epoch,
            "val_error": record.val_error,
            "val_error_balanced": record.val_error_balanced,
            "deviation": record.deviation,
            "val_loss": record.val_loss,
            "val_error_and_loss": record.val_error_and_loss,
            "seconds": record.seconds,
            "stop_reason": "completed",
            **({"folds": list(record.folds)} if record.folds else {}),
        }
        same = other.spec.objective == self._spec.objective
        value: float = getattr(record, FIELDS[self._spec.objective])
        return Found(f"{other.name}/{record.trial}", last, value, record.intermediate if same else {})


def comparable(spec: StudySpec, other: StudySpec) -> bool:
    """Whether two studies may have trained the same configuration to the same bits: all is the same but what is
    searched."""
    facts = [(s.split_hash, s.fold_hashes, s.fingerprint, s.repeats) for s in (spec, other)]
    if facts[0] != facts[1]:
        return False
    if any(spec.config.get(name) != other.config.get(name) for name in ("method", "method_digest")):
        return False
    searched = _SEARCHED_TOO | {p.name for s in (spec, other) for p in s.search_space().parameters}
    mine, theirs = (_flat(s.config) for s in (spec, other))
    return all(mine.get(k) == theirs.get(k) for k in mine.keys() | theirs.keys() if k not in searched)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _key(spec: StudySpec, values: Mapping[str, Any]) -> str:
    return json.dumps(spec.trial_config(values).document(), sort_keys=True, default=str)
