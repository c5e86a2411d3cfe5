"""Of the processes that Ray starts beside its workers, those that a study on one machine needs.

Ray's core and a process of workers are needed. Ray starts five more, each a Python that takes half a second to a
second and a half of a processor, and `ray.init` waits for some of them:

- an API server: all that it has to do without a dashboard are usage statistics, which are off;
- a monitor, which adds machines to a cluster;
- a monitor of logs, which prints what workers write: `log_to_driver` is off;
- an agent beside the workers, which Ray insists on: it starts without what belongs to the dashboard, as where Ray is
  installed without its extra `default`;
- an agent that prepares environments of workers, which Ray insists on, too.

What is replaced here is not part of Ray's interface. Where a version of Ray lacks it, all processes are started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ray._private import node, services, utils

PRESTART = "--num_prestart_python_workers="
"""Of the process of workers: how many it starts before anybody asks for one. Ray names as many as processors."""


@contextmanager
def few_processes(workers: int) -> Iterator[None]:
    """For a Ray that is started in the block.

    Args:
        workers: how many worker processes start at once, rather than with the first trials.
    """
    with ExitStack() as stack:
        for name in ("start_api_server", "start_monitor", "start_log_monitor"):
            _replace(stack, node.Node, name, lambda original: _nothing)
        _replace(stack, utils, "get_dashboard_dependency_error", lambda original: _no_dashboard)
        _replace(stack, services, "start_ray_process", lambda original: _prestarting(original, workers))
        yield


def _replace(stack: ExitStack, owner: Any, name: str, by: Callable[[Any], Any]) -> None:
    original = getattr(owner, name, None)
    if original is not None:
        setattr(owner, name, by(original))
        stack.callback(setattr, owner, name, original)


def _nothing(self: Any, **_: Any) -> None:
    """A process that is not started."""


def _no_dashboard() -> ImportError:
    return ImportError("a study on one machine has no dashboard")


def _prestarting(original: Callable[..., Any], workers: int) -> Callable[..., Any]:
    def start(command: list[str], *arguments: Any, **named: Any) -> Any:
        command = [f"{PRESTART}{workers}" if str(word).startswith(PRESTART) else word for word in command]
        return original(command, *arguments, **named)

    return start
