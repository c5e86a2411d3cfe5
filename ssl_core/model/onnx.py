"""A model as an ONNX file, for programs without PyTorch. Needs the extra `onnx`."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import torch
from torch import nn

from ssl_core.model.model import Model
from ssl_core.system.errors import ConfigError

OPSET = 18


class _Graph(nn.Module):
    """Pixels to logits, and to probabilities under the temperature."""

    def __init__(self, module: nn.Module, temperature: float) -> None:
        super().__init__()
        self.module, self.temperature = module, temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.module(images)
        return logits, (logits / self.temperature).softmax(dim=1)


def check_onnx(path: Path) -> None:
    """Refuse what cannot become an ONNX file, before anything is trained for it.

    Raises:
        ConfigError: another ending, no such folder, or a package that is missing.
    """
    if path.suffix != ".onnx":
        raise ConfigError(f"--onnx {path}: name a file that ends in .onnx.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(
            f"--onnx {path}: the folder {path.absolute().parent} does not exist. Make it first."
        )
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--onnx needs the package {name}: pip install 'ssl-tune[onnx]'.")


def to_onnx(model: Model, path: Path) -> None:
    """Write a model as one ONNX file.

    Its input `images` is (n, S, S, 3) uint8: red, green and blue of images that are resized already. Its outputs are
    `logits` and `probabilities` (calibrated), both (n, C) float32. Its metadata `classes` is their names as JSON.

    Args:
        model: on the CPU, in float32.
        path: see `check_onnx`.

    Raises:
        ConfigError: see `check_onnx`.
    """
    import onnx

    check_onnx(path)
    size = model.card.image.size
    graph = _Graph(model.module, model.card.temperature).eval()
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("n")}},
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"classes": json.dumps(model.classes), "image_size": str(size)})
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_bytes(proto.SerializeToString())
    aside.replace(path)
