"""What a study's page shows, gathered: text, tables and pictures, in order; `tune.report.page` sets them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces import describe, dump_yaml
from ssl_core.config import RunConfig
from ssl_core.errors import ConfigError
from tune.confirm import confirmed, title
from tune.events import EventLog, Report
from tune.records import TrialRecord
from tune.report import plots, searched
from tune.statistics import Spread
from tune.study import Study
from tune.views import best_record, near_ties, resolution

SHOWN_TRIALS = 10
CURVES = 60
"""Learning curves drawn at most: the best, and of the others as many."""


@dataclass(frozen=True)
class Table:
    """Rows under a head; the numbers of the columns named in `numeric` stand to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture as PNG, and what to see in it."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Hidden:
    """Text that is folded away under a title."""

    title: str
    text: str


@dataclass(frozen=True)
class Part:
    """A section of the page: sentences first, then what else there is."""

    title: str
    sentences: Sequence[str] = ()
    items: Sequence[Table | Figure | Hidden] = ()


@dataclass(frozen=True)
class Content:
    """The whole page.

    Attributes:
        study: its name.
        subtitle: method, data and network in a line.
        facts: the figures at the top, each with its label.
        verdict: the outcome in words; the first sentence stands out.
        parts: the sections.
    """

    study: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    verdict: Sequence[str]
    parts: Sequence[Part] = field(default_factory=tuple)


@dataclass(frozen=True)
class Look:
    """A study as it stands while its page is made."""

    study: Study
    records: list[TrialRecord]
    best: TrialRecord
    full: bool
    config: RunConfig
    confirmation: Mapping[str, Any] | None

    def reports(self, record: TrialRecord) -> list[Report]:
        """A trial's learning curve."""
        with EventLog(self.study.folder.events_db, read_only=True) as log:
            return log.reports(f"{self.study.name}/{record.trial}")

    def warmup(self, record: TrialRecord) -> int:
        """Epochs of a trial's warm-up."""
        return self.study.spec.trial_config(record.values).warmup_epochs or 0


def content_of(study: Study) -> Content:
    """Gather a study's page.

    Raises:
        ConfigError: no trial has a result yet.
    """
    records = study.records()
    best, full = best_record(records)
    if best is None:
        raise ConfigError(
            f"the study {study.name!r} has no trial with a result yet: there is nothing to report. Carry it on "
            f"with `ssl-tune resume {study.name}`."
        )
    look = Look(study, records, best, full, study.spec.base_config(), confirmed(study.folder))
    config = look.config
    return Content(
        study=study.name,
        subtitle=f"{config.method} on {study.spec.dataset_tag} with {config.labels} labels, {config.network}",
        facts=list(_facts(look)),
        verdict=_verdict(look),
        parts=[part for part in _parts(look) if part.sentences or part.items],
    )


def _parts(look: Look) -> Iterator[Part]:
    yield _confirmation(look)
    yield _best_configurations(look)
    yield Part(
        "How the search went",
        items=[
            Figure(
                plots.history(look.records),
                "Every trial in the order in which it was begun, at the validation error of its last epoch, and "
                "the best one at full budget so far.",
            ),
            _rungs(look),
        ],
    )
    yield searched.part(look)
    yield _curves(look)
    yield _health(look)
    yield _pictures(look)
    yield _failures(look)
    yield _environment(look)


def _facts(look: Look) -> Iterator[tuple[str, str]]:
    best, states = look.best, Counter(r.state for r in look.records)
    assert best.val_error is not None and look.config.data.valid
    spread = resolution(look.config.data.valid, best.val_error)
    yield f"best val/error in the search, trial {best.trial}", f"{best.val_error:.2f} ± {spread:.2f} %"
    if look.confirmation is not None:
        for row in look.confirmation["rows"]:
            if (
                row["who"] in (look.confirmation["winner"], look.confirmation["baseline"])
                and row["test_error"]
            ):
                yield f"test/error, {title(row['who'])}", f"{Spread(tuple(row['test_error']))} %"
    ended = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in sorted(states.items()))
    yield f"trials: {ended}", f"{len(look.records)} of {look.study.spec.trials}"
    hours = sum(r.seconds for r in look.records) / 3600
    epochs = sum(r.epoch for r in look.records)
    yield "training time of all trials", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    yield (
        f"epochs, of {look.study.spec.trials * (look.config.epochs or 0)} without early stopping",
        f"{epochs}",
    )


def _verdict(look: Look) -> list[str]:
    state = look.study.folder.state()
    sentences = [] if state == "finished" else [f"The study is {state}: what follows is how it stands."]
    if look.confirmation is not None:
        return sentences + [_sentence(text) for text in look.confirmation["verdict"]]
    return [
        *sentences,
        f"Not confirmed: trial {look.best.trial} is the best of {len(look.records)} trials on the validation images, "
        "which flatters it, and nothing is known of the test set. Fresh seeds, the supervised baseline and the "
        f"test set come with `ssl-tune confirm {look.study.name}`.",
    ]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _confirmation(look: Look) -> Part:
    found = look.confirmation
    if found is None:
        return Part("Confirmation")
    rows = [
        [
            title(row["who"]),
            searched.parameters(row["params"]),
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
        f"{len(found['seeds'])} fresh training seeds and labelled sets, the same for every row, {found['steps']:,} "
        "steps each; the test set was read once for each final model. The winner (bold) is the one with the "
        "lowest mean val/error: the test set chose nothing."
    ]
    picture = plots.seeds(found)
    items: list[Table | Figure | Hidden] = [Table(head, rows, frozenset(range(2, 6)), strong)]
    if picture is not None:
        caption = "Test error of each seed; a line joins one seed's models, which share training seed and labelled set."
        items.append(Figure(picture, caption))
    return Part("Confirmation", sentences, items)


def _spread(values: Sequence[float]) -> str:
    return str(Spread(tuple(values))) if values else "no result"


def _best_configurations(look: Look) -> Part:
    done = [r for r in look.records if r.val_error is not None and r.state in ("completed", "stopped_early")]
    ranked = sorted(
        done, key=lambda r: (r.state != "completed", -r.epoch, r.val_error or 0.0, r.val_loss or 0.0)
    )
    names = list(look.best.params)
    rows = [
        [
            r.trial,
            r.state.replace("_", " "),
            f"{r.val_error:.2f}",
            f"{r.val_loss:.4f}",
            str(r.epoch),
            f"{r.seconds:.0f}",
            *[searched.value(r.params.get(n)) for n in names],
        ]
        for r in ranked[:SHOWN_TRIALS]
    ]
    head = ["trial", "state", "val/error %", "val/loss", "epochs", "seconds", *names]
    strong = frozenset(n for n, r in enumerate(ranked[:SHOWN_TRIALS]) if r.trial == look.best.trial)
    return Part(
        "Best configurations",
        [_how_sure(look)],
        [Table(head, rows, frozenset(range(2, len(head))), strong)],
    )


def _how_sure(look: Look) -> str:
    best, valid = look.best, look.config.data.valid
    assert best.val_error is not None and valid
    spread = resolution(valid, best.val_error)
    where = "" if look.full else f" No trial ran the full budget: this is after {best.epoch} epochs."
    ties = near_ties(look.records, best, valid)
    same = f" Within that of the best: trials {', '.join(r.trial for r in ties)}." if ties else ""
    return (
        f"{valid} validation images resolve about {spread:.1f} points at this error (one binomial standard "
        f"deviation).{same}{where}"
    )


def _rungs(look: Look) -> Figure:
    assert look.config.epochs
    return Figure(
        plots.rungs(look.records, look.config.epochs),
        "Where early stopping looks: how many trials came to each rung (epochs after the warm-up), and how many "
        "of them were stopped there.",
    )


def _curves(look: Look) -> Part:
    shown = _spread_out([r for r in look.records if r.epoch > 0 and r.trial != look.best.trial], CURVES)
    curves = {
        r.trial: [(p.epoch, p.metrics["val/error"]) for p in look.reports(r)] for r in [*shown, look.best]
    }
    few = (
        f" {len(shown)} of {len(look.records) - 1} others are drawn."
        if len(shown) < len(look.records) - 1
        else ""
    )
    return Part(
        "Learning curves",
        items=[
            Figure(
                plots.curves(look.best, shown, curves),
                f"Validation error over epochs of the best trial and of the others; a cross is where early stopping "
                f"ended one.{few} Curves over training are always those of validation images.",
            ),
            Figure(
                plots.best_run(look.reports(look.best), look.warmup(look.best), look.best.trial),
                f"Trial {look.best.trial}: validation error, and the losses that were minimised.",
            ),
        ],
    )


def _spread_out(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    step = max(1, -(-len(records) // count))
    return list(records[::step])


def _health(look: Look) -> Part:
    picture = plots.health(look.reports(look.best), look.warmup(look.best))
    if picture is None:
        return Part("Pseudo-labels")
    return Part(
        "Pseudo-labels",
        [
            f"Of trial {look.best.trial}. The true labels of unlabelled images are used for these curves and for "
            "nothing else. Classes far apart mean that the method is collapsing onto some of them."
        ],
        [
            Figure(
                picture,
                "How many unlabelled images were used, how many of their labels were right, by class.",
            )
        ],
    )


def _pictures(look: Look) -> Part:
    found = plots.method_picture(look.study.folder, look.best)
    if found is None:
        return Part("What the method does")
    return Part(
        "What the method does", items=[Figure(found, f"Validation images, by trial {look.best.trial}.")]
    )


def _failures(look: Look) -> Part:
    failed = [r for r in look.records if r.state == "failed"]
    if not failed:
        return Part("Failed trials")
    rows = [
        [r.trial, str(r.stop_reason), str(r.epoch), searched.parameters(r.params), _last_line(r.error)]
        for r in failed
    ]
    return Part("Failed trials", items=[Table(["trial", "reason", "epochs", "searched", "error"], rows)])


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _environment(look: Look) -> Part:
    spec = look.study.spec
    seconds = [r.seconds / r.epoch for r in look.records if r.epoch]
    space = spec.search_space()
    facts = [
        ["begun", spec.created],
        [
            "data split",
            f"{spec.split_hash} ({look.config.labels} labelled, {look.config.data.valid} for validation)",
        ],
        ["budget", f"{look.config.epochs} epochs of {look.config.steps_per_epoch} steps"],
        ["sampler, seed", f"{spec.sampler}, {spec.seed}"],
        [
            "side by side",
            f"{spec.concurrent} trials, {look.config.threads} threads and {spec.gpus_per_trial:g} GPUs each",
        ],
        ["an epoch", f"{statistics.median(seconds):.1f} s (median of the trials)" if seconds else ""],
        *[[k, v] for k, v in (spec.fingerprint or {}).items()],
    ]
    ranges = [[p.name, describe(p.distribution), p.role, p.why] for p in space.parameters]
    return Part(
        "Environment and search space",
        items=[
            Table(["", ""], facts),
            Table(["parameter", "range", "role", "why"], ranges),
            Hidden("The configuration that all trials share", dump_yaml(_shared(spec.config))),
        ],
    )


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the machine's own paths."""
    dataset = str(config["dataset"])
    name = f"folder:.../{dataset.rsplit('/', 1)[-1]}" if dataset.startswith("folder:") else dataset
    return {**config, "dataset": name}
