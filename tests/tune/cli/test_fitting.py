"""Plans that fit: the memory that a trial takes, the time that somebody has, and the price of a long search."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system.errors import ConfigError
from ssl_core.system.peak import available_memory
from tests.tune.cli.test_plan import OPTIONS
from tests.tune.helpers import Done, make_spec
from tune.launch import fitting
from tune.launch.fitting import places_that_fit, price_lines
from tune.launch.plan import Expectation
from tune.store.home import Home

Command = Callable[..., Done]
GB = 10**9
ROOT = Path(__file__).resolve().parents[3]


def expectation(seconds: float = 10.0, memory: int | None = None) -> Expectation:
    return Expectation(30.0, 3.0, seconds, 1.0, 1.0, 0, memory)


def test_a_block_s_peak_is_measured() -> None:
    """In a process of its own: one that has trained may keep freed memory, and fill it again without growing."""
    code = (
        "import numpy; from ssl_core.system.peak import peak_of\n"
        "with peak_of('cpu') as peak:\n    del_me = numpy.ones(200_000_000 // 8); del del_me\n"
        "print(peak.host)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 150_000_000 < int(done.stdout) < 600_000_000
    assert 0 < available_memory() < 10**14


def test_as_many_trials_run_side_by_side_as_the_memory_holds(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(home, concurrent=4)
    monkeypatch.setattr(fitting, "available_memory", lambda: 23 * GB)
    monkeypatch.setattr(fitting, "total_memory", lambda: 24 * GB)
    assert places_that_fit(spec, expectation(memory=5 * GB)) == 4
    assert places_that_fit(spec, expectation(memory=int(10.6 * GB))) == 2
    assert places_that_fit(spec, expectation(memory=None)) == 4
    assert (
        places_that_fit(spec, expectation(memory=int(23.5 * GB))) == 1
    )  # what others hold may be free again
    with pytest.raises(ConfigError, match=r"about 30\.0 GB of memory, and this machine has 24\.0 GB"):
        places_that_fit(spec, expectation(memory=30 * GB))


def test_a_search_of_more_than_an_hour_says_its_price_and_how_to_shorten_it(home: Home) -> None:
    spec = make_spec(home)
    assert price_lines(spec, expectation(3599)) == []
    (line,) = price_lines(spec, expectation(337_632))
    assert "about 3 d 21 h" in line and "--epochs" in line and "plan --within" in line


def document(trials: int, epochs: int, seconds: float) -> dict[str, Any]:
    return {"trials": trials, "epochs": epochs, "expected_seconds": seconds}


@pytest.mark.parametrize(
    ("plan", "seconds", "found"),
    [
        (document(20, 300, 1000), 2000, {"trials": 20, "epochs": 300, "expected_seconds": 1000}),
        (document(20, 300, 10_000), 5000, {"trials": 10, "epochs": 300, "expected_seconds": 5000}),
        (document(20, 300, 10_000), 2500, {"trials": 10, "epochs": 150, "expected_seconds": 2500}),
        (document(20, 300, 10_000), 1000, None),
        (document(4, 300, 10_000), 2500, {"trials": 4, "epochs": 75, "expected_seconds": 2500}),
    ],
)
def test_what_fits_a_time_keeps_as_many_epochs_as_it_can(
    plan: dict[str, Any], seconds: float, found: dict[str, Any] | None
) -> None:
    assert fitting.fitting(plan, seconds) == pytest.approx(found)


def test_plan_within_proposes_and_shows_the_memory(ssl_tune: Command, home: Home) -> None:
    done = ssl_tune("plan", *OPTIONS, "--within", "100h")
    assert done.code == 0 and "within 100h: it fits as it is" in done.out
    assert "GB a trial" in done.out and not home.path.exists()
    refused = ssl_tune("plan", *OPTIONS, "--within", "soon")
    assert refused.code == 2 and "--within 'soon'" in refused.err
