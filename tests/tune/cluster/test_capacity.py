"""How many trials machines hold: counted by hand, and against placing them one by one."""

from __future__ import annotations

import itertools

import pytest

from ssl_core.system.errors import ConfigError
from tests.tune.helpers import make_spec
from tune.cluster.capacity import Machine, check_fit, places, share
from tune.definition.request import SearchRequest
from tune.launch.afterwards import check_afterwards
from tune.launch.baseline import baseline_request, wanted_baseline
from tune.launch.request import resolve_request
from tune.launch.start import moved
from tune.store.home import Home

TWO = [Machine("a", 4, 2), Machine("b", 16, 1)]


@pytest.mark.parametrize(
    ("threads", "gpus", "expected"),
    [
        (1, 0, 20),
        (3, 0, 6),
        (4, 0, 5),
        (5, 0, 3),
        (1, 1, 3),
        (4, 1, 2),
        (1, 0.5, 6),
        (1, 0.4, 6),
        (3, 2, 1),
        (1, 3, 0),
    ],
)
def test_places_by_hand(threads: int, gpus: float, expected: int) -> None:
    assert places(TWO, threads, gpus) == expected


def placed_one_by_one(machines: list[Machine], threads: int, gpus: float) -> int:
    """Slow: put trials where they fit, each GPU on its own, until none does."""
    count = 0
    for machine in machines:
        cpus, free = machine.cpus, [1.0] * int(machine.gpus)
        while cpus >= threads:
            if gpus >= 1:
                whole = [i for i, share in enumerate(free) if share == 1.0][: int(gpus)]
                if len(whole) < gpus:
                    break
                for i in whole:
                    free[i] = 0.0
            elif gpus > 0:
                fits = [i for i, share in enumerate(free) if share >= gpus - 1e-9]
                if not fits:
                    break
                free[fits[0]] -= gpus
            cpus -= threads
            count += 1
    return count


def test_places_as_placing_one_by_one() -> None:
    sizes = [Machine("m", c, g) for c, g in itertools.product((1, 2, 7), (0, 1, 3))]
    for machines in itertools.combinations(sizes, 2):
        for threads, gpus in itertools.product((1, 2, 3), (0, 0.25, 1 / 3, 0.4, 0.5, 1, 2)):
            assert places(list(machines), threads, gpus) == placed_one_by_one(list(machines), threads, gpus)


def test_the_cluster_is_filled_and_its_processors_shared_out() -> None:
    assert share(TWO, trials=100, gpus=0, concurrent=None, threads=None) == (20, 1)
    assert share(TWO, trials=5, gpus=0, concurrent=None, threads=None) == (5, 4)
    assert share(TWO, trials=100, gpus=1, concurrent=None, threads=None) == (3, 2)
    assert share(TWO, trials=100, gpus=0, concurrent=None, threads=3) == (6, 3)
    assert share(TWO, trials=100, gpus=0, concurrent=2, threads=None) == (2, 8)
    assert share(TWO, trials=100, gpus=0, concurrent=99, threads=None) == (99, 1)


def test_what_no_machine_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 3: .*a has 4 processors and 2 GPUs.*at most 2"):
        check_fit(TWO, 1, 3)
    with pytest.raises(ConfigError, match=r"threads = 17: .*b has 16 processors.*--set threads=N"):
        check_fit(TWO, 17, 0)
    with pytest.raises(ConfigError, match="none gives processors"):
        check_fit([], 1, 0)


def test_a_request_for_a_cluster_takes_its_machines_not_this_one(home: Home) -> None:
    request = SearchRequest(address="head:6379", trials=64, name="s")
    spec = resolve_request(request, home, TWO)
    assert (spec.concurrent, spec.config["threads"], spec.gpus_per_trial) == (3, 2, 1.0)
    assert spec.address == "head:6379" and spec.elastic
    named = resolve_request(SearchRequest(address="head:6379", concurrent=2, gpus_per_trial=0), home, TWO)
    assert (named.concurrent, named.config["threads"], named.elastic) == (2, 8, False)
    assert make_spec(home).address is None


def test_1_the_baseline_of_a_study_on_a_cluster_is_a_study_of_that_cluster(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the GPUs are the cluster's
    request = SearchRequest(address="head:6379", trials=64, name="s", with_baseline=True)
    spec = resolve_request(request, home, TWO)
    asked = baseline_request(spec)
    assert (asked.address, asked.gpus_per_trial, asked.concurrent) == ("head:6379", 1.0, None)
    check_afterwards(request, spec, home)
    wanted = wanted_baseline(spec, home)
    for field in ("address", "elastic", "gpus_per_trial", "concurrent"):
        assert getattr(wanted, field) == getattr(spec, field), field
    assert wanted.config["threads"] == spec.config["threads"]


def test_5_a_cluster_that_grows_holds_what_is_asked_for() -> None:
    assert share([], trials=9, gpus=1, concurrent=8, threads=None, grows=True) == (8, 1)
    assert share(TWO, trials=99, gpus=1, concurrent=40, threads=2, grows=True) == (40, 2)
    assert share(TWO, trials=100, gpus=0, concurrent=None, threads=None, grows=True) == (20, 1)
    with pytest.raises(ConfigError, match="--concurrent N"):
        share([], trials=9, gpus=0, concurrent=None, threads=None, grows=True)


def test_a_study_that_comes_home_has_the_places_that_are_here(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    spec = make_spec(home, concurrent=1).model_copy(
        update={"address": "head:6379", "elastic": True, "concurrent": 40}
    )
    here = moved(spec, "local")
    assert (here.address, here.elastic, here.concurrent) == (None, False, 4)
    assert moved(spec, "other:6379").concurrent == 40
    assert moved(make_spec(home, concurrent=9), "local").concurrent == 9
