"""`train --final --refit`, and the places where a refit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_pictures
from tune.store.home import Home

Command = Callable[..., Done]


def test_an_exported_configuration_is_trained_on_all_labels(
    finished: Home, readable: None, ssl_tune: Command, tmp_path: Path
) -> None:
    exported, out = tmp_path / "best.yaml", tmp_path / "run"
    tune.export("shapes", exported, home=finished.path)
    words = ["train", "--config", exported, "--out", out]
    done = ssl_tune(*words, "--refit")
    assert done.code == 2 and "--refit trains on the validation images too" in done.err and not out.exists()
    done = ssl_tune(*words, "--final", "--refit")
    assert done.code == 0, done.err
    assert "trained on training and validation images, test/error" in done.out and "val/error" not in done.out
    assert "val/error" not in done.err and "the same as exported" not in done.out
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["refit"] is True and "val_error" not in result
    (reading,) = (json.loads(line) for line in (out / "test-readings.jsonl").read_text().splitlines())
    assert reading["config"]["refit"] is True and reading["test_error"] == result["test_error"]
    again = ssl_tune("train", "--resume", "--out", out, "--final", "--json")
    assert again.code == 0 and again.document == result
    drawn = ssl_tune("figures", out)
    names = [Path(line).name for line in drawn.out.split()]
    assert drawn.code == 0 and names == ["learning_curves.png", "pseudo_labels.png", "confusion_test.png"]


def test_a_search_refuses_a_refit(home: Home, tmp_path: Path, ssl_tune: Command) -> None:
    folder = make_pictures(tmp_path / "pictures")
    done = ssl_tune("plan", "--dataset", f"folder:{folder}", "--labels", 12, "--set", "refit=true")
    assert done.code == 2 and "refit" in done.err
    with pytest.raises(ConfigError, match=r"refit = True: a search needs the validation images"):
        tune.search(dataset=f"folder:{folder}", labels=12, settings={"refit": True}, quiet=True)
    assert not home.path.exists()
