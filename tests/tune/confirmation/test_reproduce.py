"""A table made again at a tiny budget: resumable, nothing trained or read twice, in every form."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, carry_on_words, driver, signal_when, wait_until
from tune.paper_tables.entries import Budget
from tune.paper_tables.files import write_all
from tune.paper_tables.order import Order, declared_of_report
from tune.paper_tables.price import cost
from tune.paper_tables.rendering import COLUMNS
from tune.paper_tables.reproduce import reproduce, trainings_of
from tune.store.home import Home

Command = Callable[..., Done]
WORDS = [
    *("--data", "cifar10=digits", "--network", "wrn-10-1", "--epochs", "2"),
    *("--set", "steps_per_epoch=2", "--set", "batch_size=4", "--set", "mu=1"),
]
BUDGET = Budget(
    network="wrn-10-1",
    epochs=2,
    settings=("steps_per_epoch=2", "batch_size=4", "mu=1"),
    places={"cifar10": "digits"},
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, dict[str, Any]]]:
    """Tables 1 and 2, the column cifar10@250, two seeds, made once in a home of their own."""
    home = Home(tmp_path_factory.mktemp("reproduced") / "home")
    order = Order(tables=("table1", "table2"), cells=("cifar10@250",), budget=BUDGET, seeds=2, concurrent=1)
    said: list[str] = []
    return home, reproduce(order, home, said.append, lambda documents: None)


def results(home: Home) -> dict[Path, bytes]:
    folder = home.path / "reproduce"
    return {p.relative_to(folder): p.read_bytes() for p in folder.glob("*/*/result.json")}


def readings(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.test_readings.read_text().splitlines()]


def test_every_cell_stands_beside_report_published_and_supervised(
    made: tuple[Home, dict[str, dict[str, Any]]],
) -> None:
    home, documents = made
    assert [row["cell"] for row in documents["table1"]["rows"]] == [
        f"cifar10@250,tau={tau}" for tau in ("0.95", "0.75", "0.6")
    ]
    assert len(results(home)) == len(readings(home)) == 2 * (3 + 1 + 1)  # one baseline serves both tables
    for document in documents.values():
        for row in document["rows"]:
            folder = home.path / "reproduce"
            mine = [
                json.loads(p.read_text())
                for p in sorted(folder.glob(f"{row['method']}-*/seed-*/result.json"))
                if json.loads(p.read_text())["config"][row["method"]].get("threshold") == row["threshold"]
            ]
            assert row["test_error"]["values"] == [r["test_error"] for r in mine] and len(mine) == 2
            assert row["test_error"]["mean"] == pytest.approx(sum(row["test_error"]["values"]) / 2)
            theirs = row["supervised"]["test_error"]["values"]
            paired = [a - b for a, b in zip(row["test_error"]["values"], theirs, strict=True)]
            assert row["difference"]["values"] == paired
            assert (row["steps"], row["network"], row["seeds"]) == (4, "wrn-10-1", [1001, 1002])
            assert row["cut"] and row["rule"] and row["published"] and row["seconds"]
    splits = {
        (r["config"]["seed"], r["config"]["data"]["label_seed"], r["split_hash"]) for r in readings(home)
    }
    assert len(splits) == 2  # methods and baseline of one seed share labelled and validation images


def test_a_method_s_own_table_stands_beside_its_published_errors(
    made: tuple[Home, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    order = Order(tables=("freematch",), cells=("cifar10@250",), budget=BUDGET, seeds=2, concurrent=1)
    document = reproduce(order, made[0], lambda _: None, lambda documents: None)["freematch"]
    (row,) = document["rows"]
    assert row["test_error"] is not None and row["report"] is None and row["published"]["error"] == 4.85
    text = {path.suffix: path for path in write_all(document, tmp_path)}
    assert (
        "4.85" in text[".md"].read_text()
        and "Published rows: the published setting" in text[".md"].read_text()
    )
    (line,) = csv.DictReader(text[".csv"].open())
    assert (line["report"], line["published"], line["published_std"]) == ("", "4.85", "")
    assert text[".png"].stat().st_size > 10_000


def test_the_command_writes_every_form_and_trains_nothing_again(
    made: tuple[Home, dict[str, dict[str, Any]]], ssl_tune: Command, tmp_path: Path
) -> None:
    home, documents = made
    before, read = results(home), home.test_readings.read_bytes()
    words = [
        "reproduce",
        "table1",
        "table2",
        "--cell",
        "cifar10@250",
        *WORDS,
        "--seeds",
        2,
        "--concurrent",
        1,
    ]
    done = ssl_tune(*words, "--home", home.path, "-o", tmp_path)
    assert done.code == 0, done.err
    assert "10 runs, 10 of them done already" in done.err
    assert results(home) == before and home.test_readings.read_bytes() == read
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        f"{table}.{suffix}" for table in documents for suffix in ("csv", "md", "png", "tex")
    )
    text = (tmp_path / "table1.md").read_text()
    assert all(column in text for column in COLUMNS)
    assert "66.68" in text and "48.28 ± 2.10" in text and "(n = 2)†" in text
    for says in ("† At a cut budget: ", "rebuilt here", "supervised", "last epoch", "4 of 33,600 steps"):
        assert says.lower() in text.lower()
    assert str(home.path) not in text and str(Path.cwd()) not in text
    with (tmp_path / "table1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["report"]) for r in rows] == [66.682, 68.908, 73.936]
    assert float(rows[0]["test_error_mean"]) == documents["table1"]["rows"][0]["test_error"]["mean"]
    tex = (tmp_path / "table1.tex").read_text()
    assert r"66.68" in tex and tex.count(r"\\") == 4
    assert tex.count("&") == 4 * (len(COLUMNS) - 1) and tex.count("{") == tex.count("}")
    assert (tmp_path / "table2.png").read_bytes().startswith(b"\x89PNG")
    assert "Test error of VAT (table2)" in done.out


def test_runs_side_by_side_on_ray_give_the_same_bits(
    made: tuple[Home, dict[str, dict[str, Any]]], local_ray: None, home: Home
) -> None:
    cells = ("cifar10@250,tau=0.95",)
    order = Order(tables=("table1",), cells=cells, budget=BUDGET, seeds=1, concurrent=2)
    said: list[str] = []
    reproduce(order, home, said.append, lambda documents: None)
    assert len([s for s in said if "val/error" in s]) == 2
    mine, theirs = results(home), results(made[0])
    assert len(mine) == 2
    for path, content in mine.items():
        one, other = json.loads(content), json.loads(theirs[path])
        assert {k: one[k] for k in ("val_error", "test_error", "config")} == {
            k: other[k] for k in ("val_error", "test_error", "config")
        }


def test_a_table_that_was_killed_and_interrupted_trains_and_reads_nothing_twice(
    made: tuple[Home, dict[str, dict[str, Any]]], home: Home, ssl_tune: Command
) -> None:
    words = [
        "reproduce",
        "table1",
        "--cell",
        "cifar10@250",
        *WORDS,
        "--seeds",
        "2",
        "--concurrent",
        "1",
        "--json",
    ]
    with driver(*words, SSL_TUNE_HOME=str(home.path)) as process:
        wait_until(lambda: len(results(home)) >= 2, process)
        refused = ssl_tune(*words)
        assert refused.code == 8 and "another `ssl-tune reproduce`" in refused.err
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = results(home)
    with signal_when(lambda: len(results(home)) > len(killed), signal.SIGINT):
        done = ssl_tune(*words)
    assert done.code == 130 and "Traceback" not in done.err
    assert (home.path / "tables" / "table1.md").exists()  # what there is so far
    interrupted = results(home)
    assert killed.items() <= interrupted.items() and len(interrupted) < 8
    again = carry_on_words(done.err)
    assert again == list(map(str, words))
    done = ssl_tune(*again)
    assert done.code == 0, done.err
    assert interrupted.items() <= results(home).items() and len(readings(home)) == 8
    told = [row["test_error"]["values"] for row in done.document["table1"]["rows"]]
    assert told == [row["test_error"]["values"] for row in made[1]["table1"]["rows"]]


def test_a_dry_run_prices_every_row_from_measured_steps_and_leaves_nothing(
    ssl_tune: Command, home: Home
) -> None:
    words = ["reproduce", "table2", "--cell", "cifar10@250", *WORDS, "--seeds", 4, "--dry-run"]
    done = ssl_tune(*words)
    assert (
        done.code == 0 and "hours on one processor in all" in done.out and "There is no GPU here" in done.out
    )
    assert not home.path.exists()
    order = Order(tables=("table1", "table2"), cells=("cifar10@250",), budget=BUDGET, seeds=4)
    document = cost(order)
    assert len(document["rows"]) == 5 and document["hours"] == pytest.approx(
        sum(r["hours"] for r in document["rows"])
    )
    by_method = {r["method"]: r for r in document["rows"]}
    # a step of VAT has five iterations more than one of supervised training
    assert by_method["vat"]["seconds_per_step"] > 2 * by_method["supervised"]["seconds_per_step"] > 0
    row = by_method["supervised"]
    assert row["hours"] * 3600 >= 4 * row["steps"] * row["seconds_per_step"]


def test_exported_configurations_take_the_place_of_the_reports(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    order = Order(
        tables=("table1",), cells=("cifar10@250",), budget=BUDGET, seeds=1, concurrent=1, configs=folder
    )
    with pytest.raises(ConfigError, match=r"there is no such folder.*export --all"):
        reproduce(order, home, print, print)
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"holds no configuration"):
        reproduce(order, home, print, print)
    config = declared_of_report(order).entries[0].config
    pseudo = config.document() | {"pseudo_label": {"threshold": 0.7, "accumulate": False}, "lr": 0.05}
    plain = {k: v for k, v in pseudo.items() if k != "pseudo_label"} | {"method": "supervised", "lr": 0.07}
    write_export(folder / "one.yaml", pseudo, classes=10)
    write_export(folder / "two.yaml", plain, classes=10)
    documents = reproduce(order, home, print, lambda documents: None)
    (row,) = documents["table1"]["rows"]
    assert (row["source"], row["threshold"], row["cell"]) == ("exported", 0.7, "cifar10@250,exported")
    assert row["report_note"] == "best of 3 thresholds, 0.95" and "of 5 trials of study one" in row["rule"]
    assert "of study two" in row["supervised"]["rule"]  # the tuned baseline
    assert {r["config"]["lr"] for r in readings(home)} == {0.05, 0.07}
    for change, says in (
        ({"labels": 100}, "one.yaml is for digits@100"),
        ({}, "one.yaml is for digits@250 of 7 classes"),
    ):
        write_export(folder / "one.yaml", pseudo | change, classes=7)
        with pytest.raises(ConfigError, match=rf"no configuration of pseudo_label for cifar10@250 \({says}"):
            reproduce(order, home, print, print)


def write_export(path: Path, config: dict[str, Any], classes: int) -> None:
    from search_spaces import dump_yaml

    document = {
        "format": 1,
        "config": config,
        "expect": {"val_error": 20.0},
        "origin": {"study": path.stem, "trials": 5, "classes": classes, "confirmed": False},
    }
    path.write_text(dump_yaml(document))


@pytest.mark.long
def test_a_search_tunes_the_column_and_its_baseline_first(
    local_ray: None, ready_home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    order = Order(tables=("table1",), cells=("cifar10@250",), budget=BUDGET, seeds=1, concurrent=1, search=2)
    documents = reproduce(order, ready_home, print, lambda documents: None)
    names = ready_home.study_names()
    assert len(names) == 2 and names[0].startswith("cifar10@250-pseudo_label-")
    study, baseline = (tune.load_study(name, home=ready_home.path) for name in names)
    assert study.spec.trials == baseline.spec.trials == 2 and baseline.spec.config["method"] == "supervised"
    # The report's own cell stands beside it where it is trained: here, if the search chose the report's setting.
    rows = {row["cell"]: row for row in documents["table1"]["rows"]}
    row = rows.pop("cifar10@250,searched")
    for other in rows.values():
        assert other["threshold"] == row["threshold"] and "the report's setting" in other["rule"]
    best = study.best()
    assert best is not None and row["threshold"] == best["params"]["pseudo_label.threshold"]
    assert "of 2 trials" in row["rule"] and baseline.name in row["supervised"]["rule"]
    before = results(ready_home)
    capsys.readouterr()
    reproduce(order, ready_home, print, lambda documents: None)
    assert ready_home.study_names() == names and results(ready_home) == before
    assert "2 runs, 2 of them done already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table9"], "unknown table 'table9'. Did you mean 'table"),
        (["table1", "--cell", "cifar10@4000,tau=0.5"], "is no cell of table1"),
        (["table1", "--seeds", "0"], "--seeds 0: at least 1"),
        (["table1", "--concurrent", "0"], "--concurrent 0: at least 1"),
        (["table1", "--search", "--configs", "x"], "exclude each other"),
        (["table1", "--data", "digits"], "--data 'digits'"),
        (["table1", "--network", "resnet"], "network"),
        (["table1", "--set", "lr=fast"], "lr"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    ssl_tune: Command, home: Home, words: list[str], says: str
) -> None:
    done = ssl_tune("reproduce", *words)
    assert done.code == 2 and says in done.err and done.out == ""
    assert not home.path.exists()


def test_the_package_carries_the_reports_numbers() -> None:
    root = Path(tune.__file__).parent / "paper_tables"
    shipped = subprocess.run(
        ["git", "-C", str(root), "ls-files", "*.csv"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert shipped == ["published.csv", "tables.csv"]
    order = Order(tables=("table1", "table2", "table3"), cells=("cifar10@4000",))
    declared = declared_of_report(order)
    trainings = trainings_of(declared, 3, Home("nowhere"))
    # 7 cells and two baselines (200 and 300 epochs), three seeds each, every one in a folder of its own
    assert len({t.out for t in trainings}) == len(trainings) == 27
