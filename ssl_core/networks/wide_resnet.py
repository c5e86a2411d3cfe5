"""WideResNet (Zagoruyko and Komodakis 2016) as in the FixMatch reference code.

As in google-research/fixmatch, libml/models.py: LeakyReLU 0.1, pre-activation, only the first block
of stage 1 activates before the residual, convolutions N(0, sqrt(2 / (k*k*out))), classifier Xavier normal
with zero bias. BatchNorm's momentum is a field of the configuration.

Three things are as in the PyTorch ports instead: BatchNorm's epsilon is 1e-5 (the reference: 1e-3), strided
convolutions pad one pixel on every side (TensorFlow's SAME pads an even side at its end alone), and convolutions have
no biases, which change nothing before a BatchNorm. `backbone.variant: reference` has the reference's epsilon and
padding (docs/networks.md).

Shapes: n images, D = 64 * width channels of the last feature maps, h = w = side / 4, C classes.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ssl_core.networks.base import HeadMaker, Network, NetworkOutput

LEAK = 0.1
REFERENCE_EPSILON = 1e-3


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: ceil(side / stride) outputs, an odd pixel of padding at the end."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        around: list[int] = []
        for axis in (1, 0):  # functional.pad wants the last axis first
            side, kernel, stride = images.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            around += [padding // 2, padding - padding // 2]
        return super().forward(functional.pad(images, around))


class Block(nn.Module):
    """Two 3x3 convolutions, each after BatchNorm and LeakyReLU, and the residual."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, activate_before_residual: bool, bn: float, same: bool
    ) -> None:
        super().__init__()
        self.activate_before_residual = activate_before_residual
        self.bn1: nn.Module = nn.BatchNorm2d(inputs, momentum=bn)
        if same and stride > 1:
            self.conv1: nn.Conv2d = SameConv2d(inputs, outputs, 3, stride, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs, momentum=bn)
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


def _fused(convolution: nn.Conv2d, batchnorm: nn.Module) -> nn.Conv2d:
    """A convolution and the BatchNorm after it, both in evaluation mode, as one convolution with a bias."""
    assert isinstance(batchnorm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, batchnorm)


class WideResNet(Network):
    """WRN-depth-width for small colour images.

    Args:
        depth: 6n + 4.
        width: widening factor k: 16k, 32k and 64k channels.
        num_classes: C.
        bn_momentum: weight of a new batch in BatchNorm's running statistics.
        head: makes a method's head for so many channels; None: no head.
        same: whether strided convolutions have TensorFlow's SAME padding; False: a pixel on every side.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        bn_momentum: float = 0.1,
        head: HeadMaker | None = None,
        same: bool = False,
    ) -> None:
        super().__init__()
        blocks_per_stage = (depth - 4) // 6
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks, channels = [], 16
        for stage, outputs in enumerate([16 * width, 32 * width, 64 * width]):
            for number in range(blocks_per_stage):
                stride = 2 if stage > 0 and number == 0 else 1
                first = stage == 0 and number == 0
                blocks.append(Block(channels, outputs, stride, first, bn_momentum, same))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.classifier = nn.Linear(channels, num_classes)
        self.head = None if head is None else head(channels)

    left_out = ("head.",)  # a file may be of a network with a method's head

    @property
    def heads(self) -> list[nn.Module]:
        return [self.classifier] if self.head is None else [self.classifier, self.head]

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        features = _activate(self.bn(self.blocks(self.stem(images))))
        if self.head is None:
            return NetworkOutput(self.classifier(features.mean(dim=(2, 3))), features)
        values = self.head(features)
        weights = self.head.pooling(values)
        weighted = features if weights is None else weights * features
        return NetworkOutput(self.classifier(weighted.mean(dim=(2, 3))), features, values)

    def folded(self) -> WideResNet:
        """As in the base class: BatchNorms become part of the convolution before them, whose output goes nowhere else.

        These are every block's second one and, because the first block activates before the residual, its first one.
        """
        network = copy.deepcopy(self)
        first = True
        for block in network.blocks:
            assert isinstance(block, Block)
            if first:
                network.stem, block.bn1 = _fused(network.stem, block.bn1), nn.Identity()
            block.conv1, block.bn2 = _fused(block.conv1, block.bn2), nn.Identity()
            first = False
        return network

    def initialise(self, stream: torch.Generator) -> None:
        """Initialise every parameter but the head's (on the CPU, so that every device starts with the same bits)."""
        for part in (self.stem, *self.blocks.modules()):
            if isinstance(part, nn.Conv2d):
                fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels
                nn.init.normal_(part.weight, 0.0, (2 / fan_out) ** 0.5, generator=stream)
        nn.init.xavier_normal_(self.classifier.weight, generator=stream)
        nn.init.zeros_(self.classifier.bias)
