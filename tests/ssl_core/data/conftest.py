"""Fixtures of the data layer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ssl_core.data.helpers import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cats and four dogs to train on, two of each to test on."""
    return write_folder(tmp_path / "pets", {"cat": 3, "dog": 4})
