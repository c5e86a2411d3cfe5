"""The mark of an epoch that was taken over from another run. Loads no torch: the service reads it."""

from __future__ import annotations

from collections.abc import Mapping

SAVED = "time/seconds_saved"
"""A metric of epochs that were taken over, and of no others: the seconds of the run that trained them. Their own
`time/epoch_seconds` are 0."""
SECONDS = "time/epoch_seconds"


def is_shared(metrics: Mapping[str, float]) -> bool:
    """Whether an epoch with these metrics was taken over from another run."""
    return SAVED in metrics
