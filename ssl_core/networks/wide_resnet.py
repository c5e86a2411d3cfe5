"""WideResNet (Zagoruyko and Komodakis 2016) as in the FixMatch reference code.

As in google-research/fixmatch, libml/models.py: LeakyReLU 0.1, pre-activation, only the first block
of stage 1 activates before the residual, convolutions N(0, sqrt(2 / (k*k*out))), classifier Xavier normal
with zero bias. BatchNorm's momentum is a field of the configuration. Its epsilon is 1e-5, as in the PyTorch ports (the
reference has 1e-3), unless `backbone.bn_epsilon` says otherwise (docs/networks.md).

Shapes: n images, D = 64 * width channels of the last feature maps, h = w = side / 4, C classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ssl_core.networks.attention import AttentionHead
from ssl_core.networks.base import Network, NetworkOutput

LEAK = 0.1


class Block(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and LeakyReLU, and the residual."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activate_before_residual: bool, bn: float
    ) -> None:
        super().__init__()
        self.activate_before_residual = activate_before_residual
        self.bn1 = nn.BatchNorm2d(inputs, momentum=bn)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs, momentum=bn)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = _activate(self.bn1(images))
        residual = active if self.activate_before_residual else images
        inner: torch.Tensor = self.conv2(_activate(self.bn2(self.conv1(active))))
        return inner.add_(residual if self.shortcut is None else self.shortcut(residual))


def _activate(normalised: torch.Tensor) -> torch.Tensor:
    """LeakyReLU, in place: BatchNorm's gradient needs its input and not its output."""
    return functional.leaky_relu_(normalised, LEAK)


class WideResNet(Network):
    """WRN-depth-width for small colour images.

    Args:
        depth: 6n + 4.
        width: widening factor k: 16k, 32k and 64k channels.
        num_classes: C.
        bn_momentum: weight of a new batch in BatchNorm's running statistics.
        attention_maps: M of the attention head; 0: no head, plain average pooling.
    """

    def __init__(
        self, depth: int, width: int, num_classes: int, bn_momentum: float = 0.1, attention_maps: int = 0
    ) -> None:
        super().__init__()
        blocks_per_stage = (depth - 4) // 6
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks, channels = [], 16
        for stage, outputs in enumerate([16 * width, 32 * width, 64 * width]):
            for number in range(blocks_per_stage):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(channels, outputs, stride, stage == 0 and number == 0, bn_momentum))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.classifier = nn.Linear(channels, num_classes)
        self.head = AttentionHead(channels, attention_maps, bn_momentum) if attention_maps else None

    left_out = ("head.",)  # a file may be of a network with an attention head

    @property
    def heads(self) -> list[nn.Module]:
        return [self.classifier] if self.head is None else [self.classifier, self.head]

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        features = _activate(self.bn(self.blocks(self.stem(images))))
        if self.head is None:
            return NetworkOutput(self.classifier(features.mean(dim=(2, 3))), features)
        maps = self.head(features)
        # The report's "bi-pooling": the sum of the maps weights the features before the global average.
        pooled = (maps.sum(dim=1, keepdim=True) * features).mean(dim=(2, 3))
        return NetworkOutput(self.classifier(pooled), features, maps)

    def initialise(self, backbone: torch.Generator, head: torch.Generator) -> None:
        """Initialise every parameter (on the CPU, so that every device starts with the same bits).

        The head has its own random stream, so the backbone's bits are the same with and without it.
        """
        own_stream = set() if self.head is None else set(self.head.modules())
        for module in self.modules():
            stream = head if module in own_stream else backbone
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, (2 / fan_out) ** 0.5, generator=stream)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, generator=stream)
                nn.init.zeros_(module.bias)
