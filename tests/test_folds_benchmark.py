"""The benchmark of folds against one split: which configuration each rule chooses, and what it is charged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import folds
from benchmarks.folds import FOLDS, FRESH, POOLS, Pool, Row, all_folds, asha, one_split, pools_of


def pool_of(errors: list[list[float]], fresh: list[float] | None = None) -> Pool:
    error = np.array(errors)
    held = error + 1.0
    return Pool(error, error / 50, held, np.array(fresh or [row[0] for row in errors]))


def test_each_rule_by_hand() -> None:
    # Configuration 0 is lucky on fold 0; 3 is best over all folds; 5 diverged.
    pool = pool_of([[2, 40, 40], [20, 20, 20], [30, 30, 30], [10, 8, 6], [50, 50, 50], [np.inf] * 3])
    order = np.arange(6)
    assert one_split(pool, order, 6) == 0
    assert all_folds(pool, order, 6) == 1  # two configurations, with means of 27.3 and 20
    assert all_folds(pool, order[[1, 3, 0]], 9) == 3


def test_all_folds_pay_for_every_training() -> None:
    pool = pool_of([[2, 40, 40], [20, 20, 20], [30, 30, 30], [10, 8, 6]])
    assert all_folds(pool, np.array([0, 1, 2, 3]), 6) == 1
    assert one_split(pool, np.array([1, 2, 0, 3]), 2) == 1


def test_asha_spends_what_there_is_and_gives_a_bad_configuration_no_second_fold() -> None:
    pool = pool_of([[20, 20, 20], [30, 1, 1], [10, 8, 6], [40, 1, 1], [5, 90, 90]])
    # 0 comes to each rung first (3 trainings), 1 is stopped (1), 2 is better than both (3): 7 in all.
    assert asha(pool, np.arange(5), 7) == 2
    # 3 is stopped (1), 4 has its second fold (2) and no third: the two with all folds are compared.
    assert asha(pool, np.arange(5), 10) == 2
    # After two trainings nobody has all folds: what counts is fold 1 of the one that has it.
    assert asha(pool, np.array([3, 2, 0, 1, 4]), 2) == 3
    with pytest.raises(ValueError, match="too few for 40 trainings"):
        asha(pool, np.arange(5), 40)


def rows_of(pool: int, number: int, error: float) -> list[Row]:
    keys = [(fold, 0) for fold in range(FOLDS)] + [(0, FRESH)]
    return [Row(pool, number, fold, seed, error, error / 50, error + fold, 2.0) for fold, seed in keys]


def test_rows_are_kept_and_read_and_configurations_that_are_not_whole_left_out(tmp_path: Path) -> None:
    rows = [*rows_of(0, 0, 10.0), *rows_of(0, 1, float("nan")), *rows_of(0, 2, 30.0)[:3]]
    for row in rows:
        folds.append(row, tmp_path / "folds.csv")
    again = folds.read(tmp_path / "folds.csv")
    assert len(again) == len(rows) and again[0] == rows[0] and np.isnan(again[4].val_error)
    first, *others = pools_of(again)
    assert all(len(pool.fresh) == 0 for pool in others) and len(others) == len(POOLS) - 1
    np.testing.assert_array_equal(first.error, [[10.0] * FOLDS, [np.inf] * FOLDS])
    np.testing.assert_array_equal(first.held, [[10.0, 11.0, 12.0], [90.0] * FOLDS])
    assert first.fresh.tolist() == [10.0, 90.0]


def test_with_few_configurations_nothing_is_compared_and_with_enough_every_rule_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(folds.table(rows_of(0, 0, 10.0)))[-1] == "No pool has 12 configurations yet."
    monkeypatch.setattr(folds, "DRAWS", 40)
    monkeypatch.setattr(folds, "BOOTSTRAPS", 3)
    chance = np.random.default_rng(0)
    rows = []
    for number in range(40):
        true = 10.0 + number
        keys = [(fold, 0) for fold in range(FOLDS)] + [(0, FRESH)]
        for fold, seed in keys:
            seen = true + chance.normal(0, 30)  # one validation set tells next to nothing
            rows.append(Row(0, number, fold, seed, max(seen, 0.0), 1.0, true, 2.0))
    lines = list(folds.table(rows))
    assert "configurations of each pool: [40, 0, 0]" in lines[0] and lines[1].startswith("rank correlation")
    cells = [line.split(" | ") for line in lines if line.startswith("| 18")]
    found = {cell[1]: float(cell[2].split(" ± ")[0]) for cell in cells}
    assert set(found) == set(folds.RULES)
    assert all(0 <= regret <= 39 for regret in found.values())
