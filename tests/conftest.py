"""What all tests share: one thread where torch runs, so that bits and times do not depend on the machine's load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # so that `tests.tiny` is found, however pytest is started


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")  # not imported here: most tests outside ssl_core do without it
    if torch is not None:
        torch.set_num_threads(1)
