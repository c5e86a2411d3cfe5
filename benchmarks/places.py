"""How fast a cluster's places are asked for: the time from the first placement to the last.

    python -m benchmarks.places --places 64 --json
    python -m benchmarks.places --places 1000 --cpus 2

Starts a Ray cluster on this machine that says it has so many processors, and runs a study there that wants as many
trials side by side. Searcher (TPE), scheduler, recorder and Ray are real; a trial trains nothing. Ray itself is asked,
many times a second, how many placement groups there are: those that wait for a place are pending, and an autoscaler
would start machines for them. With `--cpus` the cluster has less room than is asked for, so that most wait.
`--one` sets the number of trials that Ray lets wait to one, as it is where Ray is not told the number of places.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tune.definition.request import SearchRequest

LOOK_SECONDS = 0.05
ATTEMPTS = 3


@contextmanager
def ray_cluster(cpus: int, folder: Path, machines: int = 0) -> Iterator[str]:
    """A head on this machine that says it has so many processors.

    Args:
        cpus: of the head.
        folder: of Ray's files; its path is short.
        machines: of one processor that an autoscaler may start beside it, all of them processes of this machine; 0: it
            has no autoscaler.

    Yields:
        Its address.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    words = ["start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}", "--num-gpus=0"]
    words += ["--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=100000000"]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0"}
    if machines:
        folder.mkdir(parents=True, exist_ok=True)
        address = f"{importlib.import_module('ray.util').get_node_ip_address()}:{port}"
        config = folder / "autoscaler.json"
        config.write_text(json.dumps(_autoscaler(cpus, machines, address)))
        words.append(f"--autoscaling-config={config}")
        environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    head, told = _started(words, environment)
    try:
        yield told
    finally:
        _end(head)


def _started(words: list[str], environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], str]:
    """A head, once it has started, and its address. Ray gives its processes seconds, few where others are at work."""
    said = ""
    for _ in range(ATTEMPTS):
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert head.stdout is not None
        for line in head.stdout:
            said += line
            if found := re.search(r"--address=\W*([\d.]+:\d+)", line):
                return head, found[1]
        _end(head)
    raise RuntimeError(f"the cluster did not start:\n{said}")


def _end(head: subprocess.Popen[str]) -> None:
    """End a head and all that it has started."""
    if head.poll() is not None:
        return
    process = psutil.Process(head.pid)
    ended = [*process.children(recursive=True), process]
    head.send_signal(signal.SIGTERM)
    psutil.wait_procs(ended, timeout=20)
    for process in ended:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait()


def _autoscaler(cpus: int, machines: int, address: str) -> dict[str, Any]:
    """The configuration of Ray's own autoscaler with its provider of machines that are processes."""
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    kinds = {"ray.head.default": (cpus, 0), "machine": (1, machines)}
    return {
        "cluster_name": "places",
        "max_workers": machines,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            name: {"resources": {"CPU": has}, "node_config": {}, "min_workers": 0, "max_workers": most}
            for name, (has, most) in kinds.items()
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "rsync_filter": [],
        **{name: [] for name in lists},
    }


class Watch(threading.Thread):
    """Asks Ray how many placements it knows, until it is ended."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self._end = threading.Event()

    def run(self) -> None:
        table = importlib.import_module("ray.util").placement_group_table
        while not self._end.wait(LOOK_SECONDS):
            states = [group["state"] for group in table().values()]
            self.seen.append((time.monotonic(), sum(state in ("PENDING", "CREATED") for state in states)))

    def end(self) -> None:
        """Ask no more."""
        self._end.set()
        self.join()

    def ramp(self, places: int) -> float | None:
        """Seconds from the first placement to the last of so many; None: there were never so many."""
        first = next((when for when, count in self.seen if count), None)
        last = next((when for when, count in self.seen if count >= places), None)
        return None if first is None or last is None else last - first


def measure(places: int, cpus: int, trials: int) -> dict[str, Any]:
    """Run the study; seconds until all placements were asked for, and how many there were in between."""
    with (
        tempfile.TemporaryDirectory(prefix="ssl-places-") as place,
        ray_cluster(cpus, Path(place) / "ray") as address,
    ):
        watch = _run(Path(place) / "home", address, places, trials)
    first = next((when for when, count in watch.seen if count), 0.0)
    after = {
        seconds: max((n for when, n in watch.seen if when - first <= seconds), default=0)
        for seconds in (1, 3, 10)
    }
    ramp = watch.ramp(places)
    return {
        "places": places,
        "processors": cpus,
        "seconds_to_all": None if ramp is None else round(ramp, 2),
        "most": max(count for _, count in watch.seen),
        "after_seconds": after,
    }


def _run(home: Path, address: str, places: int, trials: int) -> Watch:
    from benchmarks.idle import Idle
    from tune.cluster.connection import connected
    from tune.engine import ray_loop
    from tune.engine.progress import Progress
    from tune.engine.sitting import Sitting
    from tune.launch.request import resolve_request
    from tune.store.home import Home
    from tune.store.study_folder import StudyFolder

    ray_loop.TrialTrainable = Idle  # type: ignore[misc,assignment]
    with connected(address):
        spec = resolve_request(
            SearchRequest(
                name="places",
                trials=trials,
                address=address,
                concurrent=places,
                gpus_per_trial=0,
                tracking_timeout=0,
                settings={"threads": 1},
            ),
            Home(home),
            [],
            grows=True,
        ).model_copy(update={"split_hash": "simulated"})
        folder = StudyFolder(Home(home).study_folder(spec.name))
        folder.create(spec)
        watch = Watch()
        watch.start()
        with Sitting(spec, folder, Home(home), Progress()) as sitting:
            ending = threading.Thread(target=_stop_once_full, args=(watch, places, folder), daemon=True)
            ending.start()
            sitting.search()
        watch.end()
    return watch


def _stop_once_full(watch: Watch, places: int, folder: Any) -> None:
    """Ask for the study's end once all places are asked for; what its trials do then does not matter."""
    while watch.is_alive() and watch.ramp(places) is None:
        time.sleep(LOOK_SECONDS)
    folder.request_stop()


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description="how fast a cluster's places are asked for")
    parser.add_argument("--places", type=int, default=64)
    parser.add_argument(
        "--cpus", type=int, help="processors that the cluster says it has [as many as places]"
    )
    parser.add_argument("--one", action="store_true", help="let one trial wait at a time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is ended, too
    if options.one:
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1"
    os.environ["SSL_TUNE_FIGURES"] = "0"
    found = measure(options.places, options.cpus or options.places, 2 * options.places)
    print(json.dumps(found, indent=1) if options.json else found)


if __name__ == "__main__":
    main()
