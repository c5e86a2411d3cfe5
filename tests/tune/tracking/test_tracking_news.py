"""What a driver says of its tracking, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tune.store.event_log import EventLog
from tune.store.events import now_ms
from tune.tracking import news as tracking_news
from tune.tracking.news import TrackingNews


class Clock:
    """Seconds that pass only when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tracking_news.time, "monotonic", clock)
    return clock


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "events.db") as log:
        yield log


def test_the_status_line_shows_what_has_waited_for_a_while(log: EventLog) -> None:
    news = TrackingNews(log)
    assert news.waiting() == ""
    log.append("text", "s", {}, time_ms=now_ms())
    assert news.waiting() == ""  # it is on its way
    log.append_many([])
    log.mark_delivered([1])
    for _ in range(3):
        log.append("text", "s", {}, time_ms=now_ms() - 6000)
    assert news.waiting() == "3 events to be delivered to MLflow"


def test_a_lasting_problem_is_told_once_and_so_is_its_end(log: EventLog, clock: Clock) -> None:
    news, said = TrackingNews(log), []
    for second in range(40):
        clock.now += 1
        if second in (3, 10):
            log.set_meta("problem", "nobody answers")
        if second in (4, 20):  # the first was gone before it was worth a word
            log.set_meta("problem", None)
        said += [(second, words) for words in news.news()]
        assert list(news.news()) == []  # asked again at once
    assert [(second, words.split(":")[0]) for second, words in said] == [
        (13, "nothing can be delivered to MLflow"),
        (13, "the study goes on; 0 events wait and are delivered when it can be"),
        (20, "MLflow takes events again"),
    ]
    assert said[0][1].endswith("nobody answers")


def test_what_is_refused_is_told_once_and_what_was_refused_before_is_not(log: EventLog, clock: Clock) -> None:
    for _ in range(4):
        log.append("text", "s/0", {})
    log.mark_dead(1, "long ago")
    news = TrackingNews(log)
    assert list(news.news()) == []
    clock.now += 1
    log.mark_dead(2, "too long")
    log.mark_dead(3, "too wide")
    (words,) = news.news()
    assert "refuses 2 events" in words and "text of s/0: too wide" in words
    clock.now += 1
    assert list(news.news()) == []
