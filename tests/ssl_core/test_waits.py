"""No step of any method waits for the device, tried on a CPU by watching for what would make a GPU's queue run dry."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_core.augment import randaugment
from ssl_core.methods.base import Batch, LossOutput, Progress
from ssl_core.registry import method_names
from ssl_core.training import loop, monitors, step
from ssl_core.training.drawing import rows, views
from ssl_core.training.finite import FiniteGuard
from ssl_core.training.run import Run
from tests.tiny import finish, make_run


class _Operations(TorchDispatchMode):
    """Notes operations whose result the program reads, or whose result's shape depends on values, and tensors made of
    Python numbers, which are copied over."""

    WAITING = (
        *("_local_scalar_dense", "is_nonzero", "equal", "lift_fresh"),
        *("nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "repeat_interleave"),
    )

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        if name in self.WAITING or by_mask:
            self.seen.append("".join(traceback.format_stack(limit=8)))
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Notes what copies values of a GPU, and is no operation at all on a CPU."""

    COPYING = ("cpu", "numpy", "tolist", "__array__")

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # By name: the device of another tensor is a CPU here as well, and would be a GPU there.
        to_cpu = any(
            isinstance(each, str) and each == "cpu" for each in [*args[1:], *(kwargs or {}).values()]
        )
        name = getattr(func, "__name__", "")
        if name in self.COPYING or (name == "to" and to_cpu):
            self.seen.append("".join(traceback.format_stack(limit=8)))
        return func(*args, **(kwargs or {}))


class Waits:
    """Both, as one context."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __enter__(self) -> None:
        self._modes = _Functions(self.seen), _Operations(self.seen)
        for mode in self._modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def deferred(parameters: list[Any], *, at_once: bool, where: str) -> FiniteGuard:
    return FiniteGuard(parameters, at_once=False, where=where)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: [0] * int(x[1]),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu"),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.long().unique(),
        lambda x: x.long().bincount(),
        lambda x: torch.equal(x, x),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
    ],
)
def test_a_wait_is_noticed(reads: Callable[[Tensor], Any]) -> None:
    values, waits = torch.tensor([0.0, 1.0, 2.0]), Waits()
    with waits:
        reads(values)
    assert waits.seen


def test_what_does_not_wait_is_not_noticed() -> None:
    values, waits = torch.tensor([0.0, 1.0, 2.0], requires_grad=True), Waits()
    with waits:
        values.to(values.device)
        (torch.where(values > 0, values, 0.5)[torch.zeros_like(values).long()] * 2).sum().backward()
        values.to(torch.float64).detach()[1:].clone()
    assert not waits.seen


@pytest.mark.parametrize("method", method_names())
def test_no_step_waits_for_the_device(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would do, tried on a CPU: verdicts deferred, operations picked by a mask.

    Blocks of random numbers and of counted pseudo-labels are short: they begin and end within the watched steps.
    """
    monkeypatch.setattr(step, "FiniteGuard", deferred)
    monkeypatch.setattr(randaugment, "_each_on_its_own", randaugment._all_and_pick)
    for module in (views, rows):
        monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(monitors, "COUNTED_TOGETHER", 2)
    run, waits = make_run(method, steps_per_epoch=4, epochs=3, warmup_epochs=0), Waits()
    take_in = monitors.EpochMonitor.add

    def watched(run: Run, progress: Progress, guard: FiniteGuard) -> tuple[Batch, LossOutput[Any]]:
        if progress.step == 0:  # small tables are copied over once
            return step.train_step(run, progress, guard)
        with waits:
            return step.train_step(run, progress, guard)

    def add(self: monitors.EpochMonitor, *output: Any) -> None:
        with waits:
            take_in(self, *output)

    monkeypatch.setattr(loop, "train_step", watched)
    monkeypatch.setattr(monitors.EpochMonitor, "add", add)
    finish(run)
    assert run.epoch == 3 and not waits.seen, waits.seen[0]
