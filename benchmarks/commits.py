"""What a commit of a large study to an object store writes, and how long it takes to make: whole, and in parts.

    python -m benchmarks.scale --trials 10000 --home DIR        # makes the study
    python -m benchmarks.commits DIR --json                     # works on a copy

Between two commits a trial is asked for and reports an epoch, which is the least that one is made for. Sending is not
measured: that is the store's and the network's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tune.store import snapshot
from tune.store.changes.chain import Chain
from tune.store.home import Home
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log, open_tracker
from tune.trials.study_trials import StudyTrials

COMMITS = 10


def measure(place: Path, *, whole: bool) -> dict[str, Any]:
    """The first commit of a sitting, and the median of those that follow."""
    home = Home(place)
    folder = StudyFolder(home.study_folder("scale"))
    spec = read_spec(folder.path).model_copy(update={"trials": 10**6})
    records, log = StudyTrials(folder, spec), open_log(folder)
    tracker = open_tracker(log, spec, home)
    chain, most = Chain(), snapshot.WHOLE
    snapshot.WHOLE = 2**62 if whole else most
    rows = []
    try:
        for number in range(1, COMMITS + 2):
            began = time.perf_counter()
            packed = snapshot.pack(folder.path, chain, number)
            seconds = time.perf_counter() - began
            if packed.part is not None:
                chain.adopt(packed.part)
            rows.append((seconds, len(packed.data) + len(packed.part.data if packed.part else b"")))
            _go_on(records, tracker)
    finally:
        snapshot.WHOLE = most
        records.close()
        log.close()
    return {
        "way": "whole" if whole else "in parts",
        "trials": records.asked(),
        "first_seconds": round(rows[0][0], 2),
        "first_kilobytes": round(rows[0][1] / 1000, 1),
        "seconds": round(median(s for s, _ in rows[1:]), 2),
        "kilobytes": round(median(b for _, b in rows[1:]) / 1000, 1),
    }


def _go_on(records: StudyTrials, tracker: Any) -> None:
    trial = records.ask()
    assert trial is not None
    tracker.trial_started(str(trial.number), trial.params, {}, "")
    tracker.report(str(trial.number), 1, {"val/error": 50.0, "time/epoch_seconds": 1.0})
    summary = {"epoch": 1, "ssl_epoch": 1, "val_error": 50.0, "val_loss": 1.0, "seconds": 1.0}
    records.report(trial.number, summary | {"stop_reason": None})


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("home", type=Path, help="of benchmarks.scale")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for whole in (True, False):
        with tempfile.TemporaryDirectory(prefix="ssl-tune-commits-") as folder:
            shutil.copytree(options.home, folder, dirs_exist_ok=True)
            rows.append(measure(Path(folder), whole=whole))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(", ".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
