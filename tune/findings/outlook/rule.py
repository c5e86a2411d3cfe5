"""When a search has gone on long enough: `--patience`, and what `status` says of further trials.

Both are functions of the trials' records alone, so a study that was interrupted decides as one that was not.

What the validation images resolve. Two trials are measured on the same `n` images, and many of the images that one
gets wrong the other gets wrong, too. The difference of their errors e1 and e2 has the variance
s1^2 + s2^2 - 2 r s1 s2, where s^2 = e (1 - e) / n is the binomial variance of each, and r the correlation of their
mistakes from image to image. Trials do not keep what they predict for each image, so r is not measured; `CORRELATION`
is taken. (The 105 recorded curves give 0.50 over all of them and 0.43 to 0.77 among the better ones: docs/results.md.)
An improvement by less than one standard deviation of that difference is not counted as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_core.system.errors import counted
from tune.definition.objective import error_beside
from tune.definition.spec import StudySpec
from tune.findings.ranking import best_record, deviation_of, error_of
from tune.trials.record import TrialRecord

CORRELATION = 0.5
"""Of two trials' mistakes from image to image: with 1/2 and equal errors, a difference is as uncertain as one error."""
FEWEST = 4
"""Ended trials below which nothing is said of further ones."""
SCHEDULERS = ("asha", "median")


@dataclass(frozen=True)
class Standing:
    """How long a study has gone on without an improvement.

    Attributes:
        ended: trials that ran the full budget or that the scheduler ended: those that failed, or that somebody or a
            spent budget ended, say nothing of their configuration.
        since: of them, those after the last improvement of the recommendation; trials before the first one at full
            budget do not count, since there is no recommendation yet.
        resolves: the least difference from the present recommendation that counts, in points; None: there is none yet.
        last_doubling: by how many points the second half of the ended trials lowered the best error, in expectation
            over their order; None: too few have ended.
    """

    ended: int
    since: int
    resolves: float | None
    last_doubling: float | None

    @property
    def improves(self) -> bool | None:
        """Whether as many trials again are expected to improve the recommendation by more than can be resolved.

        The lowest of many errors falls ever more slowly, and the lowest error seen flatters: as many trials again
        bring no more, in expectation, than the last doubling did. None: too few trials have ended.
        """
        if self.resolves is None or self.last_doubling is None:
            return None
        return self.last_doubling > self.resolves


def standing(records: Sequence[TrialRecord], valid: int) -> Standing:
    """How a study stands, by its trials in order of creation.

    Args:
        records: its trials, in order of creation.
        valid: how many validation images there are.
    """
    ended = [r for r in records if error_of(r) is not None and _says_something(r)]
    best: TrialRecord | None = None
    reference: TrialRecord | None = None  # the recommendation after the last improvement
    since = 0
    for record in ended:
        if record.state == "completed":
            best = record if best is None else best_record([best, record])[0] or best
            if reference is None or _is_better(best, reference, valid):
                reference, since = best, 0
                continue
        since += reference is not None
    if best is None:
        return Standing(len(ended), 0, None, None)
    return Standing(len(ended), since, resolved(best, best, valid), _last_doubling(ended, best))


def _says_something(record: TrialRecord) -> bool:
    return record.state == "completed" or record.stop_reason in SCHEDULERS


def _is_better(one: TrialRecord, other: TrialRecord, valid: int) -> bool:
    """Whether a trial's error is lower than another's by more than the validation images leave open."""
    return _error(one) < _error(other) - resolved(one, other, valid)


def _error(record: TrialRecord) -> float:
    error = error_of(record)
    assert error is not None
    return error


def resolved(one: TrialRecord, other: TrialRecord, valid: int) -> float:
    """Standard deviation in points of the difference of two trials' errors on the same images (above)."""
    s1, s2 = deviation_of(one, valid), deviation_of(other, valid)
    return math.sqrt(s1**2 + s2**2 - 2 * CORRELATION * s1 * s2)


def _last_doubling(ended: Sequence[TrialRecord], best: TrialRecord) -> float | None:
    """What the second half of the trials has brought; one that was stopped counts as no better than the best."""
    if len(ended) < FEWEST:
        return None
    lowest = _error(best)
    errors = [_error(r) if r.state == "completed" else max(lowest, _error(r)) for r in ended]
    return max(0.0, expected_lowest(errors, len(errors) // 2) - lowest)  # not -0.0 by rounding


def expected_lowest(errors: Sequence[float], draws: int) -> float:
    """The mean of the lowest of `draws` of these errors, drawn without replacement.

    The i-th lowest of n is the lowest of k drawn in C(n - i, k - 1) of the C(n, k) choices (compare Dodge et al. 2019,
    equation 5, which draws with replacement). This share is k / n for the lowest, and from one to the next it falls
    by (n - i - k + 1) / (n - i): with binomials of thousands, of as many digits, it takes seconds.
    """
    n, share, mean = len(errors), draws / len(errors), 0.0
    for i, error in enumerate(sorted(errors), start=1):
        mean += share * error
        if n - i < draws:
            break
        share *= (n - i - draws + 1) / (n - i)
    return mean


def is_settled(records: Sequence[TrialRecord], spec: StudySpec) -> bool:
    """Whether a study's patience is over: it hands out no new trial."""
    if spec.patience is None or len(records) <= spec.patience:
        return False
    return standing(records, spec.config["data"]["valid"]).since >= spec.patience


def outlook(records: Sequence[TrialRecord], spec: StudySpec) -> dict[str, Any]:
    """What ``ssl-tune status --json`` says of further trials."""
    found = standing(records, spec.config["data"]["valid"])
    return {
        "ended": found.ended,
        "since_improvement": found.since,
        "resolves": found.resolves,
        "last_doubling": found.last_doubling,
        "improvement_expected": found.improves,
        "patience": spec.patience,
        "says": in_words(found, spec),
    }


def in_words(found: Standing, spec: StudySpec) -> str:
    """Whether further trials are expected to improve the recommendation, as a sentence without its full stop."""
    valid, improves = spec.config["data"]["valid"], found.improves
    patience = "" if spec.patience is None else f"; patience: {found.since} of {spec.patience} trials"
    if improves is None or found.resolves is None or found.last_doubling is None:
        return f"too few trials have ended to tell what further ones would bring{patience}"
    expected = "may improve" if improves else "are not expected to improve"
    beyond = "by more than" if improves else "beyond"
    return (
        f"further trials {expected} the recommendation {beyond} what {counted(valid, 'validation image')} resolve "
        f"({found.resolves:.1f} points): the last doubling of the {found.ended} lowered the best error by "
        f"{found.last_doubling:.1f} points in expectation, and {counted(found.since, 'trial')} in a row "
        f"{'has' if found.since == 1 else 'have'} not improved it by as much{patience}"
    )


def why_settled(records: Sequence[TrialRecord], spec: StudySpec) -> str:
    """Why a study whose patience is over ends, as a sentence without its full stop."""
    found = standing(records, spec.config["data"]["valid"])
    resolves = 0.0 if found.resolves is None else found.resolves
    return (
        f"patience {spec.patience}: {counted(found.since, 'trial')} in a row improved the recommendation by no more "
        f"than what {spec.config['data']['valid']} validation images resolve ({resolves:.1f} points of "
        f"{_measure(spec)}); the study ends with {counted(len(records), 'trial')} of {spec.trials}"
    )


def _measure(spec: StudySpec) -> str:
    """The error that improvements are counted in: the objective, or beside one that is no error val/error."""
    return error_beside(spec.objective)
