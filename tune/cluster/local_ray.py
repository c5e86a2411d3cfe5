"""Ray on this machine: started as small as a study needs it, and early, since that takes seconds.

Importing this file loads Ray's core alone: neither Ray Tune nor torch.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# Read by Ray when it is imported or started: no usage statistics, no CSV, JSON or TensorBoard files for
# every trial, no change of directory in workers, no handler of Ray's own for Ctrl-C (ours stops the study resumably),
# no complaint over a report that ends a trial without a metric, and no traceback of a failed trial amid our progress
# (it is kept with the trial).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
# No snapshots of Ray's experiment: it is never restored, and they grow with every trial.
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
# Ray's own guard kills a worker before the machine is out of memory, and Ray Tune then ends the whole experiment. The
# kernel kills one too, and the study goes on.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
# Read by Ray's own processes: workers start as soon as the driver is there, and so load torch while it reads the data.
os.environ.setdefault("RAY_prestart_worker_first_driver", "1")

import ray as ray
from ray._private import ray_constants, state

from tune.cluster.capacity import Machine, check_fit
from tune.cluster.few_processes import few_processes
from tune.cluster.gpus import gpu_count
from tune.cluster.ray_folder import ray_folder
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 100 * 1024**2  # nothing large goes through it: images are memory maps
WORKER_SECONDS, POLL_SECONDS = 60.0, 0.05
"""How long to wait for workers (Ray itself gives up one that takes longer), and how often to look."""
ATTEMPTS = 3  # Ray gives its processes 30 s (one of them 15 s), which is little on a busy machine


def start_ray(cpus: int, preload: str, workers: int | None = None) -> None:
    """Start Ray on this machine.

    Args:
        cpus: processors that it gives to trials: `cpus_for` a study.
        preload: the module that workers load when they start, rather than with their first trial. Ray does not say
            so where it cannot be imported: trials then wait for seconds.
        workers: how many workers start at once, as many as trials run side by side; each takes seconds of a processor
            and, with torch, most of a gigabyte. None: one for each processor.

    Raises:
        ConfigError: there is no folder that Ray's sockets fit in.
        ServiceError: the machine is too busy for it.
    """
    global _started_with, _awaited
    # More than processors would be ended again as idle.
    workers = cpus if workers is None else min(workers, cpus)
    os.environ.setdefault("RAY_preload_python_modules", preload)  # read by the processes that are started now
    os.environ["RAY_TMPDIR"] = str(ray_folder())
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for _ in range(ATTEMPTS):
        try:
            with _on_loopback(), few_processes(workers):
                ray.init(
                    address="local",  # not a cluster that happens to run here, or to be in RAY_ADDRESS
                    num_cpus=cpus,
                    # Ray itself asks NVML, which a container may lack: trials would wait for ever.
                    num_gpus=gpu_count(),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address=LOOPBACK,
                )
            _started_with, _awaited = workers, False
            break
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    else:
        raise ServiceError(
            f"Ray did not start within 30 s, {ATTEMPTS} times: other programs take this machine's processors. "
            "Try again when it is less busy.",
            Exit.UNREACHABLE,
        )
    if threading.current_thread() is threading.main_thread() and on_sigterm is not None:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process where it stands


@contextmanager
def _on_loopback() -> Iterator[None]:
    """For a Ray that is started in the block: all of its ports listen on loopback alone.

    Ray replaces 127.0.0.1 by an address that others reach, on Linux, unless it is told that there is one machine
    (`ray._private.services.resolve_ip_for_localhost`); a driver of a cluster must not be told so.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    told = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that are started
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if told is None:
            del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        else:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = told


class _Starter(threading.Thread):
    """Starts Ray, and lives until Ray has ended: the system kills Ray's processes when their thread is gone."""

    def __init__(self, cpus: int, preload: str, workers: int | None) -> None:
        super().__init__(name="ray", daemon=True)
        self._cpus, self._preload, self._workers = cpus, preload, workers
        self.started, self.ended = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            start_ray(self._cpus, self._preload, self._workers)
        except BaseException as error:  # given to whoever waits for Ray
            self.error = error
        self.started.set()
        self.ended.wait()


_starter: _Starter | None = None
_started_with: int | None = None  # workers, where Ray is this process's own
_awaited = False


@contextmanager
def starting(cpus: int, preload: str, workers: int | None = None) -> Iterator[None]:
    """Start Ray in the background when the block begins, and end it with the block. As `start_ray`.

    A Ray that runs in this process already is left as it is.
    """
    global _starter
    if _starter is not None or ray.is_initialized():
        yield
        return
    _starter = _Starter(cpus, preload, workers)
    _starter.start()
    try:
        yield
    finally:
        _starter.started.wait()
        _end_ray()
        _starter.ended.set()
        _starter = None


def is_running() -> bool:
    """Whether Ray runs in this process; waits for one that is being started."""
    if _starter is not None:
        _starter.started.wait()
        if _starter.error is not None:
            raise _starter.error
    return bool(ray.is_initialized())


def workers_inherit() -> bool:
    """Whether workers have this process's environment: its own Ray, rather than a cluster or one of the user's."""
    return _started_with is not None and ray.is_initialized()


def await_workers(given_up: Callable[[], bool] = lambda: False) -> None:
    """Wait until the workers that started with Ray are there: whoever asks for one earlier has another one started.

    Args:
        given_up: asked again and again; nothing is waited for once it is true.
    """
    global _awaited
    end = time.monotonic() + WORKER_SECONDS
    while workers_inherit() and not _awaited and time.monotonic() < end and not given_up():
        _awaited = len(state.workers()) >= (_started_with or 0)  # type: ignore[no-untyped-call]
        time.sleep(0.0 if _awaited else POLL_SECONDS)
    _awaited = True


def _take_signals_back() -> None:
    """See that Ctrl-C and SIGTERM reach Python's handlers.

    A Ray that another thread has started puts its own in their place, below Python: it prints a stack, passes the
    signal on and aborts the process three seconds later (absl's failure_signal_handler.h, alarm_on_failure_secs).
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


@contextmanager
def running(
    cpus: int, preload: str, workers: int | None = None, trial: Mapping[str, float] | None = None
) -> Iterator[None]:
    """Ray for the block: the one that this process has, or else a new one that ends with it. As `start_ray`.

    Args:
        cpus, preload, workers: as for `start_ray`.
        trial: what is reserved for a trial ("cpu", "gpu"): a Ray that this process has may be the user's own, and too
            small for one, which would wait for ever. None: a cluster, whose room was looked at, and which may grow.

    Raises:
        ConfigError: the Ray that this process has holds no trial; says what it has.
    """
    if is_running():
        _take_signals_back()
        if trial is not None:
            _check_room(trial["cpu"], trial["gpu"])
        yield
        return
    start_ray(cpus, preload, workers)
    try:
        yield
    finally:
        _end_ray()


def _check_room(cpus: float, gpus: float) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    machines = [
        Machine(node["NodeName"], node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0))
        for node in nodes
    ]
    check_fit(machines, math.ceil(cpus), gpus)


def _end_ray() -> None:
    global _started_with
    ray.shutdown()
    _started_with = None


def resources(spec: StudySpec) -> dict[str, float]:
    """What Ray reserves for a trial."""
    if spec.address is not None:
        return {"cpu": int(spec.config["threads"]), "gpu": spec.gpus_per_trial}
    # Threads are what a trial computes with; Ray counts a processor for each, but never more than there are.
    cores = max(len(os.sched_getaffinity(0)), spec.concurrent)
    threads = min(int(spec.config["threads"]), cores // spec.concurrent)
    return {"cpu": max(1, threads), "gpu": spec.gpus_per_trial}


def reserved(spec: StudySpec) -> dict[str, float] | None:
    """As `resources`, where the study runs on this machine; None: on a cluster."""
    return resources(spec) if spec.address is None else None


def cpus_for(spec: StudySpec) -> int:
    """Processors that Ray on this machine needs for a study: what its trials reserve, side by side."""
    return int(spec.concurrent * resources(spec)["cpu"])
