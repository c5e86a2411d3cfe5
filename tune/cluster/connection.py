"""An existing Ray cluster: getting in, what its machines have, and what must be the same on all of them.

A study's driver runs on a machine of the cluster (`ray start` was run there); from elsewhere, `tune.cluster.jobs`
sends it there. Everything that would make trials fail later is looked for before the first one starts: a machine that
sees other folders, or has other versions than the driver.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

from ssl_core.config import from_document
from ssl_core.system.errors import ConfigError, MemoryExhaustedError, NonFiniteError
from tune.cluster.capacity import Machine, places
from tune.definition.spec import StudySpec
from tune.errors import Exit, ServiceError

CONNECT_SECONDS = 5.0
ROOM_SECONDS = 3.0
WORKER_VARIABLES = (
    "RAY_CHDIR_TO_TRIAL_DIR",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
)
"""What `tune.cluster.local_ray` sets for the workers of this machine: a cluster's workers are told of it."""


def _ray() -> Any:
    """Ray, whose own annotations are partial."""
    return importlib.import_module("ray")


def _services() -> Any:
    return importlib.import_module("ray._private.services")


def check_address(address: str) -> None:
    """Raise ConfigError unless this can be a cluster's address."""
    if address == "auto":
        return
    if "://" in address:
        raise ConfigError(
            f"--address {address}: this is the address of a job server or a client. Name the cluster as HOST:PORT "
            "(6379 is usual) or auto on one of its machines; from elsewhere, send the study with `ssl-tune submit`."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address!r}: HOST:PORT or auto is expected, such as ray-head:6379.")


def _resolved(address: str) -> str:
    """HOST:PORT of `auto`: the cluster that this machine belongs to."""
    if address != "auto":
        return address
    for known in (os.environ.get("RAY_ADDRESS"), _services().find_bootstrap_address(None)):
        if known and known != "auto" and "://" not in known:
            return str(known)
    found = _services().find_gcs_addresses()
    if not found:
        raise ServiceError(
            "--address auto: this machine belongs to no Ray cluster. Join one with `ray start --address=HOST:6379`, "
            "or send the study to one with `ssl-tune submit`.",
            Exit.UNREACHABLE,
        )
    return str(sorted(found)[0])


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether an HTTP/2 server, such as gRPC's, is at the other end: its first frame is SETTINGS (RFC 9113, 3.4).

    Asked first, since Ray's own client tries for 40 s to find out.
    """
    connection.settimeout(CONNECT_SECONDS)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
    head = b""
    try:
        while len(head) < 4 and (more := connection.recv(4 - len(head))):
            head += more
    except OSError:  # silent until the end of our patience, or gone
        return False
    return len(head) == 4 and head[3] == 4


def check_door(address: str) -> None:
    """Within seconds: whether a cluster answers there and lets us in.

    Raises:
        ConfigError: this cannot be an address.
        ServiceError: nobody answers, or the token is not the cluster's.
    """
    from ray._private.authentication.authentication_token_setup import (  # loads Ray
        maybe_enable_token_auth_if_token_available,
    )

    ray = _ray()
    check_address(address)
    address = _resolved(address)
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as connection:
            speaks = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_http2(connection)
    except OSError as error:
        raise ServiceError(
            f"the Ray cluster at {address} does not answer ({error.strerror or error}). Is its head running "
            "(`ray status` there), and may this machine reach that port?",
            Exit.UNREACHABLE,
        ) from None
    if not speaks:
        raise ServiceError(
            f"what answers at {address} is not a Ray cluster: it does not speak gRPC. Is 6379 the port of its head?",
            Exit.UNREACHABLE,
        )
    try:
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        ray._raylet.GcsClient(address=address).get_all_node_info(timeout=CONNECT_SECONDS)
    except ray.exceptions.AuthenticationError:
        raise ServiceError(
            f"the Ray cluster at {address} refuses the token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
            "file with the cluster's token (or RAY_AUTH_TOKEN to the token itself).",
            Exit.UNREACHABLE,
        ) from None
    except (ray.exceptions.RayError, RuntimeError, TimeoutError, ValueError) as error:
        raise ServiceError(
            f"what answers at {address} is not a Ray cluster that this version understands ({error}).",
            Exit.UNREACHABLE,
        ) from None


def is_open(address: str) -> bool:
    """Whether a cluster lets in callers that know no token. Asked by a process that has none."""
    code = "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    stranger = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    words = [sys.executable, "-c", code, _resolved(address)]
    done = subprocess.run(words, env=environment | stranger, capture_output=True, timeout=60, check=False)
    return done.returncode == 0


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be a driver of the cluster inside the block; None: nothing to do.

    Raises:
        ConfigError, ServiceError: as `check_door`, or this machine is not one of the cluster.
    """
    from tune.cluster import local_ray  # before Ray: it sets what Ray reads when it is imported

    if address is None:
        yield
        return
    ray, services = _ray(), _services()

    check_door(address)
    resolved = _resolved(address)
    if local_ray.is_running():
        here = str(ray.get_runtime_context().gcs_address)
        if here != resolved:
            raise ConfigError(
                f"--address {address}: this process is a driver of the Ray cluster at {here} already. Call "
                "ray.shutdown() first, or leave the address out."
            )
        yield
        return
    if not services.find_node_ids():
        raise ServiceError(
            f"this machine is not one of the Ray cluster at {resolved}, and a study is driven from within. Join it "
            f"with `ray start --address={resolved} --num-cpus=0`, or use `ssl-tune submit`.",
            Exit.UNREACHABLE,
        )
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=resolved,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {n: os.environ[n] for n in WORKER_VARIABLES if n in os.environ}},
        )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ServiceError(
            f"the Ray cluster at {resolved} cannot be joined: {str(error).strip().splitlines()[0]}",
            Exit.UNREACHABLE,
        ) from None
    if threading.current_thread() is threading.main_thread() and on_sigterm is not None:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends the process where it stands
    try:
        yield
    finally:
        ray.shutdown()


def machines() -> list[Machine]:
    """The machines that are there now and give anything to trials."""
    ray = _ray()
    found = []
    for node in ray.nodes():
        resources = node.get("Resources", {})
        if node["Alive"] and resources.get("CPU", 0) >= 1:
            name = node["NodeManagerHostname"] or node["NodeName"]
            found.append(Machine(name, float(resources["CPU"]), float(resources.get("GPU", 0))))
    return sorted(found, key=lambda machine: machine.name)


class Room:
    """How many of a study's trials the cluster holds at the moment, looked at every few seconds."""

    def __init__(self, spec: StudySpec) -> None:
        self._threads, self._gpus = int(spec.config["threads"]), spec.gpus_per_trial
        self._room, self._until = 0, 0.0

    def __call__(self) -> int:
        if time.monotonic() >= self._until:
            self._room = places(machines(), self._threads, self._gpus)
            self._until = time.monotonic() + ROOM_SECONDS
        return self._room


def chosen_there(
    document: Mapping[str, Any], threads: int, gpus: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Device, precision and whether to compile, as a machine that holds a training resolves them, and its fingerprint.

    The driver's machine often has no GPU, and may have another processor.

    Args:
        document: the training's configuration.
        threads, gpus: that it takes.

    Raises:
        ConfigError: as `ssl_core.system.environment.choose_device` there.
    """
    ray = _ray()
    task = ray.remote(_choose).options(num_cpus=threads, num_gpus=gpus, max_retries=3)
    try:
        chosen, found = ray.get(task.remote(dict(document)))
    except ray.exceptions.RayTaskError as error:
        raise_cause(error)
    return dict(chosen), dict(found)


def raise_cause(error: Any) -> NoReturn:
    """Raise what a task raised, as it raised it, where that is an error with a message of this project's.

    Args:
        error: Ray's `RayTaskError`, which is raised itself where it is another one.
    """
    cause = error.cause
    if isinstance(cause, ConfigError | NonFiniteError | MemoryExhaustedError):
        raise cause from None
    raise error


def _choose(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    from ssl_core.system.environment import choose_device, fingerprint  # loads torch

    config = choose_device(from_document(document))
    chosen = {name: getattr(config, name) for name in ("device", "precision", "compile")}
    return chosen, fingerprint(config.device)


def joined(address: str | None) -> AbstractContextManager[None]:
    """Be a driver of the cluster inside the block; None: nothing to do. As `connected`."""
    if address is None:
        return nullcontext()
    return connected(address)


def machines_of(address: str | None) -> list[Machine] | None:
    """The machines of the cluster that this process has joined; None where there is none."""
    if address is None:
        return None
    return machines()
