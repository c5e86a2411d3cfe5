"""`make gpu-evidence`, tiny and on the CPU: through its real command, without the service's libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_evidence
from benchmarks.gpu_evidence import FULL, SPEEDS, TINY, TRAININGS, Job, watch, work
from benchmarks.gpu_rows import read, tables, write
from benchmarks.plain_recipe import METHODS
from ssl_core.config import from_document
from tune.paper_tables.paper import SETTINGS, cells_of

ABSENT = ("ray", "mlflow", "optuna", "sqlalchemy", "pandas", "torchvision", "search_spaces", "tune")
BLOCKER = f"""
import sys
from importlib.machinery import ModuleSpec
class Blocked:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in {ABSENT!r} else None
    def create_module(self, spec):
        raise ImportError(spec.name + " is not installed here")
    def exec_module(self, module):
        pass
sys.meta_path.insert(0, Blocked())
"""
"""A module of every Python that finds it on its path: those of ABSENT can be found, as torch does, but not loaded."""
HERE = {"processor": "here", "torch": "2"}


def test_it_needs_torch_alone_and_carries_on(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    out = tmp_path / "runs.jsonl"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [sys.executable, "-m", "benchmarks.gpu_evidence", "--tiny", "--seconds", "240", "--out", str(out)]

    def run() -> str:
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run()
    rows = read(out)
    assert (
        "nothing is left to do" in said and [row["part"] for row in rows] == ["speed"] * 4 + ["training"] * 4
    )
    for row in rows[:4]:
        assert row["ours"] > 0 and row["bare"] > 0 and row["ratio"] > 0 and row["launches"] > 10
    assert [row["name"] for row in rows[4:]] == [each.name for each in TRAININGS[:4]]
    assert all(0 <= row["test_error"] <= 100 and row["steps"] == 4 for row in rows[4:])
    assert len({row["split_hash"] for row in rows[4:]}) == 1
    # The last line is lost, and what came before is not made again; the training had ended, and is not trained again.
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:-1]))
    assert "training pseudo_label 0.95" in run()
    assert read(out) == rows
    readings = list((tmp_path / "trainings").glob("*/test-readings.jsonl"))
    assert all(len(file.read_text().splitlines()) == 1 for file in readings)


def _never_ends(*_: Any) -> None:
    time.sleep(600)


def _dies_once(size: Any, dataset: Any, out: Path, *_: Any) -> None:
    if not out.exists():
        failed = {"part": "failed", "name": "speed vat", "machine": HERE, "problem": "the process died"}
        out.with_suffix(".at").write_text(json.dumps(failed))
        os._exit(1)


def test_it_stops_itself_and_survives_the_death_of_what_it_watches(tmp_path: Path) -> None:
    began = time.monotonic()
    assert not watch(TINY, None, tmp_path / "a.jsonl", 1.0, _never_ends)
    assert time.monotonic() - began < 30
    out = tmp_path / "b.jsonl"
    assert watch(TINY, None, out, 60.0, _dies_once)
    assert [(row["part"], row["name"]) for row in read(out)] == [("failed", "speed vat")]


def test_what_fails_is_noted_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def job(part: str, name: str) -> Job:
        def make() -> dict[str, Any]:
            made.append(name)
            if name == "vat":
                raise ValueError("no kernel for this")
            return {}

        return Job(part, name, make)

    every = [job("speed", "fixmatch"), job("speed", "vat")], [job("training", "supervised")]
    monkeypatch.setattr(gpu_evidence, "machine", lambda: HERE)
    monkeypatch.setattr(gpu_evidence, "jobs", lambda *_: every)
    out = tmp_path / "runs.jsonl"
    work(TINY, None, out, time.time() - 1, 100)
    assert made == []  # time is up
    # Speeds have used up their share: trainings come first, and speeds after them.
    work(TINY, None, out, time.time() + 30, 100)
    work(TINY, None, out, time.time() + 30, 100)
    assert made == ["supervised", "fixmatch", "vat"]
    assert read(out)[-1]["problem"].endswith("ValueError: no kernel for this\n")
    assert "failed: speed vat: ValueError: no kernel for this" in "\n".join(tables(read(out)[-1:]))


def test_images_that_are_not_there_are_no_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs.jsonl"
    with pytest.raises(SystemExit) as ended:
        work(replace(TINY, methods=0), f"folder:{tmp_path / 'nowhere'}", out, time.time() + 30, 1000)
    assert ended.value.code == gpu_evidence.NOT_DONE
    assert "nowhere" in capfd.readouterr().out and read(out) == []


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    write(out, {"part": "speed", "name": "vat"})
    with out.open("a") as file:
        file.write('{"part": "spe')
    assert read(out) == [{"part": "speed", "name": "vat"}]
    write(out, {"part": "speed", "name": "fixmatch"})
    assert [row["name"] for row in read(out)] == ["vat", "fixmatch"]


def test_the_trainings_are_the_report_s() -> None:
    column = [
        cell
        for table in SETTINGS
        for cell in cells_of(table)
        if cell.dataset == "cifar10" and cell.labels == 4000
    ]
    assert {(cell.method, cell.threshold) for cell in column} <= {
        (each.method, each.parameters.get("threshold")) for each in TRAININGS
    }
    for setting in SETTINGS.values():
        for each in TRAININGS:
            if each.method == setting.method:
                parameters = {k: v for k, v in each.parameters.items() if k != "threshold"}
                assert parameters == setting.parameters
        assert gpu_evidence.WARMUP_SHARE.get(setting.method, 0) == setting.warmup_share
    documents = [gpu_evidence.training_document(each, FULL, "cifar10") for each in TRAININGS]
    assert {document["steps_per_epoch"] * document["epochs"] for document in documents} == {4000}
    assert [
        from_document(document).warmup_epochs for document in documents if document["method"] == "vat"
    ] == [1]


def test_every_method_that_has_bare_passes_is_measured() -> None:
    assert set(SPEEDS) == set(METHODS)
