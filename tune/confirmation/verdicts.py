"""A confirmation in words, claiming no more than its seeds carry."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ssl_core.measures import OVERCONFIDENT
from ssl_core.system.errors import counted
from tune.definition.objective import DEFAULT
from tune.findings.comparisons import ENOUGH_SEEDS, LEVEL, Spread

BASELINES = {"supervised": "untuned", "supervised-tuned": "tuned"}
Document = Mapping[str, Any]


def sentences(document: Document) -> list[str]:
    """What a confirmation says: against the baseline, among the configurations, doubts, cost, luck, failures.

    The test images are the same for all seeds, so the intervals are about training and labelled sets, not
    about other images.
    """
    rows = {row["who"]: row for row in document["rows"]}
    trials = [who for who in rows if who not in BASELINES]
    found = [_against_baseline(document, who) for who in trials if document["baseline"]]
    found += _among(document, trials) + _looks(document)
    found += [planned(needs, _title) for needs in document.get("plan", ())] + doubtful(
        document.get("doubts", ())
    )
    found += _cost(document, rows, trials)
    images = "other" if document.get("redrawn") == "everything" else "the same"
    found += [_luck(rows[who], images) for who in trials if rows[who]["luck"] is not None]
    found += [each for who in trials for each in _overconfident(rows[who])]
    for who, row in rows.items():
        if row["problems"]:
            found.append(
                f"{_title(who)}: {len(row['problems'])} of {len(document['seeds'])} trainings turned NaN or "
                "infinite and are left out."
            )
    return found + _protocol(document) + _redrawn(document) + _refit(document)


def doubtful(doubts: Sequence[str], of: str = "") -> list[str]:
    """Why the best of a search may be worth nothing (`tune.findings.doubts`), as a verdict says it.

    Args:
        doubts: the sentences; none in documents of earlier versions.
        of: the method, where several are spoken of.
    """
    return [f"careful{f' ({of})' if of else ''}: {doubt}" for doubt in doubts]


def _protocol(document: Document) -> list[str]:
    """What played the unlabelled images; nothing in documents of earlier versions."""
    if document.get("protocol") == "real":
        return ["real protocol: the unlabelled images are images without a label."]
    if document.get("protocol") == "simulated" and document.get("hidden"):
        return [
            f"simulated protocol: {document['labels']} labels were used, the labels of {document['hidden']} other "
            "images were hidden."
        ]
    return []


def _redrawn(document: Document) -> list[str]:
    """What the seeds drew anew, where that is not the labelled images alone."""
    if document.get("redrawn") == "everything":
        return ["each seed drew labelled and validation images of its own (--resample)."]
    if document.get("redrawn") == "training":
        used = "all labels are in use" if not document.get("hidden") else "the labelled images are the same"
        return [
            f"{used}: the seeds change the training alone, so the intervals say nothing about other "
            "labelled images. --resample redraws labelled and validation images."
        ]
    return []


def _refit(document: Document) -> list[str]:
    """What training on the validation images too has changed."""
    found = document.get("refit")
    if found is None:
        return []
    if not found["test_error"]:
        return [f"refit of {_title(found['who'])}: every training turned NaN or infinite."]
    fresh = Spread(tuple(found["test_error"]))
    against = ""
    if found["difference"] is not None:
        interval = found["difference_interval"]
        between = "" if interval is None else f", 95 % interval [{interval[0]:+.2f}, {interval[1]:+.2f}]"
        against = (
            f", {found['difference']:+.2f} points against the same seeds without it{between}, "
            f"n = {len(found['seeds'])}"
        )
    return [
        f"refit of {_title(found['who'])} on training and validation images: test error {fresh} %{against}."
    ]


def _title(who: str) -> str:
    return f"the {BASELINES[who]} supervised baseline" if who in BASELINES else f"trial {who}"


def _against_baseline(document: Document, who: str) -> str:
    baseline = document["baseline"]
    comparison = comparison_of(document, who, baseline)
    mine, theirs = _title(who), _title(baseline)
    if comparison is None:
        return f"{mine} against {theirs}: no seed on which both have a result; cannot tell."
    if comparison["n"] < ENOUGH_SEEDS:
        return (
            f"{mine} against {theirs}: {comparison['difference']:+.2f} points of test error, "
            f"n = {comparison['n']}; cannot tell below {ENOUGH_SEEDS} seeds."
        )
    known = facts(document, comparison)
    if not comparison["told_apart"]:
        return f"{mine} cannot be told from {theirs}: {known}."
    return f"{mine} {'beats' if comparison['difference'] < 0 else 'is worse than'} {theirs}: {known}."


def comparison_of(document: Document, one: str, other: str) -> dict[str, Any] | None:
    """The comparison of two rows, as a difference of `one` minus `other`."""
    for found in document["comparisons"]:
        if (found["one"], found["other"]) == (one, other):
            return dict(found)
        if (found["one"], found["other"]) == (other, one):
            low_high = found["interval"]
            turned = None if low_high is None else [-low_high[1], -low_high[0]]
            return {**found, "difference": -found["difference"], "interval": turned}
    return None


def facts(document: Document, comparison: Mapping[str, Any]) -> str:
    """A comparison's difference, interval, seeds and p-value; it has `ENOUGH_SEEDS` at least."""
    low, high = comparison["interval"]
    count = len(document["comparisons"])
    corrected = f", p = {comparison['p_holm']:.2g}"
    corrections = [f"Holm's correction for {count} comparisons"] if count > 1 else []
    if (looks := document.get("looks")) is not None:
        corrections.append(f"the correction for looks at {looks['first']} to {looks['most']} seeds")
    corrected += f" after {' and '.join(corrections)}" if corrections else ""
    return (
        f"{comparison['difference']:+.2f} points of test error, 95 % interval [{low:+.2f}, {high:+.2f}], "
        f"n = {comparison['n']}{corrected}"
    )


def _among(document: Document, trials: Sequence[str]) -> list[str]:
    """Which configurations differ by more than chance explains, and which do not."""
    if len(trials) < 2:
        return []
    pairs = [(one, other) for place, one in enumerate(trials) for other in trials[place + 1 :]]
    found = {pair: comparison_of(document, *pair) for pair in pairs}
    apart = [pair for pair, c in found.items() if c is not None and c["told_apart"]]
    if any(c is None or c["n"] < ENOUGH_SEEDS for c in found.values()):
        return [f"which of trials {listed(trials)} is better: cannot tell below {ENOUGH_SEEDS} seeds."]
    winner = document["winner"]
    chosen = f"trial {winner} has the lowest {document.get('objective', DEFAULT)} on the fresh seeds"
    if not apart:
        return [
            f"trials {listed(trials)} cannot be told apart by their test errors (paired over seeds, level "
            f"{100 * LEVEL:g} %, Holm's correction); {chosen}."
        ]
    told = []
    for one, other in apart:
        comparison = found[one, other]
        assert comparison is not None
        better, worse = (one, other) if comparison["difference"] < 0 else (other, one)
        told.append(f"{better} from {worse}")
    same = [f"{one} and {other}" for one, other in pairs if (one, other) not in apart]
    rest = f"; not told apart: {', '.join(same)}" if same else ""
    return [
        f"told apart by their test errors, the better one first: trials {', '.join(told)}{rest}; {chosen}."
    ]


def _looks(document: Document) -> list[str]:
    """That the confirmation looked after each seed, and why it ended; nothing where it looked once."""
    looks = document.get("looks")
    if looks is None:
        return []
    seeds = len(document["seeds"])
    ended = (
        f"ended after {counted(seeds, 'seed')} of at most {looks['most']}, since the two best are told apart"
        if seeds < looks["most"]
        else f"went to its greatest number of seeds, {looks['most']}"
    )
    return [
        f"the confirmation {ended}. It looked after each seed from {looks['first']} on, at a nominal level that rises "
        f"in proportion to the seeds, to {100 * looks['level']:.1f} % at the last look: all looks together err in "
        f"{100 * LEVEL:g} % of the cases where there is no difference (by simulation of paired t-tests)."
    ]


def planned(needs: Mapping[str, Any], called: Callable[[str], str], option: str = "--seeds") -> str:
    """How many seeds would tell a pair apart, as a sentence.

    Args:
        needs: an entry of `tune.confirmation.power.plan_of`.
        called: the name of a row for people.
        option: that takes the number of seeds.
    """
    pair = f"{called(needs['one'])} and {called(needs['other'])}"
    if not needs["std"]:
        return f"{pair} have the same test error on each seed: no number of seeds tells how many would be needed."
    test = f"paired t-test, level {100 * needs['level']:.2g} %, power {100 * needs['power']:g} %"
    seen = f"{needs['difference']:+.2f} ± {needs['std']:.2f} points"
    sees = f"the {needs['n']} seeds of now tell a difference of {needs['resolves']:.1f} points"
    if needs["seeds"] is None:
        return (
            f"to tell {pair} apart, more than {needs['most']} seeds each would be needed, if the true difference is "
            f"the one that was seen ({seen}, {test}): no reasonable number. As it is, {sees}."
        )
    seeds = max(needs["seeds"], needs["n"] + 1)
    return (
        f"to tell {pair} apart, about {seeds} seeds each would be needed, if the true difference is the one that was "
        f"seen ({seen}, {test}): {option} {seeds}. As it is, {sees}."
    )


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; two names at least."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _cost(document: Document, rows: Mapping[str, Any], trials: Sequence[str]) -> list[str]:
    baseline = rows.get(document["baseline"] or "")
    if baseline is None or not baseline["seconds"]:
        return []
    costs = [
        f"trial {who} {rows[who]['seconds']:.1f} s ({rows[who]['seconds'] / baseline['seconds']:.1f} times)"
        for who in trials
        if rows[who]["seconds"]
    ]
    if not costs:
        return []
    return [f"a training costs: {', '.join(costs)}, the baseline {baseline['seconds']:.1f} s."]


def _overconfident(row: Mapping[str, Any]) -> list[str]:
    """A warning where the network is surer than it is right; nothing in documents of earlier versions."""
    gaps, errors = row.get("val_overconfidence"), row.get("val_ece")
    if not gaps or not errors or statistics.fmean(gaps) < OVERCONFIDENT:
        return []
    return [
        f"{_title(row['who'])} is overconfident: on the validation images its confidence is "
        f"{statistics.fmean(gaps):.1f} points above its accuracy (expected calibration error "
        f"{statistics.fmean(errors):.1f} points), so pseudo-labels that pass a threshold are right less often than the "
        "threshold says."
    ]


def _luck(row: Mapping[str, Any], images: str) -> str:
    luck, fresh = row["luck"], Spread(tuple(row["val_error"]))
    flattered = f"flattered by {luck:.2f} points" if luck > 0 else f"not flattered ({luck:+.2f} points)"
    few = "" if len(fresh.values) >= ENOUGH_SEEDS else f"; n = {len(fresh.values)}, so this is rough"
    return (
        f"luck of the search: trial {row['who']} was chosen at val/error {row['val_error_at_selection']:.2f} %, "
        f"fresh training seeds give {fresh} % on {images} validation images: {flattered}{few}."
    )
