"""What a model's folder says of the model: ``model.json``, read and written without torch.

It holds all that is needed to build the network, to make images into its input and to know how good it is. Nothing in
it is code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ssl_core.data.decoding.picture import Shape, colour
from ssl_core.schema import Section
from ssl_core.system.errors import ConfigError

FORMAT = 1
"""Of the folder. A version that reads the folder refuses a newer one."""
CARD_FILE, WEIGHTS_FILE, README_FILE = "model.json", "model.safetensors", "README.md"
_OURS = frozenset((CARD_FILE, WEIGHTS_FILE, README_FILE))


class Network(Section):
    """The network: its name, and maps of the attention head that its method added (0: no head)."""

    name: str
    attention_maps: int = Field(0, ge=0)


class ImageRule(Section):
    """How an image becomes the network's input.

    Attributes:
        size: side in pixels.
        resize: of an image that is not square.
        background: colour below transparent pixels and beside padded images.
        bits: of grey images with more than 8 bits: values up to 2 ** bits - 1 are scaled to 8 bits.
        flip: whether mirrored images were trained on, that is whether a mirrored image keeps its label.
        mean: of each channel, of pixel / 255; subtracted.
        std: likewise; divided by.
        pillow: version of Pillow that decoded the training images.
    """

    size: int = Field(ge=1)
    resize: Literal["crop", "pad", "stretch"]
    background: str
    bits: int = Field(ge=8, le=16)
    flip: bool
    mean: list[float] = Field(min_length=3, max_length=3)
    std: list[float] = Field(min_length=3, max_length=3)
    pillow: str

    def shape(self) -> Shape:
        """What decoded images are made into."""
        return Shape(self.size, self.resize, colour(self.background), self.bits)


class Measured(Section):
    """Errors in percent on `images` images."""

    images: int
    error: float
    error_balanced: float | None = None
    error_by_class: dict[str, float | None] | None = None


class Calibration(Section):
    """How sure the model is, and how often it is right.

    Attributes:
        temperature: that logits are divided by before the softmax.
        images: validation images that it was fitted on.
        expected_calibration_error: mean gap between confidence and accuracy in points, on those images.
        expected_calibration_error_raw: likewise with a temperature of 1.
        fitted_on: "validation images", or those of the sibling: the same training without `refit`.
    """

    temperature: float = Field(gt=0)
    images: int
    expected_calibration_error: float
    expected_calibration_error_raw: float
    fitted_on: Literal["validation images", "validation images of the sibling"]


class Card(Section):
    """``model.json``.

    Attributes:
        format: of the folder, see FORMAT.
        created: UTC.
        network: see `Network`.
        classes: their names, in the order of the outputs.
        image: see `ImageRule`.
        method: the training method's name.
        configuration: of the training, resolved (`ssl_core.schema.RunConfig.document`).
        epochs: of the training, finished.
        split_hash: of the split of the training images.
        versions: processor and versions of the training.
        validation, test: errors measured; None: not measured on these images.
        calibration: None: no validation images to fit on (a refit without its sibling).
        origin: where the model comes from: the study, the trial, the seed.
        weights_sha256: of the file of the weights.
    """

    format: int
    created: str
    network: Network
    classes: list[str] = Field(min_length=2)
    image: ImageRule
    method: str
    configuration: dict[str, Any]
    epochs: int
    split_hash: str
    versions: dict[str, str]
    validation: Measured | None = None
    test: Measured | None = None
    calibration: Calibration | None = None
    origin: dict[str, str] = Field(default_factory=dict)
    weights_sha256: str

    @property
    def temperature(self) -> float:
        """That logits are divided by; 1 where none was fitted."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def read_card(folder: Path) -> Card:
    """The card of a model's folder.

    Raises:
        ConfigError: no such folder, no model in it, a newer format, or a file that is damaged.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"model {folder} {state}. Name a folder that `ssl-tune train --final --model`, `confirm --models` or "
            f"`export --model` made."
        )
    path = folder / CARD_FILE
    if not path.is_file():
        raise ConfigError(
            f"model {folder}: there is no {CARD_FILE} in this folder, so it is no model. Make one with "
            f"`ssl-tune export NAME --model DIR`."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise _damaged(path, "it does not say its format")
    if document["format"] > FORMAT:
        raise ConfigError(
            f"model {folder} has format {document['format']}; this version of ssl-tune reads formats up to {FORMAT}. "
            f"Take a newer version of ssl-tune, or make the model again with this one."
        )
    try:
        return Card.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise _damaged(path, f"{name}: {problem['msg']}") from None


def check_place(folder: Path, *, option: str = "--model") -> None:
    """Refuse a place that a model cannot be written to, before anything is trained for it.

    Raises:
        ConfigError: it is a file, holds something else than a model, or its parent is missing.
    """
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"{option} {folder}: the folder {parent} does not exist. Make it first.")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{option} {folder}: nothing can be written to {parent}. Name another folder.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {folder} is a file. A model is a folder: name another one.")
    others = sorted({p.name for p in folder.iterdir()} - _OURS) if folder.is_dir() else []
    if others:
        raise ConfigError(
            f"{option} {folder}: the folder holds other files (for example {others[0]}). Name a new folder, or one "
            f"that holds a model, which is then replaced."
        )


def _damaged(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"{path} is damaged: {reason}. Copy the model's folder again, or make the model anew.")
