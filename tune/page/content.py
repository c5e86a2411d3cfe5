"""The content of a study's page in order: sentences, tables and pictures. `tune.page.template` makes HTML of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search_spaces import describe, dump_yaml
from ssl_core.system.errors import ConfigError, counted
from tune.definition.inputs import without_place
from tune.definition.objective import DEFAULT, in_words, is_error, told
from tune.definition.rungs import stopping_of
from tune.figures import study as drawn
from tune.figures.curves import learning_curves
from tune.figures.run import run_of_trial
from tune.findings.comparisons import Spread
from tune.findings.confirmation import confirmed, title
from tune.findings.outlook.expected import expectation
from tune.findings.ranking import (
    best_record,
    deviation_of,
    near_ties,
    ranked,
    resolution,
    shows_balanced,
)
from tune.findings.study import Study
from tune.findings.words import PROTOCOLS, certainty, duration, parameters_in_words, value
from tune.page import by_class, plots, searched, steered
from tune.page.parts import Content, Figure, Hidden, Item, Look, Part, Table
from tune.page.searched import shown
from tune.revision import git_revision
from tune.trials.record import TrialRecord

SHOWN_TRIALS = 10
_DRAWN = {
    "training": "fresh training seeds",
    "labels": "fresh training seeds and labelled sets",
    "everything": "fresh training seeds, labelled sets and validation sets",
}


def content_of(study: Study) -> Content:
    """The content of a study's page.

    Raises:
        ConfigError: no trial has ended with a result yet.
    """
    records = study.records()
    best, full = best_record(records)
    if best is None or not ranked(records):
        raise ConfigError(_nothing_yet(study, len(records)))
    look = Look(study, records, best, full, study.spec.base_config(), confirmed(study.folder))
    config = look.config
    return Content(
        study=study.name,
        subtitle=f"{config.method} on {study.spec.dataset_tag} with {config.labels} labels, {config.network}, "
        f"{study.spec.protocol} protocol",
        facts=list(_facts(look)),
        verdict=_verdict(look),
        parts=[part for part in _parts(look) if part.sentences or part.items],
        closing=_closing(look),
    )


def _nothing_yet(study: Study, begun: int) -> str:
    state = study.folder.state()
    if state == "finished":
        remedy = f"See why with `{study.folder.command('trials')}`."
    elif state == "running":
        remedy = f"Wait for its first trial: `{study.folder.command('status')}` shows how far it is."
    else:
        remedy = f"Resume it with `{study.folder.command('resume')}`."
    return (
        f"the study {study.name!r} has no finished trial with a result ({begun} of {study.spec.trials} begun): there "
        f"is nothing to report. {remedy}"
    )


def _parts(look: Look) -> Iterator[Part]:
    yield _confirmation(look)
    yield _best_configurations(look)
    yield _history(look)
    yield searched.part(look)
    yield from _curves(look)
    yield by_class.part(look)
    yield _failures(look)
    yield steered.part(look)
    yield _environment(look)


def _facts(look: Look) -> Iterator[tuple[str, str]]:
    objective, value = told(look.objective), look.best.told
    assert value is not None
    spread = f" ± {deviation_of(look.best, look.valid):.2f}" if is_error(objective) else ""
    best = in_words(objective, value)
    number, percent = best.removesuffix(" %"), " %" if best.endswith(" %") else " nats"
    yield f"best {objective} in the search, trial {look.best.trial}", f"{number}{spread}{percent}"
    found = look.confirmation
    if found is not None:
        for row in found["rows"]:
            if row["who"] in (found["winner"], found["baseline"]) and row["test_error"]:
                yield f"test/error, {title(row['who'])}", f"{_spread(row['test_error'])} %"
    states = Counter(r.state for r in look.records)
    ended = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in sorted(states.items()))
    yield f"trials: {ended}", str(len(look.records)) + look.study.spec.out_of.replace("/", " of ")
    hours = sum(r.seconds for r in look.records) / 3600
    yield "training time of all trials", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    if shared := sum(r.shared for r in look.records):
        saved = duration(sum(r.seconds_saved for r in look.records))
        yield "training time that shared warm-ups saved", f"{saved} ({counted(shared, 'epoch')})"
    without = look.study.spec.trials * look.study.spec.full_epochs
    yield f"epochs, of {without} without early stopping", f"{sum(r.epoch for r in look.records)}"


def _verdict(look: Look) -> list[str]:
    state = look.study.folder.state()
    standing = steered.pinned(look)
    standing += [] if state == "finished" else [f"The study is {state}: this is how it stands."]
    if look.confirmation is not None:
        said = [text[0].upper() + text[1:] for text in look.confirmation["verdict"]]
        text = " ".join(said)  # the study may have grown since, and a doubt have come
        return said + [doubt for doubt in look.study.doubts(look.records) if doubt not in text] + standing
    doubts = look.study.doubts(look.records)
    confirm = (
        "To train it on fresh seeds beside a supervised baseline and to read the test set: ssl-tune confirm "
    )
    return [
        f"Unconfirmed: trial {look.best.trial} is the best of {counted(len(look.records), 'trial')} on the "
        "validation images. Its error there is too low on average, because it was selected by it; its test error is "
        "not known.",
        *(doubts or [f"{confirm}{look.study.name}"]),
        *standing,
    ]


def _confirmation(look: Look) -> Part:
    found = look.confirmation
    if found is None:
        return Part("Confirmation", [f"There is none yet: ssl-tune confirm {look.study.name}"])
    rows = [
        [
            title(row["who"]),
            parameters_in_words(row["params"]),
            _spread(row["val_error"]),
            _spread(row["test_error"]),
            "" if row["test_interval"] is None else "{:.2f} to {:.2f}".format(*row["test_interval"]),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        ]
        for row in found["rows"]
    ]
    head = ["configuration", "searched", "val/error %", "test/error %", "95 % interval", "seconds a run"]
    strong = frozenset(n for n, row in enumerate(found["rows"]) if row["who"] == found["winner"])
    sentences = [
        f"{len(found['seeds'])} {_DRAWN[found.get('redrawn', 'labels')]}, the same for every row, {found['steps']:,} "
        "steps each; the test set was read once for each final model. The winner (bold) is the one with the "
        f"lowest mean {found.get('objective', DEFAULT)}; the test set was not used to choose."
    ]
    items: list[Item] = [Table(head, rows, frozenset(range(2, 6)), strong)]
    picture = plots.seeds(found)
    if picture is not None:
        caption = "Test error of each final model; a line joins the models of one seed and labelled set."
        items.append(Figure(picture, caption))
    return Part("Confirmation", sentences, items)


def _spread(values: Sequence[float]) -> str:
    return str(Spread(tuple(values))) if values else "no result"


def _best_configurations(look: Look) -> Part:
    shown_trials = ranked(look.records)[:SHOWN_TRIALS]
    names, balanced = list(look.best.params), shows_balanced(look.records)
    rows = [
        [
            r.trial,
            r.state.replace("_", " "),
            f"{r.val_error:.2f} ± {resolution(look.valid, r.val_error or 0.0):.2f}",
            *([_balanced(r, look.valid)] if balanced else []),
            f"{r.val_loss:.4f}",
            str(r.epoch),
            f"{r.seconds:.1f}",
            *[value(r.params.get(n)) for n in names],
        ]
        for r in shown_trials
    ]
    errors = ["val/error %", *(["val/error_balanced %"] if balanced else [])]
    head = ["trial", "state", *errors, "val/loss", "epochs", "seconds", *names]
    strong = frozenset(n for n, r in enumerate(shown_trials) if r.trial == look.best.trial)
    return Part(
        "Best configurations", [_how_sure(look)], [Table(head, rows, frozenset(range(2, len(head))), strong)]
    )


def _balanced(record: TrialRecord, valid: int) -> str:
    error, spread = record.val_error_balanced, record.deviation
    return (
        "" if error is None else f"{error:.2f} ± {resolution(valid, error) if spread is None else spread:.2f}"
    )


def _how_sure(look: Look) -> str:
    points = deviation_of(look.best, look.valid)
    ties = [r.trial for r in near_ties(look.records, look.best, look.valid)]
    depth = (
        ""
        if look.full
        else f" The best has not run the full budget: its error is that after {counted(look.best.epoch, 'epoch')}."
    )
    by = "" if look.objective == DEFAULT else f"The study goes by {look.objective}: the lowest is best. "
    expected = expectation(look.records, look.best, look.valid)
    believed = "" if expected is None else f" {expected.says[0].upper()}{expected.says[1:]}."
    return (
        f"{by}{certainty(look.valid, points, look.best.trial, ties)} ± is one standard deviation of a binomial "
        f"distribution.{believed}{depth}"
    )


def _history(look: Look) -> Part:
    assert look.config.epochs
    stopping = stopping_of(look.study.spec)
    rungs = Figure(
        plots.rungs(
            look.records, stopping.rungs(look.config.epochs), stopping.fold_rungs(look.config.epochs)
        ),
        "Where early stopping looks: how many trials came to each rung, and how many were stopped there.",
    )
    caption = (
        f"Every trial in the order in which it was begun, at the {look.measured} of its last epoch. The line is the "
        "lowest at full budget so far."
    )
    drawn_rungs = [rungs] if stopping.scheduler == "asha" else []
    items = [*shown(drawn.optimisation_history(look.records), caption), *drawn_rungs]
    return Part("How the search went", items=items)


def _curves(look: Look) -> Iterator[Part]:
    """Learning curves of all trials; for the best trial also its losses, its pseudo-labels and its method's picture."""
    trial, method = look.best.trial, look.config.method
    best = run_of_trial(look.study, look.best)
    yield Part(
        "Learning curves",
        items=[
            *shown(
                drawn.study_curves(look.records, look.reports(look.records)),
                f"{look.measured.capitalize()} over epochs. A mark shows where early stopping ended a trial. The "
                "curves are always those of validation images.",
            ),
            *shown(
                learning_curves(best.reports, warmup=best.warmup),
                f"Trial {trial}: validation error, and the losses that were minimised.",
            ),
        ],
    )
    health = best.pseudo_labels()
    monitored = (
        f"Of trial {trial}. The true labels of unlabelled images are used for these curves and for nothing else. "
        "Classes far apart mean that most pseudo-labels go to a few classes: the method collapses."
    )
    yield Part(
        "Pseudo-labels",
        [monitored if health is not None else f"Trial {trial} ({method}) made no pseudo-labels."],
        shown(
            health,
            "How many unlabelled images were used and how many of their labels were right, by class.",
        ),
    )
    picture = best.picture()
    none = (
        f"{method} has no picture of its own."
        if look.full
        else f"Trial {trial} ended before its picture was made."
    )
    yield Part(
        "What the method does",
        [] if picture is not None else [none],
        shown(picture, f"Validation images, by trial {trial}."),
    )


def _failures(look: Look) -> Part:
    failed = [r for r in look.records if r.state == "failed"]
    rows = [
        [r.trial, str(r.stop_reason), str(r.epoch), parameters_in_words(r.params), _last_line(r.error)]
        for r in failed
    ]
    table = Table(["trial", "reason", "epochs", "searched", "error"], rows, frozenset({2}))
    return Part("Failed trials", items=[table] if failed else [])


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _environment(look: Look) -> Part:
    spec, config = look.study.spec, look.config
    seconds = [r.seconds / r.trained for r in look.records if r.trained]
    facts = [
        ["begun", spec.created],
        ["data split", f"{spec.split_hash} ({config.labels} labelled, {look.valid} for validation)"],
        *([["splits of further folds", ", ".join(spec.fold_hashes)]] if spec.folds > 1 else []),
        ["protocol", PROTOCOLS[spec.protocol]],
        [
            "budget",
            f"{'' if spec.folds == 1 else f'{spec.folds} folds of '}{counted(config.epochs or 0, 'epoch')} of "
            f"{counted(config.steps_per_epoch or 0, 'step')}",
        ],
        ["sampler, seed", f"{spec.sampler}, {spec.seed}"],
        ["objective", spec.objective],
        [
            "side by side",
            f"{counted(spec.concurrent, 'trial')} of {counted(config.threads or 1, 'thread')} and "
            f"{spec.gpus_per_trial:g} GPUs",
        ],
        ["an epoch", f"{statistics.median(seconds):.1f} s (median of the trials)" if seconds else ""],
        *[[k, v] for k, v in (spec.fingerprint or {}).items()],
        ["page made by revision", git_revision() or "unknown"],
    ]
    ranges = [[p.name, describe(p.distribution), p.role, p.why] for p in spec.search_space().parameters]
    return Part(
        "Environment and search space",
        items=[
            Table(["", ""], facts),
            Table(["parameter", "range", "role", "why"], ranges),
            Hidden("The configuration that all trials share", dump_yaml(_shared(spec.config))),
        ],
    )


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the paths of this machine."""
    return {**config, "dataset": without_place(str(config["dataset"]))}


def _closing(look: Look) -> str:
    sealed = "Search, early stopping and selection used no test image."
    if look.confirmation is None:
        return f"Made by ssl-tune. val/error is the percentage of validation images misclassified. {sealed}"
    return (
        "Made by ssl-tune. val/error and test/error are percent of images misclassified; ± in the confirmation is "
        f"one standard deviation over seeds. {sealed}"
    )
