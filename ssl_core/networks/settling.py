"""What a configuration leaves open about its network, filled in; and what can be refused before a run starts."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.networks.names import RESNETS, library_of
from ssl_core.schema import BackboneConfig
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    from ssl_core.networks.base import Network


def settle(
    name: str,
    backbone: BackboneConfig,
    needs: Collection[str],
    image_size: int | None,
    num_classes: int,
) -> BackboneConfig:
    """The section `backbone` filled in for a network: the digest of a file of weights, and a ResNet's stem.

    A WideResNet with random weights needs none of this, and no torch.

    Args:
        name: of the network.
        backbone: as asked for.
        needs: what the method reads of the network's output besides logits.
        image_size: side in pixels; None: not known yet, and nothing that depends on it is filled in or checked.
        num_classes: of the data.

    Raises:
        ConfigError: a library without this network, a network that cannot take such images or lacks what the method
            needs, or weights that are not its own.
    """
    if backbone.stem != "auto" and name not in RESNETS:
        raise ConfigError(
            f"backbone.stem = {backbone.stem!r}: {name} has one stem only. Leave it out, or take one of "
            f"{', '.join(RESNETS)}."
        )
    own = name.startswith("wrn")
    if backbone.variant != "pytorch" and not own:
        raise ConfigError(
            f"backbone.variant = {backbone.variant!r}: there is one of WideResNets alone, and the network is {name}. "
            "Leave it out, or take a network such as wrn-28-2."
        )
    if own and backbone.weights == "default":
        raise ConfigError(
            f"backbone.weights = 'default': {name} comes with no library, so there are none. Take `none` or a file."
        )
    if not own:
        _check_name(name)
    backbone = _with_digest(backbone)
    if name in RESNETS and backbone.stem == "auto":
        backbone = backbone.model_copy(update={"stem": _stem(backbone, image_size)})
    if image_size is None or (own and backbone.weights == "none"):
        return backbone
    shape = _checked(name, backbone, image_size, num_classes)
    if not own:
        _check_needs(name, needs, image_size, shape)
    return backbone


def _check_name(name: str) -> None:
    library, rest = library_of(name) or ("torchvision", name)
    if library == "timm":
        from ssl_core.networks import timm_models

        timm_models.check_name(rest)
    elif rest != name:
        from ssl_core.networks import torchvision_models

        torchvision_models.check_name(rest)


def _with_digest(backbone: BackboneConfig) -> BackboneConfig:
    """With the file's digest and absolute path, since workers have other current folders.

    A file that is gone, but whose digest is known, is no error here: a checkpoint may replace it.
    """
    if backbone.weights in ("none", "default"):
        return backbone.model_copy(update={"weights_digest": None})
    known = backbone.weights_digest
    if known is not None and not Path(backbone.weights).expanduser().exists():
        return backbone
    from ssl_core.networks.weights import digest_of

    digest = digest_of(backbone.weights)
    if known not in (None, digest):
        raise ConfigError(
            f"backbone.weights = {backbone.weights!r}: the file was changed: backbone.weights_digest is {known}, the "
            f"file's is now {digest}. Restore the file, or remove weights_digest to use it as it is now."
        )
    path = str(Path(backbone.weights).expanduser().absolute())
    return backbone.model_copy(update={"weights": path, "weights_digest": digest})


def _stem(backbone: BackboneConfig, image_size: int | None) -> str:
    """A ResNet's stem: that of the weights, else by the size of the images; "auto" where that is not known."""
    if backbone.weights == "default":
        return "imagenet"
    if backbone.weights != "none" and Path(backbone.weights).expanduser().exists():
        from ssl_core.networks.weights import read_weights

        first = [v for k, v in read_weights(backbone.weights).items() if k.endswith("conv1.weight")]
        sides = [v.shape[-1] for v in first if v.ndim == 4 and v.shape[1] == 3]
        if sides:
            return "small" if sides[0] == 3 else "imagenet"
    if image_size is None:
        return "auto"
    return "small" if image_size <= 64 else "imagenet"


def _check_needs(name: str, needs: Collection[str], image_size: int, shape: tuple[int, ...]) -> None:
    if needs and not shape:
        raise ConfigError(
            f"network = {name!r}: the method needs {' and '.join(sorted(needs))}, but of this network only logits can "
            "be had. Take another network, such as resnet18, or another method."
        )
    # "attention" is what method files of earlier versions say.
    if {"positions", "attention"} & set(needs) and shape[1] * shape[2] < 2:
        raise ConfigError(
            f"network = {name!r}: the method compares several places of the last feature maps, but of images of "
            f"{image_size}x{image_size} pixels these are one pixel. Raise data.image_size, or take another network."
        )


def _checked(name: str, backbone: BackboneConfig, image_size: int, num_classes: int) -> tuple[int, ...]:
    """(D, h, w) of the last feature maps, () where there are none.

    Raises:
        ConfigError: the network cannot take such images, or the weights are not its own.
    """
    present = backbone.weights in ("none", "default") or Path(backbone.weights).expanduser().exists()
    shape, network = _shape(name, backbone.stem, image_size, num_classes)
    if present and backbone.weights not in ("none", "default"):
        _check_weights(name, backbone, network)
    return shape


@cache
def _shape(name: str, stem: str, image_size: int, num_classes: int) -> tuple[tuple[int, ...], Network]:
    """(D, h, w) of the last feature maps, and a network that is of this shape but may have no values."""
    from ssl_core.networks.library import LibraryNetwork, feature_shape
    from ssl_core.networks.registry import build_network

    arguments: dict[str, Any] = {
        "bn_momentum": 0.1,
        "seed": 0,
        "image_size": image_size,
        "backbone": BackboneConfig.model_validate({"stem": stem}),
    }
    try:
        network = build_network(name, num_classes, **arguments)
        shape = feature_shape(network, image_size) if isinstance(network, LibraryNetwork) else ()
        return shape, network.to("meta")  # without its values, which nobody needs
    except ConfigError:
        raise
    except (RuntimeError, ValueError, AssertionError, TypeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"network = {name!r}: it cannot take images of {image_size}x{image_size} pixels ({reason}). Set "
            "data.image_size to a size that it takes, or choose another network."
        ) from error


@cache
def _matched(name: str, weights: str, digest: str | None, network: Network) -> None:
    from ssl_core.networks.weights import load, read_weights

    load(network, read_weights(weights), weights, name)


def _check_weights(name: str, backbone: BackboneConfig, network: Network) -> None:
    _matched(name, backbone.weights, backbone.weights_digest, network)
