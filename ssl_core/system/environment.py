"""The machine: processor and versions, which a run's bits depend on, and the choice of the device."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import torch

from ssl_core.schema import RunConfig
from ssl_core.system.errors import ConfigError
from ssl_core.system.version import __version__


def versions() -> dict[str, str]:
    """Versions of this package and of the libraries that compute."""
    return {
        "ssl-tune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
    }


def fingerprint(device: str) -> dict[str, str]:
    """Processor and versions: where they are the same, the same configuration gives the same bits."""
    if device == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{_processor_name()} {torch.backends.cpu.get_cpu_capability()}"
    return {"processor": processor, **versions()}


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


MIN_COMPILED_STEPS = 4000
"""Steps of a run from which compiling pays on a GPU: for FixMatch with WRN-28-2 on an H200 it takes about 50 s without
a cache, and saves 6 ms of a step's forward and backward pass and 7 ms of its strong views (docs/results.md)."""


def choose_device(config: RunConfig) -> RunConfig:
    """Fill in `device`, `precision` and `compile` where they are "auto".

    bfloat16 is accepted only where the processor computes it in hardware. Elsewhere it is emulated, many times slower
    than float32, and refused. float16, which needs its
    loss scaled, is for GPUs.

    Args:
        config: resolved; one that is not counts as a short run.

    Raises:
        ConfigError: this machine lacks the device, the precision or the compiler; the message says what it has.
    """
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise ConfigError(
            f"device = 'cuda': this machine has no CUDA GPU that PyTorch can use, only its processor "
            f"({_processor_name()}). Take device=cpu or auto."
        )
    device = ("cuda" if has_cuda else "cpu") if config.device == "auto" else config.device
    chosen = {
        "device": device,
        "precision": _precision(config, device),
        "compile": _compile(config, device),
    }
    return config.model_copy(update=chosen)


_SHORT = ("bfloat16", "float16")
"""Precisions of 16 bits, the better one first: bfloat16 has float32's range, and its loss needs no scaling."""


def _computes(precision: str, device: str) -> bool:
    """Whether the device computes a precision of `_SHORT` in hardware."""
    if precision == "float16":
        return device == "cuda" and has_fast_cuda_float16()
    return has_fast_cuda_bfloat16() if device == "cuda" else has_fast_cpu_bfloat16()


def _precision(config: RunConfig, device: str) -> str:
    """The precision, chosen where it is "auto": the fastest of those that the processor has in hardware."""
    wanted = config.precision
    if wanted in ("float32", "float64"):
        return wanted
    if wanted == "auto":
        return next((name for name in _SHORT if _computes(name, device)), "float32")
    if not _computes(wanted, device):
        has = ", ".join([*(name for name in _SHORT if _computes(name, device)), "float32"])
        lacks = "is no GPU" if device == "cpu" and wanted == "float16" else "does not compute it in hardware"
        raise ConfigError(
            f"precision = {wanted!r}: {fingerprint(device)['processor']} {lacks}; it has {has} and float64. Take "
            "precision=float32 or auto."
        )
    return wanted


def _compile(config: RunConfig, device: str) -> bool:
    lacks = what_compiling_lacks(device)
    if config.compile is True and lacks:
        raise ConfigError(f"compile = True: {lacks}. Install it, or take compile=false.")
    if config.compile != "auto":
        return config.compile
    steps = (config.epochs or 0) * (config.steps_per_epoch or 0)
    return device == "cuda" and steps >= MIN_COMPILED_STEPS and not lacks


def what_compiling_lacks(device: str) -> str:
    """What torch.compile lacks on this machine, as a sentence; empty where it has everything."""
    if device == "cuda":
        return "" if importlib.util.find_spec("triton") else "on a GPU torch.compile needs the package triton"
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    found = any(shutil.which(compiler) for compiler in compilers if compiler)
    return "" if found else "on a processor torch.compile needs a C++ compiler (Debian's package g++)"


def has_fast_cuda_bfloat16() -> bool:
    """Whether the GPU multiplies bfloat16 in hardware (compute capability 8.0 and later)."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def has_fast_cuda_float16() -> bool:
    """Whether the GPU multiplies float16 on tensor cores (compute capability 7.0 and later)."""
    return bool(torch.cuda.get_device_capability() >= (7, 0))


def has_fast_cpu_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX; on ARM its own)."""
    if platform.machine() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # torch < 2.14
