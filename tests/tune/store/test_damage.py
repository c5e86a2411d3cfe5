"""A study whose files are damaged: one message each, other studies unharmed, and what `ssl-tune repair` makes again."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from tests.tune.helpers import Done, make_study, mlflow_runs, mlflow_steps, told
from tune.errors import DamagedError, Exit
from tune.findings.study import load_study
from tune.store.event_log import EventLog
from tune.store.home import Home

Command = Callable[..., Done]
Spoil = Callable[[Path], object]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_pages(path: Path) -> None:
    """Overwrite the middle of a database, header left whole."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 8192] = bytes(255 - byte for byte in data[middle : middle + 8192])
    path.write_bytes(bytes(data))


def settle(folder: Path) -> None:
    """Bring what waits in the write-ahead logs into the databases, as happens when their last user ends."""
    for path in folder.glob("*.db"):
        database = sqlite3.connect(path)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA journal_mode = DELETE")
        database.close()


STATE: dict[str, Spoil] = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text('{"state": "fin'),
    "another type": lambda path: path.write_text("[1]"),
    "unknown value": lambda path: path.write_text('{"state": "perfect"}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}
DATABASE: dict[str, Spoil] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flip_pages,
    "no database": lambda path: path.write_bytes(b"this is no database " * 500),
    "missing": lambda path: path.unlink(),
}
SPECIFICATION: dict[str, Spoil] = {
    "not UTF-8": lambda path: path.write_bytes(b"name: \xff\xfe\n"),
    "evil name": lambda path: path.write_text(
        path.read_text().replace("name: shapes", "name: ../../evil", 1)
    ),
    "other name": lambda path: path.write_text(path.read_text().replace("name: shapes", "name: other", 1)),
    "cut": cut,
    "empty": lambda path: path.write_text(""),
    "missing": lambda path: path.unlink(),
    "bomb": lambda path: path.write_text(
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    ),
}
CASES = [
    *(("state.json", kind, spoil) for kind, spoil in STATE.items()),
    *(("optuna.db", kind, spoil) for kind, spoil in DATABASE.items()),
    *(("events.db", kind, spoil) for kind, spoil in DATABASE.items()),
    *(("study.yaml", kind, spoil) for kind, spoil in SPECIFICATION.items()),
]


@pytest.fixture
def two(copied: Home) -> Home:
    """A home with the finished study `shapes`, and a whole one beside it."""
    settle(copied.study_folder("shapes"))
    make_study(copied, name="whole")
    return copied


def one_message(done: Done, file: str) -> None:
    """Exit 6, one line, which names the file and what to do."""
    assert done.code == Exit.STORAGE, done
    assert len(done.err.strip().splitlines()) == 1 and done.err.startswith("ssl-tune: "), done.err
    assert "Traceback" not in done.err and file in done.err, done.err
    assert "is damaged: " in done.err and "ssl-tune repair shapes --home " in done.err, done.err


@pytest.mark.parametrize(("file", "kind", "spoil"), CASES, ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_21_a_damaged_file_is_one_message_and_repair_makes_it_again(
    two: Home, ssl_tune: Command, file: str, kind: str, spoil: Spoil
) -> None:
    before, folder = told(two), two.study_folder("shapes")
    with EventLog(folder / "events.db", read_only=True) as log:
        curves = {run: log.reports(run) for run in log.runs()}
    spoil(folder / file)
    for verb in ("status", "resume"):
        one_message(ssl_tune(verb, "shapes"), file)

    # Other studies are unharmed, and the damaged one is named (13).
    listed = ssl_tune("studies", "--json")
    assert listed.code == 0 and f"shapes: {folder / file} is damaged" in listed.err, listed
    states = {document["study"]: document["state"] for document in listed.document}
    assert states == {"shapes": "damaged", "whole": "interrupted"}
    assert ssl_tune("studies").code == 0 and ssl_tune("status", "whole").code == 0

    done = ssl_tune("repair", "shapes")
    assert done.code == 0 and f"made again: {file}: " in done.out, done
    status = ssl_tune("status", "shapes", "--json")
    assert status.code == 0 and status.document["state"] == "finished", status
    assert told_in_common(told(two)) == told_in_common(before)
    assert load_study("shapes").spec == tune.load_study("shapes").spec
    records = load_study("shapes").records()
    with EventLog(folder / "events.db", read_only=True) as log:
        for run, reports in curves.items():
            again = {report.epoch: report.metrics for report in log.reports(run)}
            number = run.partition("/")[2]
            if file == "events.db" and not (folder / "trials" / number).is_dir():
                # A trial that was stopped early keeps no checkpoint: Optuna has its objective after the warm-up.
                warmup = next((r.params["warmup_epochs"] for r in records if r.trial == number), 0)
                reports = [report for report in reports if report.epoch > warmup]
            assert again.keys() >= {report.epoch for report in reports}, run
            for report in reports:
                assert again[report.epoch]["val/error"] == report.metrics["val/error"], (run, report.epoch)
    assert "nothing to repair" in ssl_tune("repair", "shapes").out
    assert list(folder.glob("*.damaged")) or kind == "missing"


def told_in_common(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Optuna and the event log both know of trials, digits of a mean's rounding aside."""
    return [row | {"at": {step: round(value, 9) for step, value in row["at"].items()}} for row in rows]


def test_21_both_databases_damaged_is_a_message_that_asks_for_a_backup(two: Home, ssl_tune: Command) -> None:
    folder = two.study_folder("shapes")
    flip_pages(folder / "events.db")
    flip_pages(folder / "optuna.db")
    done = ssl_tune("repair", "shapes")
    assert done.code == 6 and "is damaged" in done.err and len(done.err.splitlines()) == 1, done
    assert not list(folder.glob("*.damaged"))  # nothing was touched


def test_21_after_the_event_log_is_made_again_mlflow_has_each_run_and_each_point_once(
    two: Home, ssl_tune: Command
) -> None:
    before = {name: run.info.run_id for name, run in mlflow_runs(two, "shapes").items()}
    steps = {name: mlflow_steps(two, run) for name, run in mlflow_runs(two, "shapes").items()}
    (two.study_folder("shapes") / "events.db").unlink()
    assert ssl_tune("repair", "shapes").code == 0
    done = ssl_tune("sync", "shapes", "--timeout", "60s")
    assert done.code == 0, done
    after = mlflow_runs(two, "shapes")
    assert {name: run.info.run_id for name, run in after.items()} == before
    assert {name: mlflow_steps(two, run) for name, run in after.items()} == steps


@pytest.mark.long
def test_21_a_study_is_carried_on_from_trials_that_were_made_again(
    local_ray: None, copied: Home, ssl_tune: Command
) -> None:
    """The study has one more trial to run; its Optuna file is gone."""
    folder = copied.study_folder("shapes")
    (folder / "optuna.db").unlink()
    assert ssl_tune("repair", "shapes").code == 0
    text = (folder / "study.yaml").read_text()
    # Its six configurations are all there are: a seventh trial needs a wider space.
    assert text.count("high: 3") == 1
    (folder / "study.yaml").write_text(text.replace("trials: 6", "trials: 7").replace("high: 3", "high: 4"))
    (folder / "state.json").write_text(json.dumps({"state": "interrupted"}))
    before = load_study("shapes").records()
    study = tune.resume("shapes", home=copied.path, quiet=True)
    assert study.records()[:6] == before and len(study.records()) == 7


def test_21_a_flipped_value_in_a_trial_is_damage_and_not_nonsense(two: Home, ssl_tune: Command) -> None:
    path = two.study_folder("shapes") / "optuna.db"
    for statement in (
        "UPDATE trials SET state = 'BOMPLETE' WHERE number = 0",
        "UPDATE trial_params SET distribution_json = 'x' WHERE trial_id = 1",
        "UPDATE trial_user_attributes SET value_json = '{' WHERE trial_id = 1",
    ):
        shutil.copy(path, path.with_suffix(".kept"))
        with sqlite3.connect(path) as database:
            assert database.execute(statement).rowcount
        database.close()
        one_message(ssl_tune("trials", "shapes"), "optuna.db")
        path.with_suffix(".kept").replace(path)


def test_13_a_damaged_study_harms_itself_alone(two: Home, ssl_tune: Command, tmp_path: Path) -> None:
    make_study(two, name="broken")
    (two.study_folder("broken") / "study.yaml").write_text("name: [")
    done = ssl_tune("export", "--all", tmp_path / "out")
    assert done.code == 0 and (tmp_path / "out" / "shapes.yaml").exists(), done
    assert "broken is left out: " in done.err and "study.yaml is damaged" in done.err
    from tune.launch.baseline import find_baseline

    with pytest.warns(UserWarning, match="broken is left out of the search for a baseline"):
        assert find_baseline(load_study("shapes").spec, two) is None
    with pytest.raises(DamagedError, match="broken"):
        load_study("broken")
    assert len(tune.studies()) == 3
