"""The report's cells, the runs they are declared as, and what a cut budget says of itself."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from ssl_core.registry import method_names
from ssl_core.system.errors import ConfigError
from tune.paper_tables.entries import (
    Budget,
    baseline_entry,
    cut,
    fresh_document,
    parse_places,
    report_entry,
    tuned_config,
    tuned_entry,
)
from tune.paper_tables.files import comma_separated
from tune.paper_tables.paper import PUBLIC, SETTINGS, cells_of, chosen, published
from tune.paper_tables.rendering import COLUMNS, latex, markdown

SMALL = Budget(
    network="wrn-10-1",
    epochs=3,
    settings=("steps_per_epoch=2", "batch_size=4", "mu=1"),
    places={"cifar10": "digits"},
)


def test_the_cells_are_the_reports() -> None:
    cells = [cell for table in SETTINGS for cell in cells_of(table)]
    assert [len(cells_of(table)) for table in SETTINGS] == [12, 4, 12]
    assert len([c for c in cells if c.column == "cifar10@4000"]) == 7
    values = {(c.table, c.name): c.report for c in cells}
    assert values["table1", "cifar10@4000,tau=0.6"] == 25.113
    assert values["table2", "cifar100@10000"] == 60.683
    assert values["table3", "cifar10@250,tau=0.75"] == 90.01
    assert {c.threshold for c in cells_of("table3")} == {0.95, 0.75, 0.6}


def test_a_published_value_stands_beside_every_cell() -> None:
    for table in SETTINGS:
        for cell in cells_of(table):
            known = published(cell.method, cell.dataset, cell.labels)
            assert known is not None and known.budget == "2^20 steps" and known.network == "wrn-28-2"
            assert "best on test" in known.selection
    fixmatch = published("attention_fixmatch", "cifar10", 4000)
    assert fixmatch is not None and (fixmatch.method, fixmatch.error, fixmatch.std) == ("fixmatch", 4.29, 0.1)
    assert published("supervised", "digits", 100) is None


def test_a_method_that_the_report_lacks_has_a_table_of_its_published_errors() -> None:
    assert set(PUBLIC) == set(method_names()) - {
        *(setting.method for setting in SETTINGS.values()),
        *("supervised", "entropy_minimisation", "random_perturbation"),
    }
    for table in PUBLIC:
        assert [c.column for c in cells_of(table)] == [
            *("cifar10@40", "cifar10@250", "cifar10@4000", "cifar100@400", "cifar100@2500", "cifar100@10000")
        ]
        known = [published(c.method, c.dataset, c.labels) for c in cells_of(table)]
        few = {"mean_teacher": 0, "simple": 2, "alphamatch": 4, "flexmatch": 4}
        assert sum(k is not None for k in known) == few.get(table, 6)
    freematch, alphamatch = published("freematch", "cifar10", 40), published("alphamatch", "cifar10", 40)
    assert freematch is not None and (freematch.error, freematch.std) == (4.97, None)
    assert alphamatch is not None and (alphamatch.error, alphamatch.std) == (8.65, 3.38)


def test_a_method_s_cell_has_the_paper_s_setting() -> None:
    (cell,) = chosen(cells_of("simple"), ["cifar100@10000"])
    config = report_entry(cell, Budget()).config
    parameters = config.parameters.model_dump()
    assert (config.total_steps, config.batch_size, config.mu, config.warmup_epochs) == (2**20, 64, 1, 0)
    assert (parameters["lambda_u"], parameters["lambda_pair"], parameters["strong_views"]) == (150, 150, 4)
    assert (config.weight_decay, config.clip_norm) == (1e-3, 5)
    assert cut(report_entry(cell, Budget()), Budget()) == []
    (cell,) = chosen(cells_of("freematch"), ["cifar10@40"])
    entry = report_entry(cell, Budget(epochs=2, settings=("steps_per_epoch=3", "vat.eps=2")))
    assert (entry.config.total_steps, entry.config.mu, entry.source, entry.report) == (
        6,
        7,
        "published",
        None,
    )
    assert any("6 of 1,048,576 steps" in words for words in cut(entry, Budget()))


def test_cells_are_chosen_by_name_and_unknown_ones_list_those_there_are() -> None:
    cells = [c for table in SETTINGS for c in cells_of(table)]
    assert [c.name for c in chosen(cells, ["cifar10@4000,tau=0.60"])] == ["cifar10@4000,tau=0.6"] * 2
    assert len(chosen(cells, ["cifar10@4000"])) == 7 and chosen(cells, []) == cells
    for wrong in (
        "cifar10@123",
        "cifar10",
        "cifar10@4000,tau=0.61",
        "cifar10@4000,tau=.",
        "cifar10@4000 tau=0.6",
    ):
        with pytest.raises(ConfigError, match=r"--cell .*is no cell of table2.*cifar10@250, cifar10@4000"):
            chosen(cells_of("table2"), [wrong])
    with pytest.raises(ConfigError, match=r"unknown table 'table4'.*table1, table2, table3"):
        cells_of("table4")


def test_a_cell_is_declared_in_the_reports_own_setting() -> None:
    (cell,) = chosen(cells_of("table1"), ["cifar10@4000,tau=0.6"])
    config = report_entry(cell, Budget()).config
    assert (config.network, config.epochs, config.warmup_epochs) == ("wrn-28-2", 300, 10)
    assert (config.batch_size, config.mu, config.steps_per_epoch) == (64, 7, 103)  # 46,000 / 448, rounded up
    own = {"threshold": 0.6, "accumulate": False, "statistics": "all", "pool": "all"}
    assert config.document()["pseudo_label"] == own
    assert cut(report_entry(cell, Budget()), Budget()) == []
    (cell,) = chosen(cells_of("table2"), ["cifar100@2500"])
    config = report_entry(cell, Budget()).config
    assert (config.epochs, config.warmup_epochs, config.weight_decay) == (300, 35, 1e-3)
    assert config.document()["vat"]["xi"] == config.document()["vat"]["eps"] == 10
    assert config.document()["vat"]["iterations"] == 5
    (cell,) = chosen(cells_of("table3"), ["cifar10@4000,tau=0.95"])
    config = report_entry(cell, Budget()).config
    assert (config.epochs, config.warmup_epochs) == (200, 0)
    assert config.document()["attention_fixmatch"]["align"] == "none"


def test_a_budget_scales_the_warm_up_as_a_share_and_says_what_it_cuts() -> None:
    for table, cell_name, epochs, warmup in (
        ("table1", "cifar10@250,tau=0.95", 3, 1),
        ("table1", "cifar10@250,tau=0.95", 90, 3),
        ("table2", "cifar10@250", 60, 7),
        ("table2", "cifar10@250", 1, 0),
        ("table3", "cifar10@250,tau=0.95", 100, 0),
    ):
        (cell,) = chosen(cells_of(table), [cell_name])
        budget = Budget(network="wrn-10-1", epochs=epochs, places={"cifar10": "digits"})
        assert report_entry(cell, budget).config.warmup_epochs == warmup
    (cell,) = chosen(cells_of("table1"), ["cifar10@250,tau=0.95"])
    words = cut(report_entry(cell, SMALL), SMALL)
    assert words[0] == "network wrn-10-1 instead of wrn-28-2"
    assert words[1].startswith("6 of 33,600 steps") and "4 instead of 64 labelled images a step" in words
    assert words[-1] == "digits (1,438 images) in place of cifar10 (50,000)"


def test_the_baseline_differs_in_the_method_alone() -> None:
    for table in SETTINGS:
        cell = chosen(cells_of(table), ["cifar10@250"])[0]
        entry = report_entry(cell, SMALL)
        mine, theirs = (fresh_document(e.config) for e in (entry, baseline_entry(entry, SMALL)))
        own = {"method", "warmup_epochs", cell.method}
        assert {k: v for k, v in mine.items() if k not in own} == {
            k: v for k, v in theirs.items() if k not in own
        }
        assert theirs["method"] == "supervised"
    # all of a column's cells share one
    folders = {
        baseline_entry(report_entry(c, SMALL), SMALL).folder(Path())
        for c in chosen(cells_of("table1"), ["cifar10@250"])
    }
    assert len(folders) == 1


def test_settings_concern_the_tables_that_know_them() -> None:
    budget = Budget(
        network="wrn-10-1", epochs=3, settings=("vat.iterations=1",), places={"cifar10": "digits"}
    )
    (vat,) = chosen(cells_of("table2"), ["cifar10@250"])
    assert report_entry(vat, budget).config.document()["vat"]["iterations"] == 1
    (pseudo,) = chosen(cells_of("table1"), ["cifar10@250,tau=0.6"])
    assert "vat" not in report_entry(pseudo, budget).config.document()
    for wrong, says in (
        ("vat.iter=1", r"unknown parameter 'vat.iter'.*vat.iterations"),
        ("pseudo_label.threshold=0.5", r"the threshold is the cell's own"),
        ("epochs=3", r"say it with --epochs"),
        ("data.label_seed=3", r"say it with --seeds"),
        ("lr", r"name=value"),
    ):
        with pytest.raises(ConfigError, match=says):
            report_entry(vat, Budget(settings=(wrong,), places={"cifar10": "digits"}))


def test_data_of_another_class_count_or_too_few_images_are_refused(tmp_path: Path) -> None:
    (cell,) = chosen(cells_of("table2"), ["cifar100@2500"])
    with pytest.raises(ConfigError, match=r"cifar100 has 100 classes, there are 10"):
        report_entry(cell, Budget(places={"cifar100": "digits"}))
    (cell,) = chosen(cells_of("table2"), ["cifar10@4000"])
    with pytest.raises(ConfigError, match=r"'digits'"):
        report_entry(cell, Budget(places={"cifar10": "digits"}))  # 400 of each class
    assert parse_places(["cifar10=folder:a"]) == {"cifar10": "folder:a"}
    for wrong in ("cifar10", "cifar10=", "mnist=folder:a"):
        with pytest.raises(ConfigError, match=r"--data .*cifar10=folder:PATH"):
            parse_places([wrong])


def test_a_searched_configuration_stands_for_a_column() -> None:
    cells = chosen(cells_of("table1"), ["cifar10@250"])
    searched = report_entry(cells[0], SMALL).config.document() | {
        "pseudo_label": {"threshold": 0.7, "accumulate": True},
        "stop_after_epoch": 2,
        "lr": 0.1,
    }
    entry = tuned_entry(cells, searched, SMALL, source="exported", rule="so")
    assert (entry.threshold, entry.config.lr, entry.config.stop_after_epoch) == (0.7, 0.1, None)
    assert entry.report == 66.682 and entry.report_note == "best of 3 thresholds, 0.95"
    # other epochs: the warm-up keeps its share, and what followed from the length of the run follows again
    longer = tuned_config(searched, "cifar10", Budget(epochs=300, places={"cifar10": "digits"}))
    assert longer.epochs == 300 and longer.warmup_epochs == 100
    assert searched["bn_momentum"] == 0.1 and longer.bn_momentum == 30 / 600


# What a table is written as

SPECIAL = r"a$b{c}d~e\f|g_h&i%j#k^l"


def table(text: str) -> dict[str, Any]:
    """A table of one cell, as `documents` makes it, with this text wherever a name may stand."""
    spread = {"values": [50.0, 52.0], "mean": 51.0, "std": 2**0.5, "interval": None}
    row = {
        "cell": text,
        "column": "cifar10@250",
        "source": "exported",
        "method": "vat",
        "threshold": None,
        "parameters": {"align": text, "xi": 10.0, "use_entmin": False},
        "data": "digits",
        "network": "wrn-10-1",
        "epochs": 2,
        "warmup_epochs": 0,
        "steps": 4000,
        "batch_size": 4,
        "mu": 1,
        "cut": ["4,000 of 33,600 steps"],
        "rule": f"lowest val/error of study {text}",
        "seeds": [1001, 1002],
        "failed": 0,
        "test_error": spread,
        "val_error": spread,
        "seconds": spread,
        "report": 50.5,
        "report_note": "",
        "published": None,
        "supervised": {"test_error": spread, "seconds": None, "rule": "untuned"},
        "difference": None,
    }
    return {
        "table": "table2",
        "title": f"Test error of {text}",
        "rows": [row],
        "choices": [],
        "fingerprint": {"processor": "one", "torch": "2", "ssl-tune": "0"},
        "git_revision": "abc",
        "made": "2026-01-01",
    }


def test_every_character_that_latex_would_read_as_a_command_is_escaped() -> None:
    text = latex(table(SPECIAL))
    escaped = r"a\$b\{c\}d\textasciitilde e\textbackslash f|g\_h\&i\%j\#k\textasciicircum l"  # a title, a cell, a note
    assert text.count(escaped) == 4  # title, cell, setting and note
    row = next(line for line in text.splitlines() if line.startswith(escaped))
    assert re.split(r"(?<!\\)&", row)[2] == r" 51.00 $\pm$ 1.41 (n = 2)$^\dagger$ "
    assert len(re.split(r"(?<!\\)&", row)) == len(COLUMNS)


def test_a_bar_in_a_cell_of_markdown_ends_no_column() -> None:
    lines = [line for line in markdown(table(SPECIAL)).splitlines() if line.startswith("|")]
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [len(COLUMNS) + 2] * 3


def test_the_csv_holds_whole_numbers_and_leaves_the_unknown_empty() -> None:
    (row,) = csv.DictReader(comma_separated(table('x, "y"')).splitlines())
    assert row["cell"] == 'x, "y"' and float(row["test_error_std"]) == 2**0.5
    assert (row["steps"], row["n"], row["threshold"], row["published"]) == ("4000", "2", "", "")
    assert (row["difference_mean"], row["supervised_seconds"], row["seconds"]) == ("", "", "51.0")
    assert (row["seeds"], row["test_errors"]) == ("1001 1002", "50 52")
