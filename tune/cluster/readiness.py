"""Whether a cluster can run trainings now: machines that are alike, a shared folder, and room for one training.

A cluster with an autoscaler starts machines when something waits for them. There an empty cluster is no fault: it is
asked for a machine, and waited for.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssl_core.system.errors import counted
from tune.cluster import connection, probe
from tune.cluster.capacity import check_fit, places
from tune.cluster.identity import identity
from tune.definition.inputs import shared_folder
from tune.store.object_store import ObjectStore

AGAIN_SECONDS = 60.0
_READ_ONLY = "node_"
"""With it begin the names that Ray gives to machines which somebody else starts (`format_readonly_node_type`)."""

Say = Callable[[str], None]


def autoscales() -> bool:
    """Whether the cluster that this process has joined starts machines by itself.

    Ray does not say so in a word. Its monitor tells which kinds of machines there are: those of an autoscaler have the
    names of its configuration, those of a cluster that is not scaled are named after the machines themselves.
    """
    ray, utils = importlib.import_module("ray"), importlib.import_module("ray.autoscaler.v2.utils")
    client = ray.experimental.internal_kv.internal_kv_get_gcs_client()
    if utils.is_autoscaler_v2(fetch_from_server=True, gcs_client=client):
        status = importlib.import_module("ray.autoscaler.v2.sdk").get_cluster_status(
            ray.get_runtime_context().gcs_address
        )
        return _are_kinds(node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes))
    told = client.internal_kv_get(
        importlib.import_module("ray._private.ray_constants").DEBUG_AUTOSCALING_STATUS.encode()
    )
    report: dict[str, Any] = (json.loads(told) if told else {}).get("autoscaler_report") or {}
    return _are_kinds({**report.get("active_nodes", {}), **report.get("pending_launches", {})})


def _are_kinds(names: Iterable[str]) -> bool:
    return any(name and not name.startswith(_READ_ONLY) for name in names)


def folders_of(datasets: Iterable[str], data_root: Path | str | None) -> list[Path]:
    """What all machines must see of trainings' data: the folders of images, and where downloaded data lie."""
    found = [place for dataset in datasets if (place := shared_folder(dataset)) is not None]
    return [*dict.fromkeys(found), *([Path(data_root)] if data_root else [])]


def make_ready(
    shared: Path | ObjectStore, folders: Sequence[Path], threads: int, gpus: float, say: Say
) -> None:
    """Find what would make trainings wait for ever, or fail on other machines, before any starts.

    Args:
        shared: the folder or the object store that all machines must see and write.
        folders: that all must see.
        threads, gpus: that a training takes.
        say: told what is waited for, where the cluster has to start a machine first.

    Raises:
        ConfigError: a machine that differs, or none that can hold a training.
        ServiceError: storage that is not shared.
    """
    ensure_room(threads, gpus, say)
    probe.check_probes(probe.probe(shared, folders), identity())


def ensure_room(threads: int, gpus: float, say: Say) -> None:
    """See that the cluster has a machine that can hold a training; one that its autoscaler starts is waited for.

    Args:
        threads, gpus: that a training takes.
        say: told what is waited for.

    Raises:
        ConfigError: no machine can hold one, and none is started by itself.
    """
    if not places(connection.machines(), threads, gpus) and autoscales():
        wait_for_machine(threads, gpus, say)
    check_fit(connection.machines(), threads, gpus)


def wait_for_machine(threads: int, gpus: float, say: Say) -> None:
    """Ask the autoscaler for a machine that can hold a training, and wait until there is one.

    Args:
        threads, gpus: that a training takes.
        say: told what is waited for, at once and every minute.
    """
    ray = importlib.import_module("ray")
    asked = ray.remote(_nothing()).options(num_cpus=threads, num_gpus=gpus, max_retries=0).remote()
    began, room = time.monotonic(), f"{counted(threads, 'processor')} and {gpus:g} GPUs free for a trial"
    while True:
        seconds = time.monotonic() - began
        since = f", for {seconds / 60:.0f} min so far" if seconds >= AGAIN_SECONDS else ""
        say(
            f"waiting for the cluster's autoscaler to start a machine with {room}{since} (`ray status` there says how "
            "far it is)"
        )
        done, _ = ray.wait([asked], timeout=AGAIN_SECONDS)
        if done:
            with suppress(ray.exceptions.RayError):  # that the machine is there is all that was asked
                ray.get(done)
            return


def _nothing() -> Callable[[], None]:
    """A function that Ray sends as code: the package may be missing where it runs, which is found later."""

    def nothing() -> None:
        """Needs a place, and does nothing there."""

    return nothing


def told_of_places(wanted: int, threads: int, gpus: float) -> Sequence[str]:
    """What is to be said of a cluster that grows: how many trials it can hold now, of those that were asked for."""
    there = places(connection.machines(), threads, gpus)
    if there >= wanted or not autoscales():
        return ()
    return (
        f"{wanted} places are asked for, the cluster has {there} now: more trials start as its autoscaler adds "
        "machines",
    )
