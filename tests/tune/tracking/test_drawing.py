"""The process that draws a study's figures: one for many batches, replaced when it dies, ended when it rests."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tune.tracked import Home, metrics, start
from tune.delivery import drawing
from tune.delivery.drawing import Drawing

TOO_LONG = 120.0


@pytest.fixture
def drawn(tracked: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose trials have figures."""
    monkeypatch.setenv("SSL_TUNE_FIGURES", "1")
    start(tracked.tracker())
    yield tracked


def end(home: Home, trial: str) -> None:
    """A trial reports twice and ends: its learning curves are owed."""
    tracker = home.tracker()
    start(tracker, trial)
    tracker.report(trial, 1, metrics(1))
    tracker.report(trial, 2, metrics(2))
    tracker.trial_ended(trial, "completed", summary={"best/val_error": 25.0})


def take(artist: Drawing, home: Home) -> list[bytes | None]:
    """The beginning of each figure of the batch; those with an outcome are owed no more."""
    end = time.monotonic() + TOO_LONG
    while not artist.wait(0.1):
        assert time.monotonic() < end
    found = []
    for event, path, problem in artist.take():
        assert problem is None
        found.append(None if path is None else path.read_bytes()[:4])
        home.log.mark_delivered([event.id])
    artist.clear()
    return found


def process(artist: Drawing) -> subprocess.Popen[str]:
    """Of the only one that draws."""
    (only,) = artist._artists
    return only.process


def pid(artist: Drawing) -> int:
    return process(artist).pid


def test_one_process_draws_batch_after_batch_and_is_told_of_new_trials(drawn: Home) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    assert artist.start()
    first = pid(artist)
    assert b"\x89PNG" in take(artist, drawn)
    end(drawn, "1")
    assert artist.start(fewest=100)  # it is there already
    assert b"\x89PNG" in take(artist, drawn)
    assert pid(artist) == first and not artist.start()


def test_no_process_is_started_for_fewer_than_asked(drawn: Home) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    assert not artist.start(fewest=100)
    assert artist._artists == []


def test_a_process_that_was_killed_is_replaced_and_its_figures_drawn(drawn: Home) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    assert artist.start()
    first = pid(artist)
    process(artist).send_signal(signal.SIGKILL)
    assert take(artist, drawn) == []  # each is tried once more
    assert artist.start()
    assert b"\x89PNG" in take(artist, drawn)
    assert pid(artist) != first


def test_figures_whose_process_dies_twice_are_given_up(drawn: Home) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    for attempt in (1, 2):
        assert artist.start()
        process(artist).kill()
        process(artist).wait()
        assert artist.wait(0)
        problems = [problem for _, _, problem in artist.take()]
        assert all("died" in str(problem) for problem in problems) and bool(problems) == (attempt == 2)
        artist.clear()


def test_a_process_with_nothing_to_draw_is_ended_with_its_folder(
    drawn: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    artist.start()
    take(artist, drawn)
    ended, folder = process(artist), Path(artist._artists[0].folder)
    assert not artist.start() and ended.poll() is None and folder.exists()
    monkeypatch.setattr(drawing, "REST_SECONDS", 0.0)
    assert not artist.start()
    assert ended.poll() is not None and not folder.exists()


def test_the_process_ends_with_what_started_it(drawn: Home) -> None:
    artist = Drawing(drawn.log)
    end(drawn, "0")
    artist.start()
    left = process(artist)
    del artist
    assert left.wait(TOO_LONG) is not None


def test_two_processes_share_a_batch_that_is_worth_it(drawn: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "WORTH_A_PROCESS", 1)
    artist = Drawing(drawn.log)
    for trial in ("0", "1"):
        end(drawn, trial)
    owed = [event.id for event in drawn.log.owed_figures(99)]
    assert len(owed) > 1 and artist.start(artists=2)
    first, second = artist._artists
    parts = [{event.id for event, by in artist._batch if by is one} for one in (first, second)]
    assert all(parts) and sorted(parts[0] | parts[1]) == owed and not parts[0] & parts[1]
    assert take(artist, drawn).count(b"\x89PNG") >= 2
    assert drawn.log.owed_figures(99) == []
