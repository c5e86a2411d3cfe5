"""What a confirmation found, for whoever reads it."""

from __future__ import annotations

import json
from typing import Any

from tune.store.layout import CONFIRM_FILE
from tune.store.study_folder import StudyFolder

PLAIN, TUNED = "supervised", "supervised-tuned"
"""Names of the two baselines among a study's confirmations."""


def title(who: str) -> str:
    """A row's name for people."""
    names = {PLAIN: "supervised baseline (untuned)", TUNED: "supervised baseline (tuned)"}
    return names.get(who, f"trial {who}")


def confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    """What the last confirmation of a study found, or None."""
    path = folder.path / CONFIRM_FILE
    return dict(json.loads(path.read_text())) if path.exists() else None
