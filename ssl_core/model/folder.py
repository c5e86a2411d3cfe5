"""A model's folder: the weights, the card and a page for whoever receives it. No pickle is read or written."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from ssl_core.model.card import CARD_FILE, README_FILE, WEIGHTS_FILE, Card, check_place, read_card
from ssl_core.model.network import build
from ssl_core.model.readme import readme
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

_PICKLED = ("*.pt", "*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt")
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of what `torch.save` writes (a zip file of pickles) and of a pickle."""


def write_folder(folder: Path, card: Card, state: dict[str, Tensor]) -> Card:
    """Write a model; one that is there is replaced as a whole. Returns the card, with the weights' hash.

    Args:
        folder: of the model; its parent must exist.
        card: its `weights_sha256` is filled in.
        state: the weights (`torch.nn.Module.state_dict`).

    Raises:
        ConfigError: see `check_place`.
    """
    check_place(folder)
    weights = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    card = card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.absolute().parent) as place:
        new, old = Path(place, "new"), Path(place, "old")
        new.mkdir()
        write_atomically(new / WEIGHTS_FILE, weights)
        write_atomically(new / README_FILE, readme(card).encode())
        write_atomically(new / CARD_FILE, card.text().encode())
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    return card


def copy_folder(source: Path, folder: Path) -> Card:
    """Copy a model, with the checks of `read_folder` on its weights.

    Raises:
        ConfigError: as `read_folder` and `check_place`.
    """
    card = read_card(source)
    _read_weights(source, card)
    check_place(folder)
    folder.mkdir(exist_ok=True)
    for name in (WEIGHTS_FILE, README_FILE, CARD_FILE):
        shutil.copyfile(source / name, folder / name)
    return card


def read_folder(folder: Path) -> tuple[Card, nn.Module]:
    """A model's card and its network, with its weights, on the CPU and in evaluation mode.

    Raises:
        ConfigError: as `read_card`; weights that are missing, damaged, pickled or of another network.
    """
    card = read_card(folder)
    state = _read_weights(folder, card)
    try:
        network = build(card)
    except ConfigError as error:
        raise ConfigError(f"{folder / CARD_FILE}: {error}") from None
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).partition("\n")[2].strip().splitlines()
        raise ConfigError(
            f"{folder / WEIGHTS_FILE} holds other weights than {card.network.name} for {len(card.classes)} classes "
            f"has: {first[0].strip() if first else error}. Copy the model's folder again."
        ) from None
    return card, network.eval().requires_grad_(False)


def _read_weights(folder: Path, card: Card) -> dict[str, Any]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = sorted(p.name for pattern in _PICKLED for p in folder.glob(pattern))
        if pickled:
            raise ConfigError(
                f"model {folder}: {pickled[0]} is refused: pickled weights can run code when they are read. A model's "
                f"weights are in {WEIGHTS_FILE}."
            )
        raise ConfigError(
            f"model {folder}: {WEIGHTS_FILE} is missing. Copy the model's folder again, or make the model anew."
        )
    data = path.read_bytes()
    if data.startswith(_PICKLE_STARTS):
        raise ConfigError(
            f"{path} is refused: it is a pickle, not a file of safetensors, and reading it could run code. Get the "
            f"model again from whoever made it."
        )
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise ConfigError(
            f"{path} is damaged: it is not the file that {CARD_FILE} names (its sha256 differs). Copy the model's "
            f"folder again."
        )
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}. Copy the model's folder again.") from None
