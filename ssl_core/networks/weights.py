"""Weights to start from: read from a file, compared with the network, and loaded without its classifier.

A file is one of: safetensors; a state dict that `torch.save` wrote, also inside a dictionary under a usual name; a
checkpoint of this project (its averaged weights); a model's folder. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_core.networks.base import Network, Statistics
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint

MODEL_FILE, MODEL_DOCUMENT = "model.safetensors", "model.json"
_WRAPPED = ("state_dict", "model_state_dict", "model_ema", "ema", "model", "network", "net")
"""Names under which training programs keep the state dict in a dictionary, the averaged one first."""
_PREFIXES = ("", "trunk.", "module.", "model.", "network.", "backbone.", "encoder.", "module.trunk.")
_NAMED = 3
"""Names of parameters that a message lists of each kind."""


def digest_of(weights: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a file of weights.

    Raises:
        ConfigError: it cannot be read.
    """
    path = _path_of(weights)
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise _unreadable(weights, error.strerror or str(error)) from None


@cache  # a file of some hundred megabytes is read once a process
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_weights(weights: str) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    Raises:
        ConfigError: there is no such file, it is damaged or of another kind, or it holds Python objects that would have
            to be unpickled.
    """
    path = _path_of(weights)
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[: len(checkpoint.MAGIC)] == checkpoint.MAGIC:
            return _tensors(checkpoint.read(path)["ema"], weights)
        if head[8:9] == b"{":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():  # of the format of a file that is refused anyway
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(weights, error.strerror or str(error)) from None
    except pickle.UnpicklingError:
        raise ConfigError(
            f"backbone.weights = {weights!r}: the file holds Python objects (a pickle), which could run code when they "
            "are loaded. It is refused. Save the weights alone: torch.save(model.state_dict(), FILE), or safetensors."
        ) from None
    except Exception as error:  # every reader has errors of its own for a file that is damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unreadable(weights, f"it holds no weights that can be read ({reason})") from None
    return _tensors(found, weights)


def statistics_of(weights: str) -> Statistics | None:
    """Mean and standard deviation by channel, of pixels / 255, where the file or its folder names them.

    They are JSON lists `mean` and `std` in the metadata of a safetensors file, or in the section `image` of a model's
    document.
    """
    path = _path_of(weights)
    document = path.with_name(MODEL_DOCUMENT)
    found: Any = None
    if path.name == MODEL_FILE and document.exists():
        found = json.loads(document.read_text(encoding="utf-8")).get("image")
    else:
        with path.open("rb") as file:
            head = file.read(9)
            if head[8:9] == b"{":
                header = json.loads(b"{" + file.read(int.from_bytes(head[:8], "little") - 1))
                metadata = header.get("__metadata__", {})
                found = {name: json.loads(metadata[name]) for name in ("mean", "std") if name in metadata}
    if not found or not {"mean", "std"} <= found.keys():
        return None
    (r, g, b), (r_std, g_std, b_std) = found["mean"], found["std"]
    return (r, g, b), (r_std, g_std, b_std)


def load(network: Network, state: Mapping[str, Tensor], weights: str, name: str) -> None:
    """Load a state dict into a network, all but its classifier and attention head.

    Args:
        network: to load them into.
        state: of the same architecture; its classifier may be for other classes.
        weights: as in the configuration, for messages.
        name: of the network, for messages.

    Raises:
        ConfigError: the weights are of another architecture; names what differs.
    """
    own = network.body.state_dict()
    heads = _head_names(network)
    wanted = {key: value for key, value in own.items() if not key.startswith(heads)}
    left_out = heads + network.left_out
    given = {key: value for key, value in _unprefixed(state, wanted).items() if not key.startswith(left_out)}
    given = network.adapted(given)
    _check(wanted, given, weights, name)
    with torch.no_grad():
        for key, value in given.items():
            if not value.is_meta and not own[key].is_meta:
                own[key].copy_(value)


def _head_names(network: Network) -> tuple[str, ...]:
    """Beginnings of the names, in the body's state dict, of what is not the backbone."""
    heads = {id(module) for module in network.heads}
    return tuple(f"{key}." for key, module in network.body.named_modules() if id(module) in heads)


def _unprefixed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without what a wrapper put before every name."""

    def without(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    best = max(_PREFIXES, key=lambda prefix: len(without(prefix).keys() & wanted.keys()))
    return without(best)


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], weights: str, name: str) -> None:
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [k for k in given if k not in wanted]
    shapes = [
        f"{k} is {tuple(given[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:_NAMED])}{', ...' if len(found) > _NAMED else ''})"
        for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise ConfigError(
            f"backbone.weights = {weights!r}: these are not the weights of {name}: {'; '.join(problems)}. Name the "
            "network that they are of, or other weights."
        )


def _path_of(weights: str) -> Path:
    path = Path(weights).expanduser()
    return path / MODEL_FILE if path.is_dir() else path


def _tensors(found: Any, weights: str) -> dict[str, Tensor]:
    """The state dict in what a file held."""
    for name in _WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise _unreadable(
            weights,
            f"it holds no state dict but {type(found).__name__}. Save one: torch.save(model.state_dict(), FILE)",
        )
    return {str(key): value for key, value in found.items()}


def _unreadable(weights: str, reason: str) -> ConfigError:
    return ConfigError(
        f"backbone.weights = {weights!r}: {reason}. Accepted: none, default, or the path of a file."
    )
