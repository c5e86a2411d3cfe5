"""Device and precision: chosen by what the machine has, refused where it lacks them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssl_core.config import from_document
from ssl_core.schema import RunConfig
from ssl_core.system import environment
from ssl_core.system.errors import ConfigError


def asked(**fields: Any) -> RunConfig:
    return from_document({"method": "supervised", **fields})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def with_bfloat16(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(environment, "has_fast_cpu_bfloat16", lambda: has)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("has", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_the_machine_s_own_choice(has: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, has)
    config = environment.choose_device(asked())
    assert (config.device, config.precision) == ("cpu", chosen)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_every_machine_has_is_never_overruled(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, True)
    assert environment.choose_device(asked(precision=precision)).precision == precision


@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"device = 'cuda': .* only its processor \(.+\)\. Take device=cpu"):
        environment.choose_device(asked(device="cuda"))


@pytest.mark.usefixtures("no_gpu")
def test_bfloat16_is_refused_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, False)
    with pytest.raises(ConfigError, match=r"precision = 'bfloat16': .+ it has float32 and float64\. Take"):
        environment.choose_device(asked(precision="bfloat16"))
    with_bfloat16(monkeypatch, True)
    assert environment.choose_device(asked(precision="bfloat16")).precision == "bfloat16"


def test_hardware_bfloat16_is_read_from_the_processor_s_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    flags: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert not environment.has_fast_cpu_bfloat16()
    for flag in ("avx512_bf16", "amx_bf16"):
        flags = {"avx2": True, flag: True}
        assert environment.has_fast_cpu_bfloat16()


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, triton: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(environment, "has_fast_cuda_bfloat16", lambda: True)
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: object() if triton else None)


@pytest.mark.parametrize(("epochs", "steps", "chosen"), [(40, 100, True), (40, 99, False)])
def test_a_run_is_compiled_where_it_is_long_enough_to_earn_it(
    epochs: int, steps: int, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_gpu(monkeypatch)
    config = asked(epochs=epochs, steps_per_epoch=steps)
    assert environment.choose_device(config).compile is chosen
    assert environment.choose_device(config.model_copy(update={"compile": not chosen})).compile is not chosen
    assert environment.choose_device(config.model_copy(update={"device": "cpu"})).compile is False


def test_compiling_is_refused_where_its_compiler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, triton=False)
    long = {"epochs": 100, "steps_per_epoch": 100}
    assert environment.choose_device(asked(**long)).compile is False
    with pytest.raises(
        ConfigError, match=r"compile = True: on a GPU .* triton\. Install it, or take compile=false"
    ):
        environment.choose_device(asked(**long, compile=True))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        ConfigError, match=r"compile = True: on a processor .* C\+\+ compiler \(Debian's package g\+\+\)"
    ):
        environment.choose_device(asked(**long, compile=True, device="cpu"))


@pytest.mark.parametrize(
    ("bfloat16", "float16", "chosen"),
    [(True, True, "bfloat16"), (False, True, "float16"), (False, False, "float32")],
)
def test_a_gpu_without_bfloat16_computes_in_float16(
    bfloat16: bool, float16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_gpu(monkeypatch)
    monkeypatch.setattr(environment, "has_fast_cuda_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(environment, "has_fast_cuda_float16", lambda: float16)
    assert environment.choose_device(asked()).precision == chosen


def test_float16_is_refused_where_it_is_not_computed_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    with_bfloat16(monkeypatch, True)
    with pytest.raises(
        ConfigError, match=r"'float16': .+ is no GPU; it has bfloat16, float32 and float64\. Take"
    ):
        environment.choose_device(asked(precision="float16", device="cpu"))
    on_a_gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "An Old GPU")
    for capability, accepted in (((6, 1), False), ((7, 0), True), ((7, 5), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        if accepted:
            assert environment.choose_device(asked(precision="float16")).precision == "float16"
            continue
        with pytest.raises(ConfigError, match="An Old GPU does not compute it in hardware"):
            environment.choose_device(asked(precision="float16"))
