"""The benchmark of `pseudo_label.pool`: a small run through its code, and its rule by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import pool
from benchmarks.pool import Key, Row, Setting, compared, declared, run_one, table, verdict
from benchmarks.rows import append, read_rows


def test_a_small_run_of_each_pool_gives_a_row_that_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RUNS", tmp_path)
    setting = Setting(labels=20, epochs=3, steps=2, batch_size=4, mu=2, valid=20)
    rows = [run_one(Key("digits", 0.11, 0, name), "", setting) for name in pool.POOLS]
    for row in rows:
        append(tmp_path / "pool.csv", row)
    assert read_rows(tmp_path / "pool.csv", Row) == rows
    every, some = rows
    assert every.epochs == some.epochs == 2  # one of the three is the warm-up
    assert every.predicted % 2 == 0 and every.predicted > 2000  # twice the pool
    assert 2 * 2 * 4 * 2 <= some.predicted < every.predicted


ROWS = [
    replace(
        Row(k.dataset, k.threshold, k.seed, k.pool, 10 + k.seed, 4, 8.0, 6.0, 4000),
        **({"seconds": 2.0, "processor_seconds": 1.0, "predicted": 400} if k.pool == "sampled" else {}),
    )
    for k in declared()
]


def worse(row: Row, by: float) -> Row:
    """A row of `sampled` with so many points more; alternating, so that differences spread."""
    away = by + (0.1 if row.seed % 2 else -0.1)
    return replace(row, val_error=row.val_error + away) if row.pool == "sampled" else row


def test_the_rule_takes_sampled_where_it_is_quicker_and_not_worse() -> None:
    assert verdict(compared([worse(row, 0.0) for row in ROWS])) == "sampled"
    # 0.4 with a half-width of 0.14: 0.54 is above the margin of 0.5
    assert verdict(compared([worse(row, 0.4) for row in ROWS])) == "all"
    slow = [replace(row, processor_seconds=9.0) if row.pool == "sampled" else row for row in ROWS]
    assert verdict(compared([worse(row, 0.0) for row in slow])) == "all"
    assert verdict(compared(ROWS[:-2])).startswith("not decided yet")
    assert verdict([]).startswith("not decided yet")


def test_the_table_compares_pairs_alone() -> None:
    half = [row for row in ROWS if row.seed < 2 or (row.seed == 2 and row.pool == "all")]
    lines = compared(half)
    assert len(lines) == 4 and all(line["seeds"] == 2 for line in lines)
    assert lines[0]["seconds_all"] == 2.0 and lines[0]["seconds_sampled"] == 0.5
    assert lines[0]["predicted_all"] == 1000 and lines[0]["predicted_sampled"] == 100
    assert len(list(table(half))) == 2 + 4 + 2
