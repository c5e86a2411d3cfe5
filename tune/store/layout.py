"""Names of the files and folders of a home and of its studies, in one place."""

from __future__ import annotations

STUDY_FILE = "study.yaml"


INCARNATION = "incarnation"
"""In a study of an object store: told apart from another study of this name by what is in this file."""


READINGS_FILE = "test-readings.jsonl"


STORE_FILE = "store-url"
"""In a working copy: of which object store."""


LIMIT_FILE = "durable"
"""Beside the log of a study in an object store: the last event that is there, and that MLflow may hear of. What comes
after it a driver that carries on elsewhere does not know, and may do otherwise."""


KNOWN = "store.json"
"""In a working copy: which snapshot it was made from or has last become."""


DRIVER, STOP = "driver.json", "stop"


def prefix_of(study: str) -> str:
    """Where a study lies in its store."""
    return f"studies/{study}"


PLAN_FILE = "plan.json"
