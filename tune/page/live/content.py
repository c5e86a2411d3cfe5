"""What the live page shows: trials under way with their curves, rungs, what is searched, the machine, and MLflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import psutil

from ssl_core.system.errors import counted
from tune.definition.objective import AXES, in_words, is_error, told
from tune.definition.rungs import stopping_of
from tune.figures.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from tune.findings.ranking import best_record, deviation_of, ranked, shows_balanced
from tune.findings.rungs import rung_counts
from tune.findings.spent import planned_and_actual, seconds_left
from tune.findings.study import Study
from tune.findings.words import PROTOCOLS, duration, parameters_in_words, value
from tune.page import charts
from tune.page.parts import Chart, Content, Item, Part, Table
from tune.store.event_log import EventLog
from tune.store.events import now_ms
from tune.trials.following import Following
from tune.trials.record import TrialRecord

REFRESH_SECONDS = 2.0
MOST_GREY, MOST_BEST, MOST_AXES = 60, 10, 7
RUNNING_COLOURS = (BLUE, GREEN, PURPLE, VERMILLION, SKY, ORANGE)


class LiveStudy:
    """A study that is looked at again and again.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study, self.spec = study, study.spec
        self._following = Following(study.folder, study.spec)
        self._planned: dict[str, float] | None = None

    def content(self) -> Content:
        """The page's content as the study stands now.

        Raises:
            ServiceError: a file that is damaged, or a storage that does not answer.
        """
        records = self._following.records()
        state = self.study.folder.state()
        if self._planned is None:
            self._planned = planned_and_actual(self.study.folder, [])["planned"]
        config = self.spec.config
        return Content(
            study=self.spec.name,
            subtitle=f"{config['method']} on {self.spec.dataset_tag} with {config['labels']} labels, "
            f"{config['network']}, {PROTOCOLS[self.spec.protocol]}",
            facts=list(self._facts(records)),
            verdict=self._verdict(records, state),
            parts=[part for part in self._parts(records) if part.sentences or part.items],
            closing="val/error is the percentage of validation images misclassified. The best of many trials is "
            "flattered by having been chosen: confirm it on fresh seeds.",
            refresh=REFRESH_SECONDS,
        )

    def _facts(self, records: Sequence[TrialRecord]) -> Iterator[tuple[str, str]]:
        best, full = best_record(records)
        if best is not None and best.told is not None:
            objective = told(self.spec.objective)
            spread = f" ± {deviation_of(best, self._valid):.2f}" if is_error(objective) else ""
            where = "" if full else ", not at full budget"
            shown = in_words(objective, best.told).removesuffix(" %")
            yield (
                f"best {objective} so far, trial {best.trial}{where}",
                f"{shown}{spread}{' %' if is_error(objective) else ''}",
            )
        states = Counter(r.state for r in records)
        ended = sum(n for state, n in states.items() if state != "running")
        words = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in sorted(states.items())) or "none"
        yield f"trials ended ({words})", str(ended) + self.spec.out_of.replace("/", " of ")
        left = seconds_left(self.spec, records, self._planned)
        if left is not None and self.study.folder.state() == "running":
            yield "left, at this speed", f"about {duration(left)}"
        yield "training time of all trials", duration(sum(r.seconds for r in records))

    @property
    def _valid(self) -> int:
        return int(self.spec.config["data"]["valid"])

    def _verdict(self, records: Sequence[TrialRecord], state: str) -> list[str]:
        words = {
            "running": "The study is running.",
            "interrupted": f"The study was interrupted. Carry on with: {self.study.folder.command('resume')}",
            "finished": f"The study is finished. Confirm its best with: {self.study.folder.command('confirm')}",
            "failed": f"The search failed. See why with: {self.study.folder.command('trials')}",
        }[state]
        if not records:
            return [words, "No trial has begun yet."]
        ended = any(r.state == "completed" for r in records)  # the first epochs say little
        return [words, *(self.study.doubts(records) if ended else [])]

    def _parts(self, records: Sequence[TrialRecord]) -> Iterator[Part]:
        running = [r for r in records if r.state == "running"]
        yield self._under_way(running)
        yield self._curves(records, running)
        yield self._rungs(records)
        yield self._best(records)
        yield from self._searched(records)
        yield self._machine(running)
        yield self._tracking()

    def _under_way(self, running: Sequence[TrialRecord]) -> Part:
        epochs = self.spec.full_epochs
        rows = [
            [
                r.trial,
                f"{r.epoch} of {epochs}",
                f"fold {len(r.folds)}"
                if r.folds
                else "warm-up"
                if r.ssl_epoch is None
                else f"{r.ssl_epoch} after it",
                "" if r.score is None else in_words(r.objective, r.score),
                f"{r.seconds / r.trained:.1f}" if r.trained else "",
                parameters_in_words(r.params),
            ]
            for r in running
        ]
        head = ["trial", "epoch", "phase", f"{self.spec.objective} there", "seconds an epoch", "searched"]
        return Part("Under way", items=[Table(head, rows, frozenset({1, 3, 4}))] if rows else [])

    def _curves(self, records: Sequence[TrialRecord], running: Sequence[TrialRecord]) -> Part:
        if not any(r.epoch for r in records):
            return Part("Learning curves")
        lines = []
        ended = [r for r in records if r.state != "running" and r.intermediate]
        for record in sorted(ended, key=lambda r: int(r.trial))[-MOST_GREY:]:
            warmup = record.epoch - (record.ssl_epoch or 0)
            points = [(warmup + at, error) for at, error in sorted(record.intermediate.items())]
            lines.append(charts.Line(points, GREY, 0.7, f"trial {record.trial}, {record.state}"))
        if self.study.folder.events_db.exists():
            with EventLog(self.study.folder.events_db, read_only=True) as log:
                for number, record in enumerate(running):
                    points = [
                        (report.epoch, report.metrics[self.spec.objective])
                        for report in log.reports(f"{self.spec.name}/{record.trial}")
                        if self.spec.objective in report.metrics
                    ]
                    colour = RUNNING_COLOURS[number % len(RUNNING_COLOURS)]
                    lines.append(charts.Line(points, colour, 2.0, f"trial {record.trial}, running"))
        caption = f"{self._measured} over epochs: running trials in colour, the last {MOST_GREY} that ended in grey."
        return Part(
            "Learning curves", items=[Chart(charts.curves(lines, "epoch", self._axis), caption, wide=True)]
        )

    @property
    def _axis(self) -> str:
        return AXES[self.spec.objective]

    @property
    def _measured(self) -> str:
        return self._axis.rpartition(",")[0].capitalize()

    def _rungs(self, records: Sequence[TrialRecord]) -> Part:
        if not records:
            return Part("Rungs")
        stopping, epochs = stopping_of(self.spec), self.spec.config["epochs"]
        found = rung_counts(records, stopping.rungs(epochs), stopping.fold_rungs(epochs))
        counts = [(r.name, r.reached, r.stopped) for r in found]
        caption = "Where early stopping looks, in epochs: how many trials came to each rung, and were stopped there."
        return Part("Rungs", items=[Chart(charts.bars(counts, "went on", "stopped here"), caption)])

    def _best(self, records: Sequence[TrialRecord]) -> Part:
        shown = ranked(records)[:MOST_BEST]
        if not shown:
            return Part("Best so far")
        names, balanced = list(shown[0].params), shows_balanced(records)
        rows = [
            [
                r.trial,
                r.state.replace("_", " "),
                f"{r.val_error:.2f}",
                *(
                    ["" if r.val_error_balanced is None else f"{r.val_error_balanced:.2f}"]
                    if balanced
                    else []
                ),
                str(r.epoch),
                *[value(r.params.get(name)) for name in names],
            ]
            for r in shown
        ]
        errors = ["val/error %", *(["val/error_balanced %"] if balanced else [])]
        head = ["trial", "state", *errors, "epochs", *names]
        return Part("Best so far", items=[Table(head, rows, frozenset(range(2, len(head))), frozenset({0}))])

    def _searched(self, records: Sequence[TrialRecord]) -> Iterator[Part]:
        known = [r for r in records if r.score is not None and r.params and r.state in charts.COLOURS]
        if not known:
            return
        log = {p.name for p in self.spec.search_space().parameters if getattr(p.distribution, "log", False)}
        names = list(known[0].params)
        titles = {r.trial: _pointed(r) for r in known}
        items: list[Item] = []
        if len(names) > 1:
            items.append(self._parallel(known, names[:MOST_AXES], log, titles))
        for name in names:
            marks = [charts.Mark(r.params.get(name), r.score or 0.0, r.state, titles[r.trial]) for r in known]
            svg = charts.scatter(marks, name, self._axis, log=name in log)
            items.append(Chart(svg, f"{name}. {charts.legend([r.state for r in known])}."))
        few = (
            "Trials that were stopped early, or still run, are shown with their last value: it is partly so high "
            "because the training was short."
        )
        yield Part("What is searched", [few], items)

    def _parallel(
        self, known: Sequence[TrialRecord], names: Sequence[str], log: set[str], titles: Mapping[str, str]
    ) -> Chart:
        order = {r.trial: n for n, r in enumerate(sorted(known, key=lambda r: r.score or 0.0))}
        axes = [(n, charts.scale_of([r.params.get(n) for r in known], log=n in log)) for n in names]
        axes.append((self.spec.objective, charts.scale_of([r.score for r in known])))
        rows: list[tuple[Sequence[object], float, str]] = [
            (
                [*[r.params.get(n) for n in names], r.score],
                order[r.trial] / max(1, len(known) - 1),
                titles[r.trial],
            )
            for r in known
        ]
        return Chart(charts.parallel(axes, rows), "A line for each trial: blue ones end low.", wide=True)

    def _machine(self, running: Sequence[TrialRecord]) -> Part:
        spec = self.spec
        places = [
            [str(number + 1), f"trial {running[number].trial}" if number < len(running) else "free"]
            for number in range(max(spec.concurrent, len(running)))
        ]
        threads = counted(int(spec.config["threads"]), "thread")
        sentences = [f"{len(running)} of {spec.concurrent} places are taken, {threads} each."]
        if spec.address is None:
            memory = psutil.virtual_memory()
            sentences.append(
                f"This machine: processors {psutil.cpu_percent():.0f} % busy, memory {memory.used / 1e9:.1f} of "
                f"{memory.total / 1e9:.1f} GB."
            )
        return Part("Places", sentences, [Table(["place", "trains"], places)])

    def _tracking(self) -> Part:
        if not self.study.folder.events_db.exists():
            return Part("MLflow")
        with EventLog(self.study.folder.events_db, read_only=True) as log:
            pending, since, refused = log.pending(), log.owed_since(), log.refused()
            problem = log.get_meta("problem")
        sentences = ["MLflow has everything."]
        if pending:
            waits = "" if since is None else f", the oldest for {duration((now_ms() - since) / 1000)}"
            sentences = [f"{counted(pending, 'event')} to be delivered{waits}."]
        if pending and problem:
            sentences.append(f"MLflow does not take them at the moment: {problem}")
        if refused:
            command = self.study.folder.command("sync")
            sentences.append(
                f"MLflow refused {counted(refused, 'event')} for good; see which with: {command}"
            )
        return Part("MLflow", sentences)


def _pointed(record: TrialRecord) -> str:
    score = "" if record.score is None else in_words(record.objective, record.score)
    return f"trial {record.trial}, {record.state.replace('_', ' ')}, {score}: {parameters_in_words(record.params)}"
