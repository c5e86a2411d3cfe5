"""Models of timm (the extra `timm`), taken apart by the two functions that all of its models have.

`forward_features` gives feature maps or tokens, `forward_head` pools and classifies them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.networks.base import Statistics
from ssl_core.networks.library import LibraryNetwork, Parts, same
from ssl_core.system.errors import ConfigError, unknown


def _timm() -> Any:
    """The library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"networks named timm:NAME need the package timm ({error}). Install it: pip install 'ssl-tune[timm]'."
        ) from error
    return timm


def check_name(name: str) -> None:
    """Refuse what is no model of timm.

    Raises:
        ConfigError: with the nearest names; or timm is not installed.
    """
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("network", f"timm:{name}", [f"timm:{each}" for each in timm.list_models()])


def build(name: str, num_classes: int, image_size: int) -> LibraryNetwork:
    """A model of timm, initialised from PyTorch's own generator.

    Args:
        name: in timm, such as ``vit_tiny_patch16_224``; a tag of weights after a dot counts for `default_weights`.
        num_classes: outputs of the classifier.
        image_size: side in pixels. A model for one size alone, such as a ViT, is built for this one.
    """
    check_name(name)
    return _network(_create(name, num_classes, image_size, pretrained=False), image_size)


def default_weights(name: str, image_size: int) -> dict[str, Tensor]:
    """The state dict that timm recommends for a model, downloaded at first use and fitted to the image size.

    Raises:
        ConfigError: there is none, or it cannot be downloaded; timm's own error is in the message.
    """
    try:
        model = _create(name, None, image_size, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"backbone.weights = 'default': timm could not load the weights of {name}: {error} "
            "Name a file instead, or take `none`."
        ) from error
    state: dict[str, Tensor] = model.state_dict()
    return state


def default_statistics(name: str) -> Statistics:
    """Mean and standard deviation of the images that `default_weights` were trained on, by channel, of pixels / 255."""
    settings = _timm().get_pretrained_cfg(name)
    (r, g, b), (r_std, g_std, b_std) = settings.mean, settings.std
    return (r, g, b), (r_std, g_std, b_std)


def _create(name: str, num_classes: int | None, image_size: int, *, pretrained: bool) -> Any:
    timm = _timm()
    settings = timm.get_pretrained_cfg(name)
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if settings is not None and settings.fixed_input_size:
        arguments["img_size"] = image_size
    return timm.create_model(name, pretrained=pretrained, **arguments)


def _network(trunk: Any, image_size: int) -> LibraryNetwork:
    classifier = trunk.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    # Several classifiers (a distilled model's) are averaged within the model: it gives logits only.
    parts = _parts(trunk, image_size) if len(names) == 1 else None
    adapt = _resampled if hasattr(trunk, "pos_embed") and hasattr(trunk, "patch_embed") else None
    return LibraryNetwork(trunk, parts, names, adapt=adapt)


def _parts(trunk: Any, image_size: int) -> Parts | None:
    """How a model is taken apart, from the shape of what `forward_features` gives; None: it is another shape."""
    was_training = trunk.training
    device = next(trunk.parameters()).device
    with torch.no_grad():
        shape = trunk.eval().forward_features(torch.zeros(1, 3, image_size, image_size, device=device)).shape
    trunk.train(was_training)
    if len(shape) == 4 and shape[1] == trunk.num_features:
        return Parts(_encode, _classify, same, _classify)
    if len(shape) == 4 and shape[3] == trunk.num_features:
        return Parts(_encode, _classify, _to_channels_first, _classify_channels_first)
    grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    if len(shape) == 3 and grid is not None and grid[0] * grid[1] + _prefix(trunk) == shape[1]:
        return Parts(_encode, _classify, _tokens_to_maps, _classify_mean)
    return None


def _encode(model: Any, x: Tensor) -> Tensor:
    encoded: Tensor = model.forward_features(x)
    return encoded


def _classify(model: Any, encoded: Tensor) -> Tensor:
    logits: Tensor = model.forward_head(encoded)
    return logits


def _to_channels_first(_: Any, encoded: Tensor) -> Tensor:
    return encoded.permute(0, 3, 1, 2)


def _classify_channels_first(model: Any, maps: Tensor) -> Tensor:
    return _classify(model, maps.permute(0, 2, 3, 1))


def _prefix(model: Any) -> int:
    """Tokens before those of the patches: the class token and registers."""
    return int(getattr(model, "num_prefix_tokens", 0))


def _tokens_to_maps(model: Any, tokens: Tensor) -> Tensor:
    return tokens[:, _prefix(model) :].transpose(1, 2).reshape(len(tokens), -1, *model.patch_embed.grid_size)


def _classify_mean(model: Any, maps: Tensor) -> Tensor:
    pooled = maps.mean(dim=(2, 3))
    for layer in ("fc_norm", "head_drop"):
        pooled = getattr(model, layer, nn.Identity())(pooled)
    logits: Tensor = model.get_classifier()(pooled)
    return logits


def _resampled(trunk: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Position embeddings of another image size, resampled to this one's grid as timm does."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    there, here = state.get("pos_embed"), trunk.pos_embed
    if there is None or here is None or there.shape == here.shape or there.ndim != 3 or here.ndim != 3:
        return state
    prefix = here.shape[1] - trunk.patch_embed.grid_size[0] * trunk.patch_embed.grid_size[1]
    resampled = resample_abs_pos_embed(
        there, new_size=list(trunk.patch_embed.grid_size), num_prefix_tokens=prefix
    )
    return {**state, "pos_embed": resampled}
