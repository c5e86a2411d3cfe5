"""How many trials machines can hold side by side. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssl_core.system.errors import ConfigError

MOST_PLACES = 10_000
"""As many as `--concurrent` takes at most: where Ray is to use whatever room a cluster has."""


@dataclass(frozen=True)
class Machine:
    """What one machine of a cluster gives to trials.

    Attributes:
        name: by which people know it.
        cpus: processors.
        gpus: GPUs.
    """

    name: str
    cpus: float
    gpus: float


def places(machines: Sequence[Machine], threads: int, gpus: float) -> int:
    """How many trials of so many threads and GPUs run side by side; a trial never spans two machines."""
    return sum(_places_on(machine, threads, gpus) for machine in machines)


def _places_on(machine: Machine, threads: int, gpus: float) -> int:
    by_cpu = int(machine.cpus // threads)
    if gpus == 0:
        return by_cpu
    return min(by_cpu, gpu_places(machine.gpus, gpus))


def gpu_places(there: float, gpus: float) -> int:
    """How many trials of so many GPUs each run side by side on one machine's."""
    # A fraction is a share of one GPU: 0.4 twice leaves a fifth of it idle.
    return int(there // gpus) if gpus >= 1 else int(there) * int(1 / gpus + 1e-9)


def check_fit(machines: Sequence[Machine], threads: int, gpus: float) -> None:
    """Refuse trials that no machine can hold: they would wait for ever.

    Raises:
        ConfigError: says what the largest machine has.
    """
    if places(machines, threads, gpus):
        return
    has = ", ".join(f"{m.name} has {m.cpus:g} processors and {m.gpus:g} GPUs" for m in machines)
    most_gpus = max((m.gpus for m in machines), default=0)
    if gpus > most_gpus:
        raise ConfigError(
            f"gpus_per_trial = {gpus:g}: no machine of the cluster has so many GPUs ({has}). "
            f"Take at most {most_gpus:g} with --gpus-per-trial, or fractions."
        )
    raise ConfigError(
        f"threads = {threads}: no machine of the cluster can hold a trial of {threads} threads and {gpus:g} GPUs "
        f"({has or 'none gives processors to trials'}). Take fewer with --set threads=N."
    )


def share(
    machines: Sequence[Machine],
    *,
    trials: int,
    gpus: float,
    concurrent: int | None,
    threads: int | None,
    grows: bool = False,
) -> tuple[int, int]:
    """Trials side by side and threads of each, where neither, one or both are named.

    Without names: as many trials as there are places for at one thread (or at the GPUs of a trial), and then as
    many threads for each as leave room for them all.

    Args:
        machines: of the cluster.
        trials: of the study.
        gpus: of a trial.
        concurrent, threads: as they are named; None: not.
        grows: the cluster starts machines when trials wait for them, so none has to be there yet.

    Raises:
        ConfigError: where no machine can hold one such trial, and none is to come.
    """
    if grows and concurrent is None and not places(machines, threads or 1, gpus):
        raise ConfigError(
            "no machine of the cluster can hold a trial now. It starts machines by itself when trials wait for them: "
            "say how many are to run side by side with --concurrent N."
        )
    if not grows:
        check_fit(machines, threads or 1, gpus)
    if concurrent is None:
        concurrent = max(1, min(places(machines, threads or 1, gpus), trials))
    if threads is None:
        threads = 1
        while places(machines, threads + 1, gpus) >= concurrent:
            threads += 1
    return concurrent, threads
