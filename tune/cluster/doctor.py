"""What this machine, or a cluster, has for searching: each finding with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ssl_core.system.errors import ConfigError, counted
from tune.cluster.connection import connected, is_open
from tune.cluster.connection import machines as machines_there
from tune.cluster.gpus import gpu_count
from tune.cluster.identity import identity
from tune.cluster.probe import Probe, needs_network, probe
from tune.cluster.ray_folder import problem_of, ray_folder, unwritable
from tune.store.home import Home
from tune.tracking.uri import check_tracking_uri, shown

WANTED = ("torch", "torchvision", "ray", "optuna", "mlflow", "pandas")
LOW_DISK = 5e9
LOW_MEMORY = 4e9


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `verdict` is good, note (works, but) or bad (a search will fail)."""

    verdict: str
    what: str
    found: str
    remedy: str = ""


def examine(home: Home, data_root: Path | None = None) -> list[Finding]:
    """Look at everything a local search needs."""
    return [
        _python(),
        *_packages(),
        _processor(),
        _gpu(),
        _memory(),
        _home(home),
        _disk(home),
        _ray_folder(),
        _temporary_folder(),
        _tracking(home),
        _data(data_root),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("good", "Python", version)


def _packages() -> list[Finding]:
    found = []
    for name in WANTED:
        try:
            found.append(Finding("good", name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append(Finding("bad", name, "not installed", "pip install -c constraints.txt ssl-tune"))
    return found


def _processor() -> Finding:
    from ssl_core.system.environment import fingerprint, has_fast_cpu_bfloat16  # loads torch

    cores = len(os.sched_getaffinity(0))
    precision = "bfloat16" if has_fast_cpu_bfloat16() else "float32 (bfloat16 would be emulated)"
    return Finding("good", "processor", f"{cores} cores, {fingerprint('cpu')['processor']}, {precision}")


def _gpu() -> Finding:
    import torch

    files, usable = gpu_count(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable:
        return Finding("good", "GPU", f"{usable} x {torch.cuda.get_device_name(0)}")
    if files:
        return Finding(
            "note", "GPU", f"{files} seen, none usable by torch", "check the driver with nvidia-smi"
        )
    return Finding("note", "GPU", "none", "fine for digits and wrn-10-1; the report's tables want one")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available
    text = f"{free / 1e9:.1f} GB free"
    if free < LOW_MEMORY:
        return Finding("note", "memory", text, "lower --concurrent")
    return Finding("good", "memory", text)


def _home(home: Home) -> Finding:
    try:
        home.check_writable()
    except ConfigError as error:
        return Finding("bad", "home", home.shown, str(error))
    return Finding("good", "home", f"{home.shown}, {counted(len(home.study_names()), 'study', 'studies')}")


def _disk(home: Home) -> Finding:
    place = home.path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:.1f} GB free"
    if free < LOW_DISK:
        return Finding("note", "disk", text, "checkpoints and MLflow need room: free some, or move --home")
    return Finding("good", "disk", text)


def _ray_folder() -> Finding:
    what = "Ray's folder"
    named = next((n for n in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(n)), None)
    try:
        folder = ray_folder()
    except ConfigError as error:
        return Finding("bad", what, "none", str(error))
    wanted = None if named is None else Path(os.environ[named]).absolute()
    if named is None or wanted is None or wanted == folder:
        return Finding("good", what, str(folder))
    remedy = f"{named} = {wanted} {problem_of(wanted)}: name a short folder that can be written"
    return Finding("note", what, f"{folder}, in place of {named}", remedy)


def _temporary_folder() -> Finding:
    wanted = os.environ.get("TMPDIR")
    found = tempfile.gettempdir()
    problem = None if wanted is None else unwritable(Path(wanted))
    if problem is None:
        return Finding("good", "temporary files", found)
    return Finding(
        "note", "temporary files", f"{found}, in place of TMPDIR", f"TMPDIR = {wanted} {problem}: mend it"
    )


def _tracking(home: Home) -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or home.default_tracking_uri
    try:
        check_tracking_uri(uri)
    except ConfigError as error:
        return Finding("bad", "MLflow", shown(uri), str(error))
    return Finding("good", "MLflow", shown(uri))


def _data(data_root: Path | None) -> Finding:
    root = data_root or Path(os.environ.get("SSL_TUNE_DATA", "ssl-tune-data"))
    have = [n for n in ("cifar-10-batches-py", "cifar-100-python") if (root / n).is_dir()]
    if have:
        return Finding("good", "downloaded data", f"{', '.join(have)} in {root}")
    return Finding(
        "note",
        "downloaded data",
        f"none in {root}",
        "digits needs none; cifar10 is downloaded at first use; or folder:PATH",
    )


def examine_cluster(address: str, home: Home) -> list[Finding]:
    """Look at a cluster: its machines, their versions, storage and GPUs, tracking, and whether its doors are shut.

    Raises:
        ConfigError: this is no address.
        ServiceError: nobody answers, or the token is refused.
    """
    with connected(address):
        uri = os.environ.get("MLFLOW_TRACKING_URI") or home.default_tracking_uri
        check_tracking_uri(uri)
        home.check_writable()
        shared = home.shared()
        server = uri if needs_network(uri) else None
        mine, machines = identity(), machines_there()
        probes = probe(shared, tracking_uri=server, look_at_gpus=True)
        total = f"{counted(len(machines), 'machine')}, {sum(m.cpus for m in machines):g} processors, "
        total += f"{sum(m.gpus for m in machines):g} GPUs"
        found = [
            Finding("good", "cluster", f"{address}: {total}")
            if machines
            else Finding(
                "bad", "cluster", f"{address}: no machine for trials", "start a worker: docs/cluster.md"
            ),
            _token(address),
        ]
        declared = {machine.name: machine.gpus for machine in machines}
        for each in probes:
            found += _of_machine(each, mine, declared.get(each.machine, 0), server)
    return found


def _token(address: str) -> Finding:
    if is_open(address):
        return Finding(
            "bad",
            "authentication",
            "the cluster asks for no token",
            "whoever reaches it can run anything there: start it with RAY_AUTH_MODE=token (docker/entry does)",
        )
    return Finding("good", "authentication", "callers without the token are refused")


def _of_machine(
    probe: Probe, mine: Mapping[str, str], declared_gpus: float, server: str | None
) -> list[Finding]:
    name = probe.machine
    if probe.note is not None:
        return [Finding("bad", name, probe.note, "install ssl-tune[cluster] there, or run the image")]
    found = []
    if probe.missing:
        remedy = "put --home on storage that all machines see under the same path"
        found.append(Finding("bad", f"{name}: storage", f"does not see {', '.join(probe.missing)}", remedy))
    else:
        found.append(Finding("good", f"{name}: storage", "sees and writes the home folder"))
    differing = [
        f"{k} {probe.versions.get(k)} (here {v})" for k, v in mine.items() if probe.versions.get(k) != v
    ]
    if differing:
        found.append(Finding("bad", f"{name}: versions", ", ".join(differing), "install the same on all"))
    else:
        found.append(Finding("good", f"{name}: versions", "as the driver's"))
    if probe.gpus is not None and probe.gpus < declared_gpus:
        text = f"{declared_gpus:g} given to Ray, {probe.gpus} usable by torch"
        found.append(Finding("bad", f"{name}: GPUs", text, "check the driver there with nvidia-smi"))
    elif probe.gpus is not None:
        found.append(Finding("good", f"{name}: GPUs", f"{declared_gpus:g}"))
    if server is not None and probe.tracking is not None:
        remedy = "only the driver sends: needed there alone, but worth mending"
        found.append(Finding("note", f"{name}: MLflow", f"{server} not reached: {probe.tracking}", remedy))
    elif server is not None:
        found.append(Finding("good", f"{name}: MLflow", f"{server} reached"))
    return found
