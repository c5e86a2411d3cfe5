"""What all tests share: one thread where torch runs, so that bits and times do not depend on the machine's load."""

from __future__ import annotations

import signal
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests that use Ray come first: they take longest, and side by side (-n) the rest fills the gaps."""
    slow = {item.path for item in items if "local_ray" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")  # not imported here: most tests outside ssl_core do without it
    if torch is not None:
        torch.set_num_threads(1)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: the shell has Ctrl-C ignored, and so would each command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
