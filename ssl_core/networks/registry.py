"""The networks by name. A new one is named in `ssl_core.networks.names` and built here, in `_initialised`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ssl_core.methods.base import has_own_head
from ssl_core.networks.names import SMALLEST, library_of, parse_network
from ssl_core.registry import method_of
from ssl_core.schema import BackboneConfig, RunConfig
from ssl_core.system.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from ssl_core.networks.base import Head, HeadMaker, Network, Statistics
    from ssl_core.networks.library import LibraryNetwork

__all__ = ["SMALLEST", "build_network", "network_of", "normalisation_of", "parse_network"]
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels / 255, by channel, as torchvision and most models have them."""


def network_of(config: RunConfig, num_classes: int, image_size: int, *, load_weights: bool = True) -> Network:
    """The network of a configuration, as `build_network` gives it.

    Args:
        config: resolved.
        num_classes: outputs of the classifier.
        image_size: side of the images in pixels.
        load_weights: False where a state dict is loaded afterwards: no weights are read or downloaded.

    Raises:
        ConfigError: as `build_network`.
    """
    method = method_of(config)
    return build_network(
        config.network or "",
        num_classes,
        bn_momentum=config.bn_momentum or 0.1,
        seed=config.seed,
        head=partial(method.head, config.parameters) if has_own_head(method) else None,
        image_size=image_size,
        backbone=config.backbone,
        load_weights=load_weights,
    )


def build_network(
    name: str,
    num_classes: int,
    *,
    bn_momentum: float,
    seed: int,
    head: HeadMaker | None = None,
    image_size: int = 32,
    backbone: BackboneConfig | None = None,
    load_weights: bool = True,
) -> Network:
    """The initialised network of a name such as ``wrn-28-2``, on the CPU, channels-last.

    Args:
        name: as in the configuration.
        num_classes: outputs of the classifier.
        bn_momentum: weight of a new batch in BatchNorm's running statistics.
        seed: of the training; the backbone and the method's head have a random stream each.
        head: makes the method's head; None: there is none.
        image_size: side of the images in pixels.
        backbone: weights to start from, and more; a ResNet's stem `auto` goes by the image size alone.
        load_weights: False: leave the initial weights random.

    Raises:
        ValueError: if the name is not a network's.
        ConfigError: a library or a file of weights lacks what is asked for.
    """
    # Delayed, because it loads torch, and a configuration that names a network is checked without it.
    import torch

    from ssl_core.networks.wide_resnet import REFERENCE_EPSILON

    backbone = backbone or BackboneConfig()
    seeded = None if head is None else partial(_seeded, head, seed)
    network = _initialised(name, num_classes, bn_momentum, seed, seeded, image_size, backbone)
    is_reference = backbone.variant == "reference"
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = bn_momentum
            module.eps = backbone.bn_epsilon or (REFERENCE_EPSILON if is_reference else module.eps)
    if load_weights and backbone.weights != "none":
        _load(network, name, image_size, backbone)
    return network.to(memory_format=torch.channels_last)


def normalisation_of(config: RunConfig) -> Statistics | None:
    """Mean and standard deviation by channel that images are normalised with; None: the data's own.

    Args:
        config: resolved.
    """
    backbone = config.backbone
    if backbone.normalise == "imagenet":
        return IMAGENET
    if backbone.normalise == "data" or backbone.weights == "none":
        return None
    if backbone.weights != "default":
        from ssl_core.networks.weights import statistics_of

        return statistics_of(backbone.weights)
    library, name = library_of(config.network or "") or ("torchvision", config.network or "")
    if library == "timm":
        from ssl_core.networks import timm_models

        return timm_models.default_statistics(name)
    from ssl_core.networks import torchvision_models

    return torchvision_models.default_statistics(name)


def small_stem(backbone: BackboneConfig, image_size: int) -> bool:
    """Whether a ResNet has the stem for small images, where its weights do not say."""
    return backbone.stem == "small" or (backbone.stem == "auto" and image_size <= 64)


def _seeded(head: HeadMaker, seed: int, channels: int) -> Head | None:
    """The head with its initial values, from a random stream of its own.

    Raises:
        ConfigError: what the method gave is no head.
    """
    import torch

    from ssl_core.networks.base import Head
    from ssl_core.training.rng import generator, stream_seed

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "attention head"))
        made: object = head(channels)
    if made is not None and not isinstance(made, Head):
        raise ConfigError(
            f"the method's head() returned {type(made).__name__}: a module derived from ssl_core.networks.base.Head is "
            "expected, or None."
        )
    if made is not None:
        made.initialise(generator(seed, "attention head"))
    return made


def _initialised(
    name: str,
    num_classes: int,
    bn_momentum: float,
    seed: int,
    head: HeadMaker | None,
    image_size: int,
    backbone: BackboneConfig,
) -> Network:
    """The network with random weights."""
    from ssl_core.networks.wide_resnet import WideResNet
    from ssl_core.training.rng import generator

    if name.startswith("wrn"):
        depth, width = parse_network(name)
        network = WideResNet(depth, width, num_classes, bn_momentum, head, backbone.variant == "reference")
        network.initialise(generator(seed, "initialisation"))
        return network
    return _of_library(name, num_classes, seed, head, image_size, backbone)


def _of_library(
    name: str,
    num_classes: int,
    seed: int,
    head: HeadMaker | None,
    image_size: int,
    backbone: BackboneConfig,
) -> LibraryNetwork:
    """A library's network. It is initialised by the library, from PyTorch's own generator, seeded for this alone."""
    import torch

    from ssl_core.networks import library
    from ssl_core.training.rng import generator, stream_seed

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "initialisation"))
        network = _bare(name, num_classes, image_size, backbone)
    library.initialise_classifier(network, generator(seed, "initialisation", 1))
    shape = library.feature_shape(network, image_size) if head is not None else ()
    if head is not None and shape:
        network.head = head(shape[0])
    return network


def _bare(name: str, num_classes: int, image_size: int, backbone: BackboneConfig) -> LibraryNetwork:
    library, rest = library_of(name) or ("torchvision", name)
    if library == "timm":
        from ssl_core.networks import timm_models

        return timm_models.build(rest, num_classes, image_size)
    from ssl_core.networks import torchvision_models

    if rest != name:
        return torchvision_models.build(rest, num_classes, image_size)
    return torchvision_models.build_resnet(name, num_classes, small_stem=small_stem(backbone, image_size))


def default_weights(name: str, image_size: int) -> dict[str, torch.Tensor]:
    """The state dict that a network's library recommends, downloaded at first use.

    Raises:
        ConfigError: there is none, or it cannot be downloaded.
    """
    library, rest = library_of(name) or ("torchvision", name)
    if library == "timm":
        from ssl_core.networks import timm_models

        return timm_models.default_weights(rest, image_size)
    from ssl_core.networks import torchvision_models

    return torchvision_models.default_weights(rest)


def _load(network: Network, name: str, image_size: int, backbone: BackboneConfig) -> None:
    from ssl_core.networks import weights as files

    given = backbone.weights
    state = default_weights(name, image_size) if given == "default" else files.read_weights(given)
    files.load(network, state, backbone.weights, name)
