"""Who is to blame when a worker dies: the kernel's kills for memory, and what the sampler is told of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import RDBStorage

from tests.tune.helpers import make_study
from tune.engine import recorder as recorder_module
from tune.engine import worker_deaths
from tune.engine.recorder import Recorder
from tune.engine.worker_deaths import RECENT_SECONDS, MemoryKills, kills_here
from tune.store.home import Home
from tune.tracking.opening import open_log, open_tracker
from tune.trials.study_trials import StudyTrials
from tune.worker.report_keys import VERDICT_FILE


class Kernel:
    """Counts kills as a control group does, at a time that a test sets."""

    def __init__(self) -> None:
        self.kills, self.now = 7, 1000.0  # seven since the machine was started: nobody's

    def memory_kills(self) -> MemoryKills:
        return MemoryKills(lambda: self.kills, lambda: self.now)


def test_a_kill_of_long_ago_is_held_against_no_worker() -> None:
    kernel = Kernel()
    kills = kernel.memory_kills()
    assert not kills.blamed()
    kernel.kills += 1  # some other process
    kills.look()
    kernel.now += RECENT_SECONDS + 1
    assert not kills.blamed()


def test_a_kill_of_a_moment_ago_is_one_worker_s() -> None:
    kernel = Kernel()
    kills = kernel.memory_kills()
    kernel.kills += 2
    assert [kills.blamed() for _ in range(3)] == [True, True, False]
    kernel.kills += 1
    kills.look()
    kernel.now += RECENT_SECONDS / 2
    assert kills.blamed() and not kills.blamed()


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/ray/job\n", "ray/job/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("4:memory:/a\n0::/\n", "memory/a/memory.oom_control", "oom_kill_disable 0\noom_kill 2\n"),
        ("4:memory:/outside/a\n", "memory/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
)
def test_the_narrowest_control_group_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, file: str, text: str
) -> None:
    (tmp_path / "sys" / file).parent.mkdir(parents=True)
    (tmp_path / "sys" / file).write_text(text)
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "vmstat").write_text("pgfault 5\noom_kill 99\n")

    def place(name: str) -> Path:
        for there, here in (
            ("/proc/self/cgroup", "cgroup"),
            ("/proc/vmstat", "vmstat"),
            ("/sys/fs/cgroup", "sys"),
        ):
            if name.startswith(there):
                return Path(str(tmp_path / here) + name.removeprefix(there))
        raise AssertionError(name)

    monkeypatch.setattr(worker_deaths, "Path", place)
    assert kills_here() == 2
    (tmp_path / "sys" / file).unlink()
    assert kills_here() == 99


def dying(home: Home, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Recorder, Kernel, Any]:
    """A study's recorder on a machine of our own, and a trial whose worker dies."""
    kernel = Kernel()
    monkeypatch.setattr(recorder_module, "MemoryKills", kernel.memory_kills)
    folder, spec = make_study(home)
    records = StudyTrials(folder, spec.model_copy(update=options))
    recorder = Recorder(records, open_tracker(open_log(folder), spec, home), folder, lambda: None)
    number = records.ask().number
    trial = SimpleNamespace(
        config={"trial": number, "folder": str(folder.trials / str(number))},
        pickled_error_file=None,
        last_result=None,
    )
    return recorder, kernel, trial


def test_a_worker_that_dies_after_someone_else_was_killed_is_tried_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, kernel, trial = dying(home, monkeypatch)
    verdict = Path(trial.config["folder"]) / VERDICT_FILE
    kernel.kills += 1
    recorder.on_step_begin(1, [])
    kernel.now += 3600
    recorder.on_trial_recover(1, [], trial)
    assert not verdict.exists()
    kernel.kills += 1
    recorder.on_trial_recover(1, [], trial)
    assert verdict.exists()


def test_a_kill_here_is_not_held_against_a_worker_elsewhere(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, kernel, trial = dying(home, monkeypatch, address="head:6379")
    verdict = Path(trial.config["folder"]) / VERDICT_FILE
    kernel.kills += 1
    recorder.on_trial_recover(1, [], trial)
    trial.last_result = {"node_ip": "198.51.100.7"}
    recorder.on_trial_recover(1, [], trial)
    assert not verdict.exists()


def test_out_of_memory_reads_no_other_trial_and_the_sampler_asks_what_a_resumed_one_would(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "method: pseudo_label\ndefault:\n"
        "  lr: {type: float, low: 1.0e-3, high: 1.0, log: true, role: nuisance, why: a rate}\n"
        "  batch_size: {type: categorical, choices: [4, 8, 16], role: nuisance, why: what memory depends on}\n"
        "baseline: {lr: 0.05, batch_size: 4}\n"
    )
    settings = {"warmup_epochs": 1}
    folder, spec = make_study(home, space=str(space), startup_trials=2, trials=20, settings=settings)
    records = StudyTrials(folder, spec)
    reads: list[Any] = []
    real = RDBStorage.get_all_trials

    def counted(self: RDBStorage, *words: Any, **options: Any) -> Any:
        reads.append(words)
        return real(self, *words, **options)

    monkeypatch.setattr(RDBStorage, "get_all_trials", counted)
    for _ in range(8):
        number = records.ask().number
        reads.clear()
        records.end(number, "oom", error="it is full")
        assert not reads
    again = StudyTrials(folder, spec)
    assert records.ask().params == again._sampling.ask(8, {})
