"""The simulation of a large study drives the real parts to a whole study."""

from __future__ import annotations

import math

from benchmarks.scale import STAGES, Simulation
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
