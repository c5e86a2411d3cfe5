"""What all tests share: one thread where torch runs, so that bits and times do not depend on the machine's load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # so that `tests.tiny` is found, however pytest is started


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--method", metavar="NAME|file:PATH", help="run tests/ssl_core/test_methods.py over this method alone"
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")  # not imported here: most tests outside ssl_core do without it
    if torch is not None:
        torch.set_num_threads(1)


UNSETTLED = {
    "tests/tune/test_confirm.py::test_a_confirmation_that_was_killed": (
        "Ctrl-C was lost in one of a dozen runs; cause unknown"
    ),
}
"""Tests that fail now and then, for a reason that is not known: they run, and their outcome is shown (-ra), but does
not fail the suite. To be emptied, not extended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what is not settled yet fail visibly without failing the suite."""
    for item in items:
        for start, reason in UNSETTLED.items():
            if item.nodeid.startswith(start):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
