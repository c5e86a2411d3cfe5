"""What was measured on this machine is found again by all that it depends on, and a damaged file costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssl_core.system import measured
from ssl_core.system.measured import Measured

WHAT = {"step of": {"method": "vat", "threads": 2}, "on": {"processor": "x", "torch": "2"}}


def test_numbers_are_found_again_by_all_that_they_depend_on(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "measured.json"
    kept = Measured(path)
    assert kept.get(WHAT) is None and not path.exists()
    kept.keep(WHAT, [1.5, 2.0])
    assert Measured(path).get({"on": WHAT["on"], "step of": WHAT["step of"]}) == [1.5, 2.0]
    for other in (
        {**WHAT, "on": {"processor": "y", "torch": "2"}},
        {**WHAT, "step of": {"method": "vat", "threads": 1}},
    ):
        assert kept.get(other) is None
        kept.keep(other, [3.0])
    assert kept.get(WHAT) == [1.5, 2.0]
    kept.keep(WHAT, [4.0])
    assert kept.get(WHAT) == [4.0]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', '{"a": {"numbers": ["x"], "at": 1.0}}', "\xff"])
def test_a_damaged_file_counts_as_empty_and_is_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measured.json"
    path.write_text(text)
    kept = Measured(path)
    assert kept.get(WHAT) is None
    kept.keep(WHAT, [1.0])
    assert kept.get(WHAT) == [1.0] and len(json.loads(path.read_text())) == 1


def test_nothing_is_kept_without_a_file_or_where_it_cannot_be_written(tmp_path: Path) -> None:
    Measured(None).keep(WHAT, [1.0])
    assert Measured(None).get(WHAT) is None
    (tmp_path / "file").write_text("")
    inside = Measured(tmp_path / "file" / "measured.json")
    inside.keep(WHAT, [1.0])
    assert inside.get(WHAT) is None


def test_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST", 2)
    kept = Measured(tmp_path / "measured.json")
    for number in range(3):
        kept.keep({"number": number}, [float(number)])
    assert [kept.get({"number": number}) for number in range(3)] == [None, [1.0], [2.0]]
