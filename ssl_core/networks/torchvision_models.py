"""Classification models of torchvision, and its ResNets with a stem for small images.

Every function of a family repeats the forward pass of its torchvision module, split before the classifier, so that
methods can read the last feature maps. Inception and GoogLeNet give logits only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from ssl_core.networks.base import Statistics
from ssl_core.networks.library import LibraryNetwork, Parts, last_layer, same
from ssl_core.system.errors import ConfigError, unknown


def check_name(name: str) -> None:
    """Refuse what is no classification model of torchvision.

    Raises:
        ConfigError: with the nearest names.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise unknown("network", f"torchvision:{name}", [f"torchvision:{each}" for each in known])


def build(name: str, num_classes: int, image_size: int) -> LibraryNetwork:
    """A model of torchvision, initialised from PyTorch's own generator.

    Args:
        name: in torchvision, such as ``resnet18``.
        num_classes: outputs of the classifier.
        image_size: side in pixels; a transformer's position embeddings depend on it.
    """
    check_name(name)
    arguments: dict[str, Any] = {}
    if name.startswith("vit"):
        arguments["image_size"] = image_size
    elif name.startswith("maxvit"):
        arguments["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):
        arguments |= {"aux_logits": False, "init_weights": True}
    trunk = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    return LibraryNetwork(
        trunk,
        _parts(trunk),
        (last_layer(trunk),),
        left_out=("aux1.", "aux2.", "AuxLogits."),
        adapt=_resampled if isinstance(trunk, models.VisionTransformer) else None,
    )


def build_resnet(name: str, num_classes: int, *, small_stem: bool) -> LibraryNetwork:
    """`resnet18`, `resnet34` or `resnet50`, with ImageNet's stem or a small one.

    The small stem is a 3x3 convolution without stride, and no pooling, as for CIFAR-10 in He et al. (2016), section
    4.2. With ImageNet's, an image of 32 pixels would leave a single position of the last feature maps.
    """
    trunk: Any = models.get_model(name, weights=None, num_classes=num_classes)
    if small_stem:
        trunk.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        trunk.maxpool = nn.Identity()
    network = LibraryNetwork(trunk, _parts(trunk), ("fc",))
    network.draws_noise = False  # a ResNet has neither dropout nor stochastic depth
    return network


def default_weights(name: str) -> dict[str, Tensor]:
    """The state dict that torchvision recommends for a model, downloaded at first use.

    Raises:
        ConfigError: there is none, or it cannot be downloaded; torchvision's own error is in the message.
    """
    weights = _weights_of(name)
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"backbone.weights = 'default': torchvision's {weights} could not be loaded from {weights.url}: {error}. "
            "Name a file instead, or take `none`."
        ) from error
    return state


def default_statistics(name: str) -> Statistics:
    """Mean and standard deviation of the images that `default_weights` were trained on, by channel, of pixels / 255."""
    transforms = _weights_of(name).transforms()
    (r, g, b), (r_std, g_std, b_std) = transforms.mean, transforms.std
    return (r, g, b), (r_std, g_std, b_std)


def _weights_of(name: str) -> Any:
    weights = list(models.get_model_weights(name))
    if not weights:
        raise ConfigError(
            f"backbone.weights = 'default': torchvision has no weights of {name}. Take `none` or a file."
        )
    return models.get_model_weights(name).DEFAULT


def _resampled(trunk: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    name = "encoder.pos_embedding"
    if name not in state or state[name].shape == trunk.encoder.pos_embedding.shape:
        return state
    found: dict[str, Tensor] = interpolate_embeddings(trunk.image_size, trunk.patch_size, dict(state))
    return found


def _parts(trunk: nn.Module) -> Parts | None:
    """How a model of torchvision is taken apart; None: it is not known how."""
    if isinstance(trunk, models.VisionTransformer):
        return Parts(_vit_tokens, _vit_classify, _vit_maps, _vit_classify_maps)
    for family, (encode, classify) in _FAMILIES.items():
        if isinstance(trunk, family):
            return Parts(encode, classify, same, classify)
    return None


def _by_features(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.features(x)
    return features


def _pooled(layer: str, pool: str | None = "avgpool") -> Callable[[Any, Tensor], Tensor]:
    """The classifier `layer` of the flattened average, made by the model's own pooling or a global one."""

    def classify(model: Any, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(x, 1) if pool is None else getattr(model, pool)(x)
        logits: Tensor = getattr(model, layer)(torch.flatten(x, 1))
        return logits

    return classify


def _averaged(layer: str) -> Callable[[Any, Tensor], Tensor]:
    def classify(model: Any, x: Tensor) -> Tensor:
        logits: Tensor = getattr(model, layer)(x.mean([2, 3]))
        return logits

    return classify


def _resnet(model: Any, x: Tensor) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    features: Tensor = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return features


def _densenet(model: Any, x: Tensor) -> Tensor:
    return functional.relu(model.features(x), inplace=True)


def _mnasnet(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.layers(x)
    return features


def _shufflenet(model: Any, x: Tensor) -> Tensor:
    x = model.maxpool(model.conv1(x))
    features: Tensor = model.conv5(model.stage4(model.stage3(model.stage2(x))))
    return features


def _regnet(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.trunk_output(model.stem(x))
    return features


def _swin(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.permute(model.norm(model.features(x)))
    return features


def _maxvit(model: Any, x: Tensor) -> Tensor:
    x = model.stem(x)
    for block in model.blocks:
        x = block(x)
    return x


def _whole_classifier(model: Any, x: Tensor) -> Tensor:
    """SqueezeNet and MaxVit pool within the classifier."""
    return torch.flatten(model.classifier(x), 1)


def _convnext(model: Any, x: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.avgpool(x))
    return logits


_FAMILIES: dict[type[Any], tuple[Callable[[Any, Tensor], Tensor], Callable[[Any, Tensor], Tensor]]] = {
    models.ResNet: (_resnet, _pooled("fc")),
    models.AlexNet: (_by_features, _pooled("classifier")),
    models.VGG: (_by_features, _pooled("classifier")),
    models.SqueezeNet: (_by_features, _whole_classifier),
    models.DenseNet: (_densenet, _pooled("classifier", None)),
    models.MobileNetV2: (_by_features, _pooled("classifier", None)),
    models.MobileNetV3: (_by_features, _pooled("classifier")),
    models.EfficientNet: (_by_features, _pooled("classifier")),
    models.ConvNeXt: (_by_features, _convnext),
    models.MNASNet: (_mnasnet, _averaged("classifier")),
    models.ShuffleNetV2: (_shufflenet, _averaged("fc")),
    models.RegNet: (_regnet, _pooled("fc")),
    models.SwinTransformer: (_swin, _pooled("head")),
    models.MaxVit: (_maxvit, _whole_classifier),
}


def _vit_tokens(model: Any, x: Tensor) -> Tensor:
    """(n, 1 + h * w, D): the class token and those of the patches, as in VisionTransformer.forward."""
    x = model._process_input(x)
    tokens: Tensor = model.encoder(torch.cat([model.class_token.expand(len(x), -1, -1), x], dim=1))
    return tokens


def _vit_classify(model: Any, tokens: Tensor) -> Tensor:
    logits: Tensor = model.heads(tokens[:, 0])
    return logits


def _vit_maps(model: Any, tokens: Tensor) -> Tensor:
    side = model.image_size // model.patch_size
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _vit_classify_maps(model: Any, maps: Tensor) -> Tensor:
    logits: Tensor = model.heads(maps.mean(dim=(2, 3)))
    return logits
