"""The simulation of a large study drives the real parts to a whole study."""

from __future__ import annotations

import math

from benchmarks.scale import STAGES, Simulation
from tune.findings.study import Study, check_reports
from tune.store.home import Home


def test_a_simulated_study_ends_every_trial_once(home: Home) -> None:
    simulation = Simulation(home, trials=7, workers=3, epochs=4)
    result = simulation.run(math.inf)
    records = simulation.records.all()
    assert result["trials_ended"] == len(records) == 7
    assert {r.state for r in records} <= {"completed", "stopped_early"}
    assert result["reports"] == sum(r.epoch for r in records)
    assert set(result["ms_per_call"]) == set(STAGES)
    for record in records:
        epochs = [report.epoch for report in simulation.log.reports(f"scale/{record.trial}")]
        assert epochs == list(range(1, record.epoch + 1))


def test_a_simulated_study_is_carried_on_by_the_next_call(home: Home) -> None:
    began = Simulation(home, trials=6, workers=3, epochs=4)
    assert began.run(0.0)["trials_ended"] == 0 and len(began.records.unfinished()) == 3
    result = Simulation(home, trials=6, workers=3, epochs=4).run(math.inf)
    assert result["trials_ended"] == 6 and result["resume_seconds"] > 0
    again = Simulation(home, trials=6, workers=3, epochs=4)
    assert again.run(math.inf)["reports"] == 0
    assert [record.trial for record in again.records.all()] == list("012345")


def test_a_study_with_prepared_trials_is_resumed_as_any_other(home: Home) -> None:
    simulation = Simulation(home, trials=45, workers=3, epochs=9, prepared=40)
    records = simulation.records.all()
    assert len(records) == simulation.ended == 40 and all(r.epoch and r.score for r in records)
    assert {"completed", "stopped_early"} == {r.state for r in records}
    rungs = simulation.asha._brackets[0]._rungs
    assert sum(len(values) for _, values in rungs) > 20
    result = simulation.run(math.inf)
    assert result["trials_ended"] == 45 and result["reports"] >= 5
    study = Study(simulation.folder.path)
    check_reports(study.folder, study.spec, study.records())  # log and storage agree
