"""What a warm-up depends on: where all of it is the same, the states after its epochs have the same bits.

The warm-up is blind (invariant 5): it depends neither on the method, nor on its parameters, nor on its own length. A
head that the method adds to the network trains along, so a warm-up with a head depends on the head as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ssl_core.methods.supervised import METHOD as SUPERVISED
from ssl_core.registry import method_of
from ssl_core.schema import RunConfig
from ssl_core.system import environment

if TYPE_CHECKING:
    from ssl_core.training.run import Run

PACKAGE = Path(__file__).parents[2]
"""The folder of this package's code."""
FORMAT = 1
"""Of the key and of what is stored under it."""
WITHOUT = frozenset({"method", "method_digest", "warmup_epochs", "stop_after_epoch", "mu"})
"""Fields of a configuration, besides the method's own section, on which no bit of a warm-up depends. mu gives the
number of steps of an epoch where none is given; a resolved configuration has that number."""
_LIBRARIES = ("torchvision", "timm")
_VARIABLES = (
    "ATEN_",
    "CUBLAS_",
    "CUDNN_",
    "DNNL_",
    "ONEDNN_",
    "NVIDIA_TF32",
    "MKL_CBWR",
    "MKL_ENABLE",
    "TORCH_ALLOW",
)
"""Beginnings of the environment's variables that choose between ways to compute."""


def shared_part(config: RunConfig) -> dict[str, Any]:
    """The part of a resolved configuration that its warm-up depends on, as plain data."""
    document = config.document()
    return {name: v for name, v in document.items() if name not in WITHOUT and name != config.method}


def warmup_length(config: RunConfig) -> int:
    """How many of a run's first epochs are trained as every run's warm-up is.

    A supervised run is one long warm-up: its loss is the warm-up's.
    """
    method = method_of(config)
    if config.method == SUPERVISED.name and config.method_digest is None:
        return config.last_epoch
    return min(config.warmup_epochs or 0, config.last_epoch) if method.has_warmup else 0


def key_of(run: Run) -> str:
    """The name of everything that a run's warm-up depends on: 32 hexadecimal digits.

    Args:
        run: which has not begun: the weights at the start are part of the key.
    """
    return hashlib.sha256(json.dumps(content_of(run), sort_keys=True).encode()).hexdigest()[:32]


def content_of(run: Run) -> dict[str, Any]:
    """What `key_of` names, as plain data."""
    return {
        "format": FORMAT,
        "config": shared_part(run.config),
        "data": {
            "split": run.split.hash,
            "images": _digest_of_rows(run),
            "flip": run.data.flip,
            "mean": list(run.data.mean),
            "std": list(run.data.std),
        },
        "network": _digest_of_network(run),
        "head": _head_of(run),
        "machine": machine_of(run.config.device),
        "code": code_digest(),
    }


def _digest_of_rows(run: Run) -> str:
    """Of which images are trained and validated on, and of their labels."""
    split, labels = run.split, run.data.labels
    digest = hashlib.sha256()
    for values in (split.labelled, split.valid, labels[split.labelled], labels[split.valid]):
        digest.update(f"{values.dtype} {values.shape} ".encode() + values.tobytes())
    return digest.hexdigest()


def _digest_of_network(run: Run) -> str:
    """Of the network's layers and of its weights at the start."""
    digest = hashlib.sha256(str(run.network).encode())
    for name, value in run.network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _head_of(run: Run) -> dict[str, Any] | None:
    """The method's head; of a method that does not come with the package with all that it may have been made from."""
    if run.network.head is None:
        return None
    config = run.config
    made: dict[str, Any] = {"method": config.method, "layers": str(run.network.head)}
    if config.method_digest is not None:
        made |= {"digest": config.method_digest, "parameters": config.parameters.model_dump(mode="json")}
    return made


def machine_of(device: str) -> dict[str, Any]:
    """Processor or GPU, versions, and how torch has been told to compute."""
    told: dict[str, Any] = {
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "onednn": bool(torch._C._has_mkldnn),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
    }
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda: None)()
        version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        told |= {"cudnn": version, "memory": total, "share": share}
        told["tf32"] = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    return {**environment.fingerprint(device), **_library_versions(), **told}


@cache
def _library_versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """Of all the code of this package: another version of it may train to other bits."""
    root = PACKAGE
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
