"""What all tests share: one thread where torch runs, so that bits and times do not depend on the machine's load."""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # so that `tests.tiny` is found, however pytest is started


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--method", metavar="NAME|file:PATH", help="run tests/ssl_core/test_methods.py over this method alone"
    )


@pytest.hookimpl(optionalhook=True)  # of xdist, which one file's tests do without
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto` one process more than there are processors: tests wait for servers and clocks, too."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are no name of a test: a compressed file holds the time, and processes must agree on the names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def own_proxies() -> Iterator[None]:
    """urllib keeps the proxies of the environment in which a process asked first: no test keeps another's."""
    yield
    urllib.request.install_opener(None)  # the next request reads them again


LONGEST = (
    "test_remote",
    "test_confirm",
    "test_interrupt",
    "test_faults",
    "test_service_benchmarks",
    "test_report",
    "test_search",
    "test_home_of_before",
    "test_doors",
    "test_reproduce",
    "test_docs",
    "test_own_method",
    "test_study",
    "test_compiled",
    "test_run_contents",
    "test_benchmarks",
)
"""Files that take longest, the longest first: those that are left are minutes of nothing else at the end."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side (-n, --dist loadgroup) the longest come first, and the rest fills the gaps.

    A file's tests share what they set up and stay together. All that use the MLflow server stay together as well: it
    takes seconds to start, and a test that stops it must be alone with it.
    """
    served = {item.path for item in items if "mlflow_server" in getattr(item, "fixturenames", ())}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("mlflow server" if item.path in served else item.path.stem))

    def rank(item: pytest.Item) -> tuple[int, int]:
        if item.path in served:
            return 0, 0
        place = LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)
        return 1, place

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")  # not imported here: most tests outside ssl_core do without it
    if torch is not None:
        torch.set_num_threads(1)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script: the shell has Ctrl-C ignored, and so would each command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
