"""The live page: what it shows of a study that runs, how it is served, and how a browser keeps it fresh."""

from __future__ import annotations

import http.client
import importlib.util
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import tune
from tests.tune.findings.test_report import Read
from tests.tune.findings.test_views import summary
from tests.tune.helpers import Done, make_study
from tests.tune.servers import needed
from tune.definition.spec import StudySpec
from tune.findings.study import load_study
from tune.page import charts
from tune.page.live.content import LiveStudy
from tune.page.live.server import LivePage, main_of
from tune.page.template import page
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_tracker
from tune.trials.following import Following
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]


class Driven:
    """A study whose driver is this test: it reports to Optuna and to the event log."""

    def __init__(self, home: Home, **options: object) -> None:
        self.folder: StudyFolder
        self.spec: StudySpec
        self.folder, self.spec = make_study(home, **options)
        self.folder.lock()
        self.trials = StudyTrials(self.folder, self.spec)
        self.log = EventLog(self.folder.events_db)
        self.tracker = open_tracker(self.log, self.spec, home)

    def train(self, number: int, epochs: int, first: int = 1) -> None:
        """Epochs of a trial, which begins with its first."""
        if first == 1:
            self.trials.ask()
            self.tracker.trial_started(str(number), {}, {}, "")
        for epoch in range(first, first + epochs):
            known = summary(epoch, 40.0 - 3 * epoch + number)
            self.trials.report(number, known)
            self.log.append(
                "metrics",
                f"{self.spec.name}/{number}",
                {"epoch": epoch, "metrics": {"val/error": known["val_error"]}},
                key=f"{self.spec.name}/{number}:epoch:{epoch}",
            )

    def close(self) -> None:
        self.log.close()
        self.folder.unlock()


@pytest.fixture
def driven(home: Home) -> Driven:
    return Driven(home)


def drawn(driven: Driven) -> Read:
    study = load_study(driven.spec.name, home=driven.folder.path.parent.parent)
    return Read(page(LiveStudy(study).content(), "n0nce"))


def test_a_running_study_shows_its_trials_rungs_curves_places_and_what_waits(driven: Driven) -> None:
    driven.train(0, 6)
    driven.trials.end(0, "completed")
    driven.train(1, 3)
    driven.trials.end(1, "asha")
    driven.train(2, 2)
    shown = drawn(driven)
    assert shown.sections == [
        *("Under way", "Learning curves", "Rungs", "Best so far", "What is searched", "Places", "MLflow")
    ]
    (row,) = shown.table("trial", "epoch", "phase")
    assert row[:3] == ["2", "2 of 6", "1 after it"] and row[3] == "36.00 %"
    assert "The study is running." in shown.words and "to be delivered" in shown.words
    assert shown.table("place", "trains")[0] == ["1", "trial 2"]
    assert "trial 2, running" in shown.words and "trial 1, stopped early" in shown.words  # what is pointed at
    assert {"svg", "polyline", "circle"} <= shown.tags and shown.elsewhere == [], shown.elsewhere


def test_a_study_without_a_trial_has_a_page(driven: Driven) -> None:
    assert "No trial has begun yet." in drawn(driven).words


def test_an_interrupted_study_says_how_it_goes_on(driven: Driven) -> None:
    driven.train(0, 2)
    driven.close()
    assert f"ssl-tune resume {driven.spec.name}" in drawn(driven).words


def test_followed_trials_are_those_that_are_read(driven: Driven) -> None:
    following = Following(driven.folder, driven.spec)
    assert following.records() == read_records(driven.folder) == []
    driven.train(0, 6)
    assert following.records() == read_records(driven.folder)
    driven.trials.end(0, "completed")
    driven.train(1, 1)
    first = following.records()
    assert first == read_records(driven.folder) and [r.state for r in first] == ["completed", "running"]
    driven.train(1, 2, first=2)
    again = following.records()
    assert again == read_records(driven.folder) and again[1].epoch == 3
    assert again[0] is first[0]  # what has ended is read once


# The server


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_page_is_served_to_this_machine_alone_and_changes_with_the_study(driven: Driven) -> None:
    driven.train(0, 1)
    study = load_study(driven.spec.name, home=driven.folder.path.parent.parent)
    with tune.live_page(study) as address:
        status, text, headers = ask(address, "/")
        assert status == 200 and "1 of 6" in text
        (nonce,) = re.findall('<script nonce="([^"]+)">', text)
        assert f"script-src 'nonce-{nonce}'" in headers["Content-Security-Policy"]
        assert ask(address, "/main")[1] == main_of(text)
        driven.train(0, 1, first=2)
        deadline = time.monotonic() + 240
        while "2 of 6" not in ask(address, "/main")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ask(address, "/../study.yaml")[0] == 404
        assert ask(address, "/", method="POST")[0] == 501
        assert ask(address, "/", Host="evil.example:80")[0] == 403
    with pytest.raises(OSError):
        ask(address, "/")


def test_pages_that_are_asked_for_at_once_are_drawn_once(driven: Driven) -> None:
    now = [0.0]
    study = load_study(driven.spec.name, home=driven.folder.path.parent.parent)
    live = LivePage(study, lambda: now[0])
    first = live.get()
    assert live.get() == first
    now[0] = 1.0
    assert live.get() != first  # another nonce at least


def test_a_study_that_cannot_be_read_is_told_on_the_page(driven: Driven) -> None:
    driven.train(0, 1)
    driven.close()
    study = load_study(driven.spec.name, home=driven.folder.path.parent.parent)
    (driven.folder.path / "state.json").write_text("{")
    with tune.live_page(study) as address:
        status, text, _ = ask(address, "/main")
        assert status == 503 and "damaged" in text


def test_report_live_writes_no_file(ssl_tune: Command, driven: Driven) -> None:
    done = ssl_tune("report", driven.spec.name, "--live", "-o", "x.html")
    assert done.code == 2 and "leave -o and --json out" in done.err
    assert ssl_tune("watch", "nothing").code == 2


# Charts


def test_scales_place_values() -> None:
    linear, logarithmic = charts.scale_of([2.0, 4.0]), charts.scale_of([0.001, 0.1], log=True)
    assert [linear.share(v) for v in (2.0, 3.0, 4.0)] == [0.0, 0.5, 1.0]
    assert logarithmic.share(0.01) == pytest.approx(0.5)
    words = charts.scale_of(["b", "a", True])
    assert words.choices == ("True", "a", "b") and words.share("b") == pytest.approx(5 / 6)
    assert charts.scale_of([3.0, 3.0]).share(3.0) == 0.5 and charts.scale_of([]).ticks()
    assert charts.scale_of([0.0, 1.0], log=True).log is False  # there is no logarithm of 0
    assert charts.scale_of([math.nan, 1.0, 3.0]).high == 3.0


def test_text_in_charts_is_escaped_and_what_is_not_finite_is_left_out() -> None:
    line = charts.Line([(1, 2.0), (2, math.nan), (3, 1.0)], charts.BLUE, 1.0, "<b>&")
    text = charts.curves([line], "<x>", "y")
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text and "nan" not in text
    mark = charts.Mark("<i>", 1.0, "failed", "t")
    assert "<i>" not in charts.scatter([mark], "x", "y")
    axes = [("<p>", charts.scale_of([1.0, 2.0])), ("e", charts.scale_of([1.0, 2.0]))]
    assert "<p>" not in charts.parallel(axes, [([1.0, 2.0], 0.0, "<u>"), ([2.0, 1.0], 1.0, "b")])
    assert charts.bars([("begun", 3, 0), ("2 after", 2, 1)], "a", "b").count("<rect") == 6


# A browser


def test_a_browser_keeps_the_page_fresh_and_a_phone_can_read_it(driven: Driven, tmp_path: Path) -> None:
    needed(
        "chromium",
        shutil.which("chromium") and shutil.which("chromedriver"),
        "apt-get install chromium-driver",
    )
    needed("chromium", importlib.util.find_spec("selenium"), "pip install selenium")
    from selenium.webdriver.support.wait import WebDriverWait

    from tests.tune.mlflow_ui import browser

    for number in range(3):
        driven.train(number, 3)
    driven.trials.end(0, "asha")
    study = load_study(driven.spec.name, home=driven.folder.path.parent.parent)
    with tune.live_page(study) as address, browser() as chromium:
        chromium.get(address)

        def words() -> str:
            return str(chromium.execute_script("return document.querySelector('main').innerText"))

        assert "3 of 6" in words()
        driven.train(1, 2, first=4)
        WebDriverWait(chromium, 45).until(lambda _: "5 of 6" in words() and "live, " in words())
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
        )
        chromium.get(address)
        wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
        needs, has = chromium.execute_script(wide)
        assert needs <= has  # nothing is cut off, and nothing has to be moved sideways
        sizes = chromium.execute_script(
            "return [...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height)"
        )
        assert sizes and min(sizes) >= 8  # CSS pixels: small, but readable
        assert chromium.save_screenshot(str(tmp_path / "phone.png"))
