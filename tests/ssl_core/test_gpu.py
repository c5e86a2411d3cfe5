"""What only a GPU can show: the same bits, no waiting, and compiled passes that compute what the plain ones do."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from benchmarks.setting import cell_of, config_of, data_of
from ssl_core.augment import randaugment
from ssl_core.methods.base import Progress
from ssl_core.registry import method_names
from ssl_core.system.errors import NonFiniteError
from ssl_core.training import compile as compiled
from ssl_core.training.loop import take_steps
from ssl_core.training.run import Run
from ssl_core.training.step import finite_guard, train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = 3
COMPILED = [
    ("fixmatch", {}),
    ("fixmatch", {"weak_forward": "separate"}),
    ("attention_fixmatch", {}),
    ("vat", {"iterations": 1}),
    ("pseudo_label", {"threshold": 1e-6}),
]


def run_of(method: str, *, compile: bool, parameters: dict[str, Any] | None = None, **fields: Any) -> Run:
    setting: dict[str, Any] = {"network": "wrn-10-1", "batch_size": 16, "mu": 2, "side": 16, "steps": STEPS}
    setting |= {"precision": "bfloat16", **fields}
    own = {} if parameters is None else {"parameters": parameters}
    cell = cell_of(method=method, device="cuda", compile=compile, **setting, **own)
    data, split = data_of(cell)
    return Run(config_of(cell, data), data, split)


def after(run: Run, *epochs: int) -> tuple[list[torch.Tensor], dict[str, float]]:
    """The averaged weights after some epochs, and the last one's metrics."""
    metrics: dict[str, float] = {}
    for epoch in epochs:
        metrics = take_steps(run, epoch)[0].metrics()
    return [p.detach().clone() for p in run.ema.network.parameters()], metrics


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", method_names())
def test_the_same_run_gives_the_same_bits(method: str) -> None:
    one, _ = after(run_of(method, compile=False), 1, 2)
    assert same(one, after(run_of(method, compile=False), 1, 2)[0])


@pytest.mark.parametrize(("method", "parameters"), COMPILED)
def test_a_compiled_run_gives_the_same_bits_also_where_it_is_resumed(
    method: str, parameters: dict[str, Any]
) -> None:
    first = run_of(method, compile=True, parameters=parameters)
    after(first, 1)
    state = first.state()
    whole, metrics = after(run_of(method, compile=True, parameters=parameters), 1, 2)
    second = run_of(method, compile=True, parameters=parameters)
    second.load_state(state)
    resumed, again = after(second, 2)
    assert same(whole, resumed)
    assert metrics == again


@pytest.mark.parametrize(("method", "parameters"), COMPILED)
def test_compiled_passes_compute_what_the_plain_ones_do(method: str, parameters: dict[str, Any]) -> None:
    plain, compiled_ones = (
        after(run_of(method, compile=how, parameters=parameters, precision="float32"), 1)[1]
        for how in (False, True)
    )
    assert plain.keys() == compiled_ones.keys()
    for name, value in plain.items():  # TF32's convolutions: three digits, and three steps
        assert compiled_ones[name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


def test_compiled_views_have_the_same_pixels() -> None:
    images = torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8, device="cuda")
    draws = randaugment.draw(300, (32, 32), torch.Generator("cuda").manual_seed(3))
    views, geometry = randaugment.apply(images, draws)
    again, same_geometry = compiled.strong_views()(images, draws)
    assert torch.equal(views, again)
    assert torch.equal(geometry.cutout, same_geometry.cutout)
    torch.testing.assert_close(geometry.affine, same_geometry.affine)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("how", [False, True])
@pytest.mark.parametrize("method", ["supervised", "fixmatch", "flexmatch", "attention_fixmatch", "vat"])
def test_within_an_epoch_nothing_waits_for_the_gpu(method: str, how: bool) -> None:
    run = run_of(method, compile=how)
    after(run, 1, 2)
    guard = finite_guard(run, 3)
    with no_waiting():
        for step in range(3):
            progress = Progress(
                step=2 * STEPS + step, total_steps=1000, step_in_epoch=step, epoch=3, ssl_epoch=3
            )
            train_step(run, progress, guard)
    guard.read()


def test_runs_one_after_another_do_not_add_up_their_memory() -> None:
    reserved = []
    for _ in range(4):
        gc.collect()
        run = run_of("fixmatch", compile=True, batch_size=64, side=32)
        after(run, 1, 2)
        del run
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[3] <= 1.1 * reserved[1], reserved


@pytest.mark.parametrize("how", [False, True])
def test_what_is_not_finite_ends_the_epoch_with_weights_unmoved_since(how: bool) -> None:
    run = run_of("fixmatch", compile=how)
    after(run, 1)
    with torch.no_grad():
        run.network.classifier.bias[0] = torch.nan
    before = [p.detach().clone() for p in run.network.parameters()]
    with pytest.raises(NonFiniteError, match=f"at step {STEPS} "):
        take_steps(run, 2)
    now = [p.detach() for p in run.network.parameters()]
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, now, strict=True))
