"""Images that stay on the host: the same bits as on the device, gathered ahead of the step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_core
from ssl_core.data.batches import HostImages, fits_on, limits_of_groups, memory_of
from ssl_core.pictures.panels import picture_of
from tests.ssl_core.test_run import document, folder, timeless
from tests.tiny import METHODS, assert_same_bits, everything, finish, make_run

__all__ = ["document", "folder"]  # fixtures
HOST = {"split_of": {"device_share": 0.0}}
CPU = torch.device("cpu")


def state_of(run: Any) -> dict[str, Any]:
    state = everything(run)
    state["config"]["data"].pop("device_share", None)  # not written where it is the default
    return state


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_bits_with_its_images_on_the_host(method: str) -> None:
    host, device = make_run(method, **HOST), make_run(method)
    assert host.host is not None and device.host is None
    finish(host), finish(device)
    assert_same_bits(state_of(host), state_of(device))
    one, other = picture_of(host), picture_of(device)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        for mine, theirs in zip(one.panels, other.panels, strict=True):
            np.testing.assert_array_equal(mine.values, theirs.values)


@pytest.mark.parametrize("method", ["fixmatch", "pseudo_label", "flexmatch"])
@pytest.mark.parametrize(("before", "after"), [(HOST, {}), ({}, HOST), (HOST, HOST)])
def test_a_run_goes_on_with_its_images_elsewhere(
    method: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    straight, first = make_run(method), make_run(method, **before)
    finish(straight)
    finish(first, until=2)
    again = make_run(method, **after)
    again.load_state(first.state())
    finish(again)
    assert_same_bits(state_of(again), state_of(straight))


class Gathers(HostImages):
    """Notes which batches were gathered in the background, and how many while the step waited."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__(images, CPU)
        self.waited, self.asked = 0, 0

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        self.waited += not any(torch.equal(known, rows) for known, _ in self._waiting)
        return super().take(rows)


def gathers(method: str) -> Gathers:
    run = make_run(method, epochs=3, steps_per_epoch=5, **HOST)
    run.host = noted = Gathers(run.images)
    finish(run)
    return noted


def test_batches_that_do_not_depend_on_the_last_step_are_gathered_ahead() -> None:
    # 15 labelled batches and 10 unlabelled ones after the warm-up, and one batch of validation images an epoch.
    # Not known before: the first of each kind, and the validation images, which displace nothing.
    fixmatch = gathers("fixmatch")
    assert (fixmatch.asked, fixmatch.waited) == (15 + 10 + 3, 1 + 1 + 3)
    # pseudo_label chooses its images itself: the labelled ones alone are known before.
    pseudo = gathers("pseudo_label")
    assert pseudo.asked - pseudo.waited == 14


def test_what_is_taken_is_what_was_asked_for_whatever_was_gathered() -> None:
    images = torch.arange(20 * 3 * 3 * 3, dtype=torch.uint8).reshape(20, 3, 3, 3)
    host = HostImages(images, CPU)
    first, second, third = torch.tensor([3, 1, 3]), torch.tensor([7]), torch.tensor([0, 19])
    host.ahead([first, second])
    assert torch.equal(host.take(second), images[second])
    assert torch.equal(host.take(third), images[third])  # was not asked for ahead
    assert torch.equal(host.take(first), images[first])
    assert torch.equal(host.take(first), images[first])  # and once more, which is gathered anew


def test_the_map_of_the_cache_is_read_and_not_copied(document: dict[str, Any], tmp_path: Path) -> None:
    plain = ssl_core.train(document, cache=tmp_path / "cache")
    host = ssl_core.train(document | {"data": {"device_share": 0.0}}, cache=tmp_path / "cache")
    one, other = timeless(host), timeless(plain)
    assert one.pop("config")["data"]["device_share"] == 0.0
    assert "device_share" not in other.pop("config")["data"]
    assert one == other


def test_the_share_of_the_memory_of_the_processor_decides() -> None:
    memory = memory_of(CPU)
    assert 2**28 < memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert fits_on(CPU, int(0.29 * memory), 0.3) and not fits_on(CPU, int(0.31 * memory), 0.3)
    assert not fits_on(CPU, 1, 0.0)


@pytest.mark.parametrize("version", [1, 2])
def test_the_limits_of_a_control_group_and_of_those_above_it_are_read(version: int, tmp_path: Path) -> None:
    groups, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    top = mounted / "memory" if version == 1 else mounted
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    (top / "jobs" / "mine").mkdir(parents=True)
    (top / "jobs" / name).write_text("5000\n")
    (top / "jobs" / "mine" / name).write_text("max\n" if version == 2 else "9223372036854771712\n")
    lines = {1: "5:cpu,cpuacct:/other\n4:memory:/jobs/mine\n", 2: "0::/jobs/mine\n"}
    groups.write_text(lines[version])
    assert min(limits_of_groups(groups, mounted)) == 5000
    assert list(limits_of_groups(tmp_path / "missing", mounted)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_share_of_its_memory_decides() -> None:
    gpu = torch.device("cuda")
    total = torch.cuda.get_device_properties(gpu).total_memory
    assert fits_on(gpu, int(0.29 * total), 0.3) and not fits_on(gpu, int(0.31 * total), 0.3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["fixmatch", "pseudo_label"])
def test_on_a_gpu_the_bits_are_the_same(method: str) -> None:
    host, device = make_run(method, device="cuda", **HOST), make_run(method, device="cuda")
    finish(host), finish(device)
    assert_same_bits(state_of(host), state_of(device))
