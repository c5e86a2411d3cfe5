"""How a sitting of a study ended."""

from __future__ import annotations

from dataclasses import dataclass

from tune.errors import Exit
from tune.findings.study import Study

INTERRUPTIONS = (Exit.INTERRUPTED, Exit.TERMINATED, Exit.STORAGE)
"""Ends after which nothing more is begun: the study can be resumed."""


@dataclass(frozen=True)
class Outcome:
    """How a sitting of a study ended.

    Attributes:
        study: the study.
        code: what the command exits with.
        pending: events that MLflow has not got yet.
        seconds: that the sitting took.
        refused: events that MLflow refused for good.
        trouble: what could not be written, where that is why the sitting ended.
        was_finished: the study had ended before, and nothing was run.
        told: another process drives the study, and was told what is asked for: what it did.
    """

    study: Study
    code: Exit
    pending: int
    seconds: float
    refused: int = 0
    trouble: str | None = None
    was_finished: bool = False
    told: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether the sitting ended before the study did."""
        return self.code in INTERRUPTIONS


def worse(one: Exit, other: Exit) -> Exit:
    """The exit code of two searches that were one command: an interruption, else the graver one."""
    interrupted = [code for code in (one, other) if code in (Exit.INTERRUPTED, Exit.TERMINATED)]
    if interrupted:
        return interrupted[0]
    gravity = [
        Exit.STORAGE,
        Exit.NO_TRIAL_SUCCEEDED,
        Exit.SOME_TRIALS_FAILED,
        Exit.TRACKING_PENDING,
        Exit.DONE,
    ]
    return min((one, other), key=lambda code: gravity.index(code) if code in gravity else -1)
