"""Points to try first, trials of an earlier study, and trials in a database of one's own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_spec, make_study
from tests.tune.trials.test_records import run_through, summary
from tune.errors import Exit, ServiceError
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.trials.handover import keep_warm_trials
from tune.trials.optuna_storage import check_name_is_free, check_storage_url, open_storage
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]

POINTS = """\
- {pseudo_label.threshold: 0.8, warmup_epochs: 3}
- warmup_share: 0.1
"""


def test_points_come_after_the_baseline_and_the_sampler_fills_in_what_they_leave_out(
    home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(POINTS)
    folder, spec = make_study(home, points=str(path))
    path.unlink()  # the study has its own copy
    records = StudyTrials(folder, spec)
    asked = [records.ask().params for _ in range(4)]
    assert asked[0] == {"pseudo_label.threshold": 0.95, "warmup_share": 0.0333}
    assert asked[1] == {"pseudo_label.threshold": 0.8, "warmup_share": 0.5}
    assert records.all()[1].params == {"pseudo_label.threshold": 0.8, "warmup_epochs": 3}
    assert asked[2]["warmup_share"] == 0.1 and 0.5 <= asked[2]["pseudo_label.threshold"] <= 0.995
    assert asked[3] not in asked[:3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: 1\n", "a list of points is expected"),
        ("- 3\n", "point 1 = 3: a mapping of searched parameters"),
        ("- {}\n", "point 1 = {}: a mapping"),
        ("- {threshold: 0.9}\n", "point 1: unknown searched parameter 'threshold'. Did you mean"),
        ("- {pseudo_label.threshold: 0.3}\n", "pseudo_label.threshold = 0.3: 0.5 to 0.995 is searched"),
        ("- {pseudo_label.threshold: high}\n", "pseudo_label.threshold = 'high': 0.5 to 0.995"),
        ("- {warmup_epochs: 5}\n", "warmup_epochs = 5: warmup_share from 0.03 to 0.5, log is searched"),
        ("- {warmup_epochs: 1.5}\n", "warmup_epochs = 1.5"),
        ("- [\n", "not YAML"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "search"])
def test_points_that_cannot_be_are_refused(
    ssl_tune: Command, home: Home, tmp_path: Path, verb: str, text: str, says: str
) -> None:
    path = tmp_path / "points.yaml"
    path.write_text(text)
    done = ssl_tune(verb, "--epochs", 6, "--points", path)
    assert done.code == 2 and says in done.err and str(path) in done.err
    assert not home.path.exists()


def test_points_may_stand_in_the_study_file(ssl_tune: Command, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("points: [{lr: 0.1}]\nstartup-trials: 3\n")
    done = ssl_tune("plan", "--study", path)
    assert done.code == 2 and "points: point 1: unknown searched parameter 'lr'" in done.err
    assert "there is no such file" in ssl_tune("plan", "--points", tmp_path / "none.yaml").err


def an_earlier_study(home: Home, **options: Any) -> None:
    """Five trials: completed, stopped, diverged, failed, and one that still runs."""
    folder, spec = make_study(home, name="earlier", **options)
    records = StudyTrials(folder, spec)
    for number, reason in enumerate(("completed", "asha", "nan", "error", None)):
        records.ask()
        records.report(number, summary(3, 20.0 + number, 2, reason))
        if reason is not None:
            records.end(number, reason)
    records.close()


def test_a_warm_start_takes_over_what_taught_something_and_counts_it_as_no_trial_of_its_own(
    home: Home,
) -> None:
    an_earlier_study(home)
    folder, spec = make_study(home, warm_start="earlier", name="later")
    keep_warm_trials(folder, spec)
    records = StudyTrials(folder, spec)
    assert records.asked() == 0 and records.all() == [] == read_records(folder)
    first = records.ask()
    assert first.number == 3 and first.params == {"pseudo_label.threshold": 0.95, "warmup_share": 0.0333}
    run_through(records, 3)
    assert [r.trial for r in read_records(folder)] == ["3"]
    stored = optuna.load_study(study_name="later", storage=f"sqlite:///{folder.optuna_db}").trials
    assert [t.state for t in stored] == [TrialState.COMPLETE, *[TrialState.PRUNED] * 2, TrialState.COMPLETE]
    assert [t.user_attrs.get("taken_over") for t in stored] == ["earlier/0", "earlier/1", "earlier/2", None]
    assert [t.value for t in stored[:2]] == [20.0, 21.0] and stored[2].constraints == {"infeasible": 1.0}
    # The earlier study may go: this one has its copy. A driver that died while copying is made up for.
    again = StudyTrials(folder, spec)
    assert again.asked() == 1 and again.ask().number == 4


def test_a_driver_that_died_while_it_took_trials_over_takes_the_rest(home: Home) -> None:
    an_earlier_study(home)
    folder, spec = make_study(home, warm_start="earlier", name="later")
    whole = StudyTrials(folder, spec)  # also copies them: nobody had
    rows = json.loads((folder.path / "warm-start.json").read_text())
    assert [row["from"] for row in rows] == ["earlier/0", "earlier/1", "earlier/2"]
    points = [whole.ask().params for _ in range(3)]
    whole.close()
    folder.optuna_db.unlink()
    (folder.path / "warm-start.json").write_text(json.dumps(rows[:1]))
    StudyTrials(folder, spec).close()
    (folder.path / "warm-start.json").write_text(json.dumps(rows))
    again = StudyTrials(folder, spec)
    assert [again.ask().params for _ in range(3)] == points


def test_a_warm_start_needs_the_same_method_and_space_and_says_what_else_differs(home: Home) -> None:
    make_study(home, name="earlier")
    with pytest.raises(ConfigError, match=r"is of the method pseudo_label, this one of supervised"):
        make_spec(home, method="supervised", warm_start="earlier")
    with pytest.warns(UserWarning, match=r"pseudo_label.threshold was searched there and is fixed here"):
        make_spec(home, settings={"pseudo_label.threshold": 0.9}, warm_start="earlier")
    with pytest.raises(ConfigError, match=r"no study 'earlyer'.*Did you mean 'earlier'"):
        make_spec(home, warm_start="earlyer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_spec(home, warm_start="earlier")
    with pytest.warns(UserWarning, match=r"labels was 100 there and is 50 here; errors .* may not compare"):
        make_spec(home, labels=50, warm_start="earlier")


# A database of one's own


def test_trials_lie_where_storage_says_under_the_study_s_own_name(home: Home, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    folder, spec = make_study(home, storage=url)
    check_name_is_free(spec, folder)
    records = StudyTrials(folder, spec)
    records.ask()
    run_through(records, 0)
    assert not folder.optuna_db.exists() and [r.state for r in read_records(folder)] == ["completed"]
    (trial,) = optuna.load_study(study_name="s", storage=url).trials
    assert trial.state == TrialState.COMPLETE
    other = Home(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"holds a study 's' already.*another --name"):
        check_name_is_free(make_spec(other, storage=url), folder)
    # A study of that name that came there behind our back is not mixed with this one.
    strange = spec.model_copy(update={"uid": "somebody else's"})
    with pytest.raises(ServiceError, match="is another one of the same name"):
        StudyTrials(folder, strange)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("optuna.db", "is no database URL"),
        ("mongodb://host/db", "no database 'mongodb'"),
        ("oracle+oracledb://host/db", "driver is not installed"),
    ],
)
def test_a_storage_url_that_cannot_be_is_refused(ssl_tune: Command, home: Home, url: str, says: str) -> None:
    done = ssl_tune("search", "--storage", url)
    assert done.code == 2 and says in done.err and not home.path.exists()


@pytest.mark.parametrize("url", ["sqlite:////proc/nowhere/a.db", "postgresql+psycopg://me@127.0.0.1:1/a"])
def test_a_storage_that_does_not_answer_is_exit_6_and_leaves_nothing(
    ssl_tune: Command, home: Home, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "psycopg" in url:
        pytest.importorskip("psycopg")
        monkeypatch.setenv("SSL_TUNE_STORAGE_PASSWORD", "secret")
    check_storage_url(url)
    done = ssl_tune("search", "--storage", url)
    assert done.code == 6 and "cannot be used" in done.err and "secret" not in done.err, done
    assert home.study_names() == []


def test_a_damaged_database_is_exit_6(ssl_tune: Command, home: Home) -> None:
    folder, _ = make_study(home)
    folder.optuna_db.write_bytes(b"this is no database " * 500)
    for verb in ("status", "trials", "resume"):
        done = ssl_tune(verb, "s")
        assert done.code == 6 and "optuna.db is damaged: file is not a database" in done.err, (verb, done)
        assert "ssl-tune repair s" in done.err
        assert "Traceback" not in done.err and not StudyFolder(folder.path).is_locked()
    with pytest.raises(ServiceError) as refused:
        open_storage(folder)
    assert refused.value.code == Exit.STORAGE
