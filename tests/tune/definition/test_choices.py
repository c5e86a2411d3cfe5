"""What is left to the program: the sampler, and after how many epochs ASHA looks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tune.helpers import make_spec
from tune.definition.coherence import chosen_grace, chosen_sampler
from tune.definition.request import SearchRequest
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder


@pytest.mark.parametrize(
    ("asked", "trials", "parameters", "sampler"),
    [
        ("auto", 100, 6, "random"),
        ("auto", 101, 6, "tpe"),
        ("auto", 16, 7, "tpe"),
        ("tpe", 16, 2, "tpe"),
        ("grid", 16, 2, "grid"),
    ],
)
def test_auto_is_random_where_that_was_measured(
    asked: str, trials: int, parameters: int, sampler: str
) -> None:
    assert chosen_sampler(asked, trials, parameters) == sampler


@pytest.mark.parametrize(
    ("grace", "scheduler", "epochs", "chosen"),
    [
        (None, "asha", 12, 1),
        (None, "asha", 13, 1),
        (None, "asha", 14, None),
        (None, "asha", 7, None),
        (None, "median", 12, None),
        (3, "asha", 12, 3),
    ],
)
def test_short_runs_are_looked_at_after_one_epoch(
    grace: int | None, scheduler: str, epochs: int, chosen: int | None
) -> None:
    assert chosen_grace(grace, scheduler, epochs) == chosen


def resolved(tmp_path: Path, **options: Any) -> Any:
    home = Home(tmp_path)
    return resolve_request(SearchRequest(name="s", concurrent=1, settings={"threads": 1}, **options), home)


def test_a_study_keeps_what_was_chosen(tmp_path: Path) -> None:
    spec = resolved(tmp_path, epochs=12)
    assert (spec.sampler, spec.grace, spec.objective) == ("random", 1, "val/error_and_loss")
    assert resolved(tmp_path, epochs=12, trials=500).sampler == "tpe"
    assert resolved(tmp_path, epochs=12, trials=500, epochs_budget=240).sampler == "random"
    assert resolved(tmp_path, epochs=12, sampler="tpe", grace=4).grace == 4


def test_a_warm_start_has_a_sampler_that_learns_from_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    earlier = make_spec(home, name="earlier", objective="val/error_and_loss")
    StudyFolder(home.study_folder("earlier")).create(earlier)
    assert (
        make_spec(home, warm_start="earlier", sampler="auto", objective="val/error_and_loss").sampler == "tpe"
    )
