"""Whether all machines of a cluster are alike: versions, code, shared folders, GPUs, and what they can reach.

Looked at from within, by a task on each, before a study's first trial starts there.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssl_core.system.errors import ConfigError
from tune.errors import Exit, ServiceError
from tune.store.object_store import ObjectStore

PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Probe:
    """What a look at one machine found.

    Attributes:
        machine: its name.
        reached: whether it answered in time.
        versions: as `identity` says there; empty where ssl-tune is not installed.
        missing: folders that it does not see, or not the same as the driver does.
        tracking: why the tracking server cannot be reached from there; None where it can, or was not asked.
        gpus: GPUs that torch can use there; None where it was not asked.
        note: what else went wrong.
    """

    machine: str
    reached: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    tracking: str | None = None
    gpus: int | None = None
    note: str | None = None


def probe(
    shared: Path | ObjectStore,
    folders: Sequence[Path] = (),
    tracking_uri: str | None = None,
    look_at_gpus: bool = False,
) -> list[Probe]:
    """Look at every machine that may run trials, from within.

    Args:
        shared: a folder or an object store that all must see and write; a token is written there and read by each.
        folders: that all must see.
        tracking_uri: a server that is to be reached from each.
        look_at_gpus: count the GPUs that torch can use (loads torch there, which takes seconds).
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    word = uuid.uuid4().hex
    ray = importlib.import_module("ray")
    token = _Token(shared, word)
    remote = ray.remote(_look())
    try:
        asked = {}
        for node in ray.nodes():
            if node["Alive"] and node.get("Resources", {}).get("CPU", 0) >= 1:
                there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
                task = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(
                    token.place, word, [str(f) for f in folders], tracking_uri, look_at_gpus
                )
                asked[task] = node["NodeManagerHostname"] or node["NodeName"]
        ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
        return sorted((_answer(task, name) for task, name in asked.items()), key=lambda p: p.machine)
    finally:
        token.remove()


class _Token:
    """A word in a file or an object that every machine is to read, and to write its own beside."""

    def __init__(self, shared: Path | ObjectStore, word: str) -> None:
        self._shared, self._name = shared, f".token-{word[:8]}"
        if isinstance(shared, Path):
            self.place = str(shared / self._name)
            (shared / self._name).write_text(word)
        else:
            self.place = f"{shared.url}/{self._name}/word"
            shared.put(f"{self._name}/word", word.encode())

    def remove(self) -> None:
        """Remove it, and what the machines have written."""
        with suppress(OSError):
            if isinstance(self._shared, Path):
                for path in self._shared.glob(f"{self._name}*"):
                    path.unlink()
            else:
                self._shared.remove_all(self._name)


def _answer(task: Any, name: str) -> Probe:
    ray = importlib.import_module("ray")
    try:
        return Probe(machine=name, **ray.get(task, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        return Probe(name, reached=False, note=f"no answer within {PROBE_SECONDS:.0f} s")
    except ray.exceptions.RayError as error:
        return Probe(name, reached=False, note=str(error).strip().splitlines()[-1])


def _look() -> Any:
    """The function that runs on each machine. Made here, so that Ray sends its code: ssl-tune may be missing there."""

    def look(
        token: str, word: str, folders: list[str], tracking_uri: str | None, look_at_gpus: bool
    ) -> dict[str, Any]:
        """What the machine sees and has: fields of `Probe`."""
        import os
        import socket
        from pathlib import Path
        from urllib.parse import urlsplit

        missing, note, versions, tracking, gpus = [], None, {}, None, None
        mine = f"{token}-{socket.gethostname()}-{os.getpid()}"
        try:
            if "://" in token:
                import fsspec

                with fsspec.open(token, "rt") as there:
                    found = there.read()
                with fsspec.open(mine, "wt") as there:
                    there.write(word)
            else:
                found = Path(token).read_text()
                Path(mine).write_text(word)
            if found != word:
                raise OSError("other content")
        except Exception as error:  # a store's client raises its own
            missing.append(f"{token.rpartition('/')[0]} ({getattr(error, 'strerror', None) or error})")
        missing += [folder for folder in folders if not Path(folder).exists()]
        try:
            from tune.cluster.identity import identity

            versions = identity()
        except (ImportError, SyntaxError, OSError) as error:
            note = f"ssl-tune cannot be loaded there: {type(error).__name__}: {error}"
        if tracking_uri is not None and "://" in tracking_uri:
            parts = urlsplit(tracking_uri)
            port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 5432)
            try:
                socket.create_connection((parts.hostname or "", port), 5).close()
            except OSError as error:
                tracking = str(error.strerror or error)
        if look_at_gpus:
            import torch

            gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return {
            "missing": missing,
            "note": note,
            "versions": versions,
            "tracking": tracking,
            "gpus": gpus,
        }

    return look


def check_probes(probes: Sequence[Probe], mine: Mapping[str, str]) -> None:
    """Refuse a cluster on which trials would fail.

    Args:
        probes: what every machine found.
        mine: the driver's `identity`.

    Raises:
        ServiceError: a folder that is not shared.
        ConfigError: a machine that does not answer, or has other versions.
    """
    if not probes:
        raise ConfigError("the cluster has no machine that gives processors to trials. Add a worker first.")
    apart = [f"{p.machine} does not see {', '.join(p.missing)}" for p in probes if p.missing]
    if apart:
        raise ServiceError(
            f"storage is not shared: {'; '.join(apart)}. Put --home (and folder: data) where every machine of the "
            "cluster sees it under the same path, such as a network folder.",
            Exit.STORAGE,
        )
    faults = [f"{p.machine}: {p.note}" for p in probes if p.note]
    faults += [
        f"{p.machine} has {name} {p.versions.get(name, 'not at all')}, the driver {version}"
        for p in probes
        if p.versions
        for name, version in mine.items()
        if p.versions.get(name) != version
    ]
    if faults:
        raise ConfigError(
            f"the machines of the cluster differ: {'; '.join(faults)}. Install the same on all: "
            "pip install -c constraints.txt 'ssl-tune[cluster]', or run them from one image."
        )


def needs_network(tracking_uri: str) -> bool:
    """Whether tracking goes to a server, which every machine of a cluster could reach."""
    return urlsplit(tracking_uri).scheme in ("http", "https")
