"""The training-speed benchmarks run, small, through their real commands; no time is asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import decode, networks, operations, pool_pass, pretrained, train_step, versions, views
from benchmarks.memory import usage
from benchmarks.plain_recipe import METHODS
from ssl_core.registry import method_names

TINY = [
    *("--networks", "wrn-10-1", "--batch", "4", "--mu", "2", "--side", "8"),
    *("--steps", "2", "--rounds", "1", "--threads", "1", "--device", "cpu"),
]


@pytest.mark.long
def test_train_step_gives_a_row_for_every_method_and_variant() -> None:
    """By its path, as `python benchmarks/train_step.py` is called."""
    script = Path(train_step.__file__)
    words = [sys.executable, str(script), *TINY, "--workers", "0", "--json", "--all"]
    rows = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    variants = [(row["method"], row["setting"]["parameters"].get("weak_forward", "joint")) for row in rows]
    assert [method for method, variant in variants if variant == "joint"] == sorted(METHODS)
    assert set(METHODS) <= set(method_names())
    assert [m for m, v in variants if v == "separate"] == ["attention_fixmatch", "fixmatch", "flexmatch"]
    for row in rows:
        assert (row["network"], row["device"], row["compile"]) == ("wrn-10-1", "cpu", False)
        assert row["precision"] in ("float32", "bfloat16")
        rates = [row[f"{name}images_per_second"] for name in ("", "recipe_", "bare_")]
        numbers = [*rates, row["ratio_to_recipe"], row["ratio_to_bare"], row["bare_to_recipe"]]
        numbers += [row["matrix_share"], row["matrix_rate"]]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row["method"]
        assert row["ratio_to_bare"] == pytest.approx(rates[0] / rates[2])  # one round: no median between


def test_a_precision_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ssl_core.system.environment.has_fast_cpu_bfloat16", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        train_step.main([*TINY, "--precision", "bfloat16"])
    assert "does not compute it in hardware; it has float32 and float64" in capsys.readouterr().err


def test_the_table_shows_ratios_of_the_same_round(capsys: pytest.CaptureFixture[str]) -> None:
    cell = train_step.cell_of(method="fixmatch", network="wrn-10-1", device="cpu", precision="float32")
    rates: dict[train_step.Name, list[float]] = {
        "ours": [10.0, 40.0, 30.0],
        "plain": [5.0, 10.0, 10.0],
        "bare": [20.0, 40.0, 60.0],
    }
    row = train_step.Row(cell, rates, flops=600, slice_images=3, matrix_rate=10_000.0, peak_bytes=0)
    *_, line = train_step.table([row], on_gpu=False)
    # medians 30, 10, 40; of 2, 4, 3; of 1/2, 1, 1/2; of 4, 4, 6; 600 / 3 * 30 of 10,000
    assert line == "| fixmatch | wrn-10-1 | 30 | 10 | 40 | 3.00 | 0.50 | 4.00 | 60% |"


def test_views_gives_a_line_for_each_way(capsys: pytest.CaptureFixture[str]) -> None:
    views.main(["--rounds", "1", "--batch", "2", "--side", "8"])
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [line[1].strip() for line in lines] == list(views.WAYS)
    assert all(float(line[2]) > 0 for line in lines)
    assert all(float(line[3]) > 0 for line in lines[1:])


def test_every_way_to_predict_a_pool_has_its_rate_and_the_plain_way_s_logits() -> None:
    plain, *others = pool_pass.measure("wrn-10-1", 3, compiled=False, passes=1)
    assert (plain.way, plain.precision, plain.difference) == ("plain", "float32", 0.0)
    assert {row.way for row in others} == {"as it is", "folded"}
    for row in others:
        assert row.rate > 0
        assert row.difference < (1e-5 if row.precision == "float32" else 0.1)
    head, _, first, *lines = pool_pass.table([plain, *others])
    assert f"| {plain.rate:.0f} | 1.00 | |" in first
    assert len(lines) == len({(row.way, row.precision) for row in others})
    assert all(line.count("|") == head.count("|") for line in (first, *lines))


def test_memory_of_a_mapped_file_is_told_apart(tmp_path: object) -> None:
    import numpy as np

    path = f"{tmp_path}/images.npy"
    np.save(path, np.ones(2**20, dtype=np.uint8))
    mapped = np.load(path, mmap_mode="r")
    assert mapped.sum() == 2**20
    found = usage(tmp_path)  # type: ignore[arg-type]
    assert 0.9 <= found.images_resident <= 1.5
    assert found.images_proportional <= found.images_resident < found.resident
    assert found.proportional <= found.resident


def test_decode_compares_neighbours_and_looks_at_tiny_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decode.main(["--images", "20", "--rounds", "2", "--place", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = [(row["what"], row["images"]) for row in found["rows"]]
    assert [images for what, images in rows if what == decode.OURS] == [5, 5, 20, 20]
    assert all(rows[i + 1][0] != what for i, (what, _) in enumerate(rows) if what == decode.OURS)
    rates = [row["images_per_second"] for row in found["rows"]]
    first, second = (2 * rates[i] / (rates[i - 1] + rates[i + 1]) for i in (1, 3))
    assert found["ratios"]["5"] == pytest.approx((first + second) / 2)
    for row in found["rows"]:
        assert row["processor_ms"] >= 0 and 1 < row["peak_anonymous_mib"] < 1500
    decode.main(["--tiny", "100", "--place", str(tmp_path)])
    assert capsys.readouterr().out.startswith("inspect                  105 images")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_run_with_less_memory_than_its_images_file(tmp_path: Path) -> None:
    """Small: what is checked is that the limit is set before torch is loaded, and that both ways have the same bits."""
    words = [sys.executable, "-m", "benchmarks.limited", "--images", "40", "--limit", "4096"]
    done = subprocess.run([*words, "--place", str(tmp_path)], check=True, capture_output=True, text=True)
    gathered, mapped = (line.partition("val/loss")[2] for line in done.stdout.splitlines())
    assert gathered == mapped and "split" in gathered
    words[-1] = "64"
    failed = subprocess.run([*words, "--place", str(tmp_path)], check=False, capture_output=True, text=True)
    assert failed.returncode != 0


def test_a_network_s_row_is_measured() -> None:
    row = networks.measure("wrn-10-1", 8, "float32")
    assert (row["network"], row["precision"], row["stem"]) == ("wrn-10-1", "float32", "auto")
    assert row["parameters"] == 77_850
    assert row["step_seconds"] > 0 and row["memory_mib"] >= 0


def test_the_pretrained_case_is_compared_over_the_seeds_that_both_starts_have() -> None:
    errors = {
        ("random", 0): 60.0,
        ("FILE", 0): 50.0,
        ("random", 1): 64.0,
        ("FILE", 1): 56.0,
        ("random", 2): 1.0,
    }
    rows = [pretrained.Row("fixmatch", start, seed, 0, e, 0, "") for (start, seed), e in errors.items()]
    line = list(pretrained.table(rows))[-1]
    assert line == "| fixmatch | 2 | 62.00 ± 2.83 | 53.00 ± 4.24 | -9.00 ± 1.41 |"
    assert len(pretrained.declared()) == 12


@pytest.mark.parametrize("method", operations.METHODS)
def test_a_step_asks_for_a_quarter_of_the_operations_of_version_0_1_0(method: str) -> None:
    assert operations.count(method).total() / operations.STEPS <= operations.BEFORE[method] / 4


def test_an_operation_more_in_a_step_is_counted_once_and_that_of_a_stand_in_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, step = operations.count("supervised", steps=5), operations.loop.train_step

    def more(*arguments: Any) -> Any:
        torch.nn.functional.softmax(torch.ones(3), dim=0)  # ones, and softmax with what it is made of
        with torch.profiler.record_function(operations.STAND_IN):
            torch.ones(3).sum()
        return step(*arguments)

    monkeypatch.setattr(operations.loop, "train_step", more)
    after = operations.count("supervised", steps=5)
    assert after - before == {"aten::ones": 5, "aten::softmax": 5} and before - after == {}


def test_two_checkouts_are_compared_in_turns(capsys: pytest.CaptureFixture[str]) -> None:
    root = str(Path(versions.__file__).parent.parent)
    versions.main([root, "--methods", "supervised", "--seconds", "0", "--steps", "1", "--threads", "1"])
    *_, line = capsys.readouterr().out.splitlines()
    method, network, *numbers = [cell.strip() for cell in line.strip("|").split("|")]
    assert (method, network) == ("supervised", "wrn-10-1")
    assert all(float(number) > 0 for number in " ".join(numbers).split())
