"""What a confirmation found, for whoever reads it."""

from __future__ import annotations

from typing import Any

from tune.store.integrity import damaged, read_json
from tune.store.layout import CONFIRM_FILE
from tune.store.study_folder import StudyFolder

PLAIN, TUNED = "supervised", "supervised-tuned"
"""Names of the two baselines among a study's confirmations."""


def title(who: str) -> str:
    """A row's name for people."""
    names = {PLAIN: "supervised baseline (untuned)", TUNED: "supervised baseline (tuned)"}
    return names.get(who, f"trial {who}")


def confirmed(folder: StudyFolder) -> dict[str, Any] | None:
    """What the last confirmation of a study found, or None.

    Raises:
        DamagedError: the file is damaged.
    """
    path = folder.path / CONFIRM_FILE
    document = read_json(path) if path.exists() else None
    if document is not None and not (isinstance(document, dict) and "rows" in document):
        raise damaged(path, "it holds no confirmation")
    return document
