"""A real MLflow server on PostgreSQL that is killed, hangs or fails: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tune
from tests.tune.helpers import driver, reports, shapes_options, wait_until, when, words_of
from tests.tune.servers import Gate, MlflowServer
from tests.tune.tracked import EXPERIMENT, ROOT, Home, check_exact, metrics, start
from tune.store.event_log import EventLog
from tune.tracking.tracker import Tracker

TRIALS = ("0", "1", "2")


pytestmark = pytest.mark.usefixtures("short_clocks")


def run_study(tracker: Tracker, epochs: int, happens: dict[int, Callable[[], None]]) -> None:
    """A study whose trials only report; things happen while it goes on."""
    start(tracker, *TRIALS)
    for epoch in range(1, epochs + 1):
        if epoch in happens:
            happens[epoch]()
        for trial in TRIALS:
            tracker.report(trial, epoch, metrics(epoch))
        time.sleep(0.02)
    for trial, reason in zip(TRIALS, ("completed", "asha", "oom"), strict=True):
        tracker.trial_ended(trial, reason)
    tracker.study_ended("finished", {"best/val_error": 1.0})


def later(action: Callable[[], None], seconds: float) -> None:
    threading.Timer(seconds, action).start()


def test_a_server_that_is_killed_again_and_again(served: Home, mlflow_server: MlflowServer) -> None:
    def killed() -> None:
        mlflow_server.kill()
        later(mlflow_server.start, 0.3)

    with served.sending():
        run_study(served.tracker(), 60, dict.fromkeys((3, 25, 45), killed))
    check_exact(served)


def test_a_server_that_hangs_and_then_does_what_it_was_asked(
    served: Home, mlflow_server: MlflowServer
) -> None:
    """Requests that were given up and sent again are carried out twice, the first time late."""

    def hang() -> None:
        mlflow_server.freeze()
        later(mlflow_server.thaw, 1.8)  # longer than the second after which a request is given up

    with served.sending():
        run_study(served.tracker(), 10, {1: hang})
        time.sleep(2)
        hang()
        served.tracker().trial_started("3", {"vat.eps": 1.0}, {}, "trial: 3\n")
        served.tracker().trial_ended("3", "completed")
        time.sleep(2)
    check_exact(served)


def test_a_call_that_hangs_while_the_next_one_passes(served: Home, gate: Gate) -> None:
    """The late request makes the run that the next attempt has made already."""
    hung = []

    def answer(number: int) -> str:
        if "runs/create" in gate.calls[number] and len(hung) < 2:
            hung.append(number)
            return "hang"
        return "pass"

    gate.answer = answer
    with served.sending():
        later(gate.release, 2.0)
        run_study(served.tracker(), 5, {})
        time.sleep(2.5)
    assert len(hung) == 2
    check_exact(served)


def test_a_server_that_fails_a_third_of_the_calls_and_loses_answers(served: Home, gate: Gate) -> None:
    luck = random.Random(0)
    gate.answer = lambda number: luck.choice(["pass", "pass", "500"]) if number % 7 else "lose"
    with served.sending():
        run_study(served.tracker(), 30, {})
    assert len(gate.calls) > 40
    check_exact(served)


def test_a_server_that_is_away_at_the_start(served: Home, gate: Gate) -> None:
    gate.shut()
    with served.sending():
        run_study(served.tracker(), 10, {5: gate.open})
    check_exact(served)


def test_a_real_study_whose_server_is_killed_in_the_middle(
    local_ray: None, served: Home, mlflow_server: MlflowServer, home: tune.store.home.Home, pictures: Path
) -> None:
    home.path.mkdir()
    options = shapes_options(home, pictures) | {"tracking_uri": served.tracking_uri}
    folder = home.study_folder("shapes")
    with (
        when(lambda: reports(folder) >= 6, mlflow_server.kill),
        when(lambda: reports(folder) >= 12, mlflow_server.start),
    ):
        study = tune.search(**options, home=home.path, quiet=True)
    assert {r.state for r in study.records()} == {"completed", "stopped_early"}
    with EventLog(folder / "events.db") as log:
        served.log.close()
        served.log = log
        check_exact(served)


@pytest.mark.long
def test_a_real_driver_that_is_killed_while_the_server_is_away_is_resumed(
    local_ray: None, served: Home, gate: Gate, home: tune.store.home.Home, pictures: Path
) -> None:
    home.path.mkdir()
    options = shapes_options(home, pictures) | {"tracking_uri": served.tracking_uri}
    folder = home.study_folder("shapes")
    with driver("search", *words_of(options), "--home", home.path) as process:
        wait_until(lambda: reports(folder) >= 4, process)
        gate.shut()
        seen = reports(folder)
        wait_until(lambda: reports(folder) >= seen + 3, process)  # goes on without the server
        process.kill()
        process.wait()
    with EventLog(folder / "events.db") as log:
        assert log.pending() > 0
    gate.open()
    study = tune.resume("shapes", home=home.path, quiet=True)
    assert {r.state for r in study.records()} == {"completed", "stopped_early"}
    with EventLog(folder / "events.db") as log:
        served.log.close()
        served.log = log
        check_exact(served)


def test_a_driver_that_is_killed_while_the_server_is_away_and_resumes(served: Home, gate: Gate) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.tune.tracked import TAGS, metrics, start\n"
        "from tune.store.event_log import EventLog; from tune.tracking.tracker import Tracker\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        f"tracker = Tracker(log, study='s', tracking_uri=sys.argv[2], experiment={EXPERIMENT!r},"
        " common_tags=TAGS)\n"
        "tracker.sender.start(); start(tracker, '0', '1', '2')\n"
        "[tracker.report(t, e, metrics(e)) for e in range(1, 6) for t in '012']\n"
        "print(tracker.sender.pid, flush=True); input()"
    )
    command = [sys.executable, "-c", script, str(served.log.path), gate.uri]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None and process.stdin is not None
    sender_pid = int(process.stdout.readline())
    deadline = time.monotonic() + 240
    while served.log.last("s/1", "params") is None or len(gate.calls) < 4:  # in the middle of a delivery
        assert time.monotonic() < deadline
        time.sleep(0.005)
    gate.shut()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 240
    while Path(f"/proc/{sender_pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert served.log.pending() > 0
    gate.open()
    with served.sending():
        run_study(served.tracker(), 10, {})  # a new driver, whose workers repeat what they are not sure of
    check_exact(served)
