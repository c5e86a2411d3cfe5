"""Memory that runs out, in the allocators' own words: how much, and what to lower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ssl_core.registry import get_method
from ssl_core.system import memory
from ssl_core.system.errors import MemoryExhaustedError
from ssl_core.training.run import Run
from tests.tiny import finish, make_data, make_run

PETABYTE = 2**50
CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.44 GiB "
    "is free. Including non-PyTorch memory, this process has 77.65 GiB memory in use."
)


def ask_torch() -> None:
    torch.empty(PETABYTE, dtype=torch.uint8)


def ask_numpy() -> None:
    np.empty(PETABYTE, dtype=np.uint8)


def ask_cuda() -> None:
    raise torch.OutOfMemoryError(CUDA)


def ask_cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    ("ask", "amount"),
    [
        (ask_torch, "no 1048576.0 GiB more for"),
        (ask_numpy, "no 1048576.0 GiB more for"),
        (ask_cuda, "no 2.5 GiB more for"),
        (ask_cublas, "no memory left for"),
    ],
)
def test_every_allocator_s_words_say_how_much(ask: Callable[[], None], amount: str) -> None:
    with (
        pytest.raises(MemoryExhaustedError, match=f"{amount} a step. Less.") as caught,
        memory.explained("cpu", "a step", "Less."),
    ):
        ask()
    assert caught.value.__cause__ is not None


def test_what_is_explained_is_not_explained_again_and_other_errors_pass() -> None:
    with (
        pytest.raises(MemoryExhaustedError, match="for the inner"),
        memory.explained("cpu", "the outer", ""),
        memory.explained("cpu", "the inner", ""),
    ):
        ask_torch()
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("can't allocate memory"),
    ):
        with pytest.raises(type(error)) as caught, memory.explained("cpu", "a step", ""):
            raise error
        assert caught.value is error


def broken(method: str, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Run:
    """A run whose step asks the real allocator for more than there is."""

    def compute_loss(*_: Any) -> Any:
        ask_torch()

    monkeypatch.setattr(get_method(method), "compute_loss", compute_loss)
    return make_run(method, warmup_epochs=0, **fields)


@pytest.mark.parametrize(
    ("method", "fields", "told"),
    [
        (
            "fixmatch",
            {"network": "wrn-16-2"},
            r"a step on 20 images in wrn-16-2\. Lower mu \(now 2: 16 of the images are unlabelled ones\), then "
            r"batch_size \(now 4\), or take a smaller network",
        ),
        ("vat", {"mu": 3}, r"a step on 16 images in wrn-10-1\. Lower mu \(now 3: 12 of .* \(now 4\)\.$"),
        ("pseudo_label", {"mu": 1}, r"a step on 8 images in wrn-10-1\. Lower batch_size \(now 4\)\.$"),
    ],
)
def test_a_step_says_what_to_lower(
    method: str, fields: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = broken(method, monkeypatch, **fields)
    with pytest.raises(MemoryExhaustedError, match=told):
        finish(run)


def test_an_evaluation_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(eval_batch_size=300)
    monkeypatch.setattr(run, "evaluated", lambda images, network: ask_torch())
    with pytest.raises(
        MemoryExhaustedError, match=r"300 images at once in wrn-10-1\. Lower eval_batch_size \(now"
    ):
        finish(run)


def test_images_that_do_not_fit_say_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    data, move = make_data(), torch.Tensor.to

    def picky(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if self.shape == data.images.shape:
            ask_cuda()
        return move(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", picky)
    with pytest.raises(
        MemoryExhaustedError, match=r"2\.5 GiB more for 42 images of 8x8 pixels\. Lower data\.image_"
    ):
        make_run(data=data)
