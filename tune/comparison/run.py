"""Run a comparison: its studies side by side on the same places, then one confirmation for all of them.

One driver holds the comparison and all of its studies. Each study is an ordinary one, with its own trials, event log
and runs, so `status`, `trials`, `report` and `export` read it like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from ssl_core.system.errors import ConfigError
from ssl_core.system.faults import fault
from tune.cluster.connection import joined
from tune.comparison.confirm import Entrant, confirm_best
from tune.comparison.making import free_name, new_sittings, resolved, study_name
from tune.comparison.progress import Notes, Shown
from tune.comparison.race import Left, Race, in_a_sentence, validation_images
from tune.comparison.record import (
    Comparison,
    Member,
    load_comparison,
    make_comparison,
    new_record,
    remove,
)
from tune.comparison.request import BASELINE, CompareRequest
from tune.comparison.table import description, metrics_of
from tune.comparison.tracking import tracked
from tune.engine.outcome import INTERRUPTIONS, Outcome, worse
from tune.engine.sitting import Sitting
from tune.errors import DamagedError, Exit, ServiceError
from tune.findings.study import Study
from tune.images.study import read_images
from tune.launch.start import resumed_sitting
from tune.signals import resumable
from tune.store.home import Home
from tune.store.layout import CONFIRM_FILE, IMAGES_FILE
from tune.tracking import history
from tune.tracking.contents import describe
from tune.tracking.tracker import Tracker
from tune.trials.record import TrialRecord
from tune.worker.task import PRELOAD

INTERRUPTED_TRACKING_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How a comparison ended.

    Attributes:
        comparison: the comparison.
        outcomes: of each study's search, in the order of the methods.
        confirmation: the best of each on fresh seeds (`tune.comparison.confirm`); None where that was not reached.
        code: what the command exits with.
        undelivered: for each study and the comparison, how many events MLflow lacks and how many it refused.
        was_finished: it had ended before, and nothing was run.
    """

    comparison: Comparison
    outcomes: Sequence[Outcome] = ()
    confirmation: dict[str, Any] | None = None
    code: Exit
    undelivered: dict[str, tuple[int, int]] = field(default_factory=dict)
    was_finished: bool = False

    @property
    def interrupted(self) -> bool:
        """Whether the work ended early, and can be carried on."""
        return self.code in INTERRUPTIONS


def compare(
    request: CompareRequest,
    home: Home,
    shown: Shown,
    say: Callable[[str], None],
    begun: Callable[[str], None] = lambda name: None,
) -> Compared:
    """Make the comparison that is asked for, and run it.

    Args:
        request: what is asked for.
        home: the home folder.
        shown: shows how it goes.
        say: told as each training of the confirmation ends.
        begun: told the comparison's name once it is there to stay.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: a cluster, a storage or MLflow does not answer; or Ctrl-C before the first trial or within the
            confirmation: the message says how to carry on.
    """
    request.check()
    home.folder_for("compare")
    is_first = not home.path.exists()
    with joined(request.address), ExitStack() as stack:
        specs = resolved(request, home)
        methods = request.all_methods()
        name = request.name or free_name(specs[0], home)
        specs = [
            s.model_copy(update={"name": study_name(name, m)}) for s, m in zip(specs, methods, strict=True)
        ]
        members = tuple(Member(m, s.name) for m, s in zip(methods, specs, strict=True))
        record = new_record(
            name,
            members,
            request.confirm_seeds or 0,
            epochs_budget=request.epochs_budget,
            race=request.race,
        )
        comparison = make_comparison(record, home)
        stack.callback(comparison.folder.unlock)
        shown.say(
            f"comparison {name}: {', '.join(methods)}; reading {specs[0].config['dataset']}, starting Ray"
        )
        try:
            with ExitStack() as held:
                sittings = new_sittings(specs, comparison, shown, held)
                comparison.keep(replace(comparison.record, complete=True))
                stack.push(held.pop_all())
        except (ConfigError, ServiceError) as error:
            remove(comparison, is_first=is_first)
            if isinstance(error, ServiceError) and error.code == Exit.INTERRUPTED:
                raise ServiceError(
                    "interrupted before the first trial; nothing is left behind", error.code
                ) from None
            raise
        begun(name)
        return _Driver(comparison, sittings, shown, say).run()


def resume(
    name: str,
    home: Home,
    shown: Shown,
    say: Callable[[str], None],
    begun: Callable[[str], None] = lambda name: None,
    *,
    confirm_seeds: int | None = None,
    trust_method: bool = False,
) -> Compared:
    """Run what is left of a comparison; one that is finished is returned as it is.

    Args:
        name: the comparison.
        home, shown, say, begun: as of `compare`.
        confirm_seeds: on how many fresh seeds the best of each is trained; None: as it was asked for.
        trust_method: method files are run also where this user has not run them before (`ssl_core.trusted`).

    Raises:
        ConfigError: no such comparison, one that was never begun, data that changed since, or a method file that is
            not trusted.
        DamagedError: a file of one of its studies is damaged.
        ServiceError: as `compare`; or another driver has it or one of its studies.
    """
    comparison = load_comparison(name, home)
    if not comparison.record.complete:
        raise ConfigError(
            f"the comparison {name!r} was being made when its driver ended, and nothing of it was run. Make it with "
            f"`ssl-tune compare --name {name}` and the options that it had."
        )
    if confirm_seeds is not None:
        comparison.record = replace(comparison.record, confirm_seeds=confirm_seeds)
    studies = comparison.studies()
    if _is_done(comparison, studies):
        return Compared(
            comparison=comparison, confirmation=comparison.confirmation(), code=Exit.DONE, was_finished=True
        )
    with joined(studies[0].spec.address), ExitStack() as stack:
        comparison.folder.lock()
        stack.callback(comparison.folder.unlock)
        comparison.keep(comparison.record)
        sittings = _resumed_sittings(comparison, studies, shown, stack, trust_method=trust_method)
        begun(name)
        return _Driver(comparison, sittings, shown, say).run()


def _is_done(comparison: Comparison, studies: Sequence[Study]) -> bool:
    """Whether all studies are finished, and confirmed on as many seeds as are asked for."""
    if comparison.folder.state() != "finished" or any(s.folder.state() != "finished" for s in studies):
        return False
    try:
        found = comparison.confirmation()
    except DamagedError:
        return False
    return comparison.record.confirm_seeds <= (0 if found is None else len(found["seeds"]))


def _resumed_sittings(
    comparison: Comparison, studies: Sequence[Study], shown: Shown, held: ExitStack, *, trust_method: bool
) -> list[Sitting]:
    """Sittings of the studies; those of studies that are finished hold them, for the confirmation."""
    from tune.cluster import local_ray  # loads Ray

    held.enter_context(
        local_ray.starting(local_ray.cpus_for(studies[0].spec), PRELOAD, studies[0].spec.concurrent)
    )
    sittings = list[Sitting]()
    for member, study in zip(comparison.record.members, studies, strict=True):
        progress = shown.of(member.method)
        if study.folder.state() == "finished":
            study.load_method(trust_method=trust_method)
            sitting = held.enter_context(Sitting(study.spec, study.folder, comparison.home, progress))
            sitting.start_sender()
        else:
            sitting = held.enter_context(
                resumed_sitting(study, comparison.home, progress, trust_method=trust_method)
            )
        sittings.append(sitting)
    return sittings


class _Driver:
    """Runs the studies of a comparison, confirms their best and tells MLflow.

    Args:
        comparison: held by this process.
        sittings: of its studies, in the order of its members.
        shown, say: as of `compare`.
    """

    def __init__(
        self, comparison: Comparison, sittings: Sequence[Sitting], shown: Shown, say: Callable[[str], None]
    ) -> None:
        self._comparison, self._sittings, self._shown, self._say = comparison, sittings, shown, say
        self._spec = sittings[0].spec

    def run(self) -> Compared:
        """Run what is left, then confirm the best of each."""
        comparison = self._comparison
        comparison.folder.set_state("running")
        with tracked(comparison, self._sittings) as tracker:
            state = "interrupted"
            try:
                compared = self._run(tracker)
                state = "interrupted" if compared.interrupted else "finished"
            finally:
                comparison.folder.set_state(state)
                tracker.study_ended(state, metrics_of(comparison))
                describe(tracker.log, comparison.name, description(comparison))
            wait = INTERRUPTED_TRACKING_SECONDS if compared.interrupted else self._spec.tracking_timeout
            pending = tracker.sender.close(min(wait, self._spec.tracking_timeout))
            undelivered = {**compared.undelivered, comparison.name: (pending, tracker.log.refused())}
        code = compared.code
        if any(map(any, undelivered.values())):
            code = worse(code, Exit.TRACKING_PENDING)
        return replace(compared, undelivered=undelivered, code=code)

    def _run(self, tracker: Tracker) -> Compared:
        from tune.engine.together import Together  # loads Ray Tune and torch

        comparison = self._comparison
        open_ones = [s for s in self._sittings if s.folder.state() != "finished"]
        found = {study.name: study.records() for study in comparison.studies()}
        together = Together(
            open_ones,
            comparison.folder.path,
            Notes(self._shown),
            comparison.folder.stop_requested,
            epochs_left=self._epochs_left(found),
            referee=self._race(found, tracker),
        )
        try:
            outcomes = together.search() if open_ones else []
        finally:
            self._shown.close()
        code = Exit.DONE
        for outcome in outcomes:
            code = worse(code, outcome.code)
        confirmation = None
        if code not in INTERRUPTIONS and comparison.record.confirm_seeds:
            confirmation = self._confirm(tracker)
            if confirmation is None:
                code = worse(code, Exit.NO_TRIAL_SUCCEEDED)
        delivered = together.finish() if open_ones else []
        undelivered = {o.study.name: (o.pending, o.refused) for o in delivered}
        return Compared(
            comparison=comparison,
            outcomes=outcomes,
            confirmation=confirmation,
            code=code,
            undelivered=undelivered,
        )

    def _epochs_left(self, found: Mapping[str, Sequence[TrialRecord]]) -> int | None:
        """Of the epochs that the methods have together; of a budget that is spent, none."""
        budget = self._comparison.record.epochs_budget
        spent = sum(record.epoch for records in found.values() for record in records)
        return None if budget is None else max(0, budget - spent)

    def _race(self, found: Mapping[str, Sequence[TrialRecord]], tracker: Tracker) -> Race | None:
        """The referee of the studies; None where there is no race."""
        record = self._comparison.record
        if not record.race:
            return None
        for left in record.left:  # a driver may have died before it noted the last one
            self._note(left, tracker)
        images = read_images(self._sittings[0].folder.path)
        if images is None:
            raise DamagedError(
                f"{self._sittings[0].folder.path / IMAGES_FILE} is missing: it says how many validation images there "
                "are. Restore it from a backup."
            )
        return Race(
            {sitting.spec.name: sitting.spec for sitting in self._sittings},
            found,
            validation_images(self._spec.objective, images),
            [member.study for member in record.members if member.method == BASELINE],
            record.left,
            lambda left: self._left(left, tracker),
        )

    def _left(self, left: Left, tracker: Tracker) -> None:
        """A method has left the race: keep that, and note it in the histories of the comparison and of its study."""
        comparison = self._comparison
        epochs = sum(r.epoch for r in Study(comparison.home.study_folder(left.study)).records())
        left = replace(left, epochs=epochs)
        others = [each for each in comparison.record.left if each.study != left.study]
        comparison.keep(replace(comparison.record, left=(*others, left)))
        fault("race:kept")
        self._shown.say(self._note(left, tracker))

    def _note(self, left: Left, tracker: Tracker) -> str:
        methods = {member.study: member.method for member in self._comparison.record.members}
        said = in_a_sentence(left, methods, self._spec.objective)
        history.note(tracker.log, self._comparison.name, said, f"race:{left.study}")
        (own,) = (sitting for sitting in self._sittings if sitting.spec.name == left.study)
        history.note(own.log, left.study, said, f"race:{left.study}")
        return said

    def _confirm(self, tracker: Tracker) -> dict[str, Any] | None:
        comparison = self._comparison
        entrants = [
            Entrant(member.method, Study(sitting.folder.path), sitting)
            for member, sitting in zip(comparison.record.members, self._sittings, strict=True)
        ]
        with resumable(comparison.folder.command("resume")):
            document = confirm_best(comparison, entrants, comparison.record.confirm_seeds, self._say)
        if document is not None:
            tracker.artifact(None, comparison.folder.path / CONFIRM_FILE)
        return document
