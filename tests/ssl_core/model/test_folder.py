"""A model's folder: what is in it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

import ssl_core
from ssl_core.model.card import CARD_FILE, README_FILE, WEIGHTS_FILE
from ssl_core.model.folder import copy_folder
from ssl_core.model.making import Made, make_model
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training.result import CHECKPOINTS, RESULT_FILE
from tests.ssl_core.model.helpers import document_of


def test_the_folder_holds_the_averaged_weights_and_all_that_is_known(made: Made, training: Path) -> None:
    assert sorted(p.name for p in made.folder.iterdir()) == sorted([CARD_FILE, WEIGHTS_FILE, README_FILE])
    state = checkpoint.load_newest(training / CHECKPOINTS)
    assert state is not None
    weights = weights_of(made.folder)
    assert weights.keys() == state["ema"].keys()
    assert all(torch.equal(weights[name], state["ema"][name]) for name in weights)
    assert any(not torch.equal(weights[name], state["network"][name]) for name in weights)
    card, result = made.card, json.loads((training / RESULT_FILE).read_text())
    assert card.classes == ["a", "b", "c"] and card.network.name == "wrn-10-1" and card.format == 1
    assert (card.image.size, card.image.resize, card.image.background) == (8, "crop", "white")
    assert (card.image.bits, card.image.flip) == (16, True) and card.image.pillow
    assert card.configuration == result["config"] and card.split_hash == result["split_hash"]
    assert card.versions == result["versions"] and card.epochs == 6 and card.method == "pseudo_label"
    assert card.test is not None and card.validation is not None and card.calibration is not None
    assert (card.test.images, card.test.error) == (30, result["test_error"])
    assert (card.validation.images, card.validation.error) == (12, result["val_error"])
    assert card.test.error_by_class == dict(zip("abc", result["test_error_by_class"], strict=True))
    assert card.calibration.images == 12 and card.calibration.fitted_on == "validation images"
    assert card.origin == {"study": "a study"}
    page = (made.folder / README_FILE).read_text()
    assert f"Wrong on {card.test.error:.2f} % of 30 test images" in page
    assert "`a`, `b`, `c`" in page and "8x8 pixels" in page and "ssl_core.load" in page


def test_the_same_training_gives_the_same_model(made: Made, training: Path, tmp_path: Path) -> None:
    again = make_model(training, tmp_path / "again", origin={"study": "a study"})
    assert again.card.model_copy(update={"created": made.card.created}) == made.card
    assert (tmp_path / "again" / WEIGHTS_FILE).read_bytes() == (made.folder / WEIGHTS_FILE).read_bytes()


def test_making_a_model_opens_no_test_image(training: Path, photographs: Path, tmp_path: Path) -> None:
    """Invariant 1: the training has read them once."""
    shutil.copytree(photographs, tmp_path / "moved")
    for path in (tmp_path / "moved" / "test").glob("*/*.png"):
        path.write_bytes(b"sealed: not an image")
    shutil.copytree(training, tmp_path / "run")
    document = json.loads((tmp_path / "run" / RESULT_FILE).read_text())
    document["config"]["dataset"] = f"folder:{tmp_path / 'moved'}"
    (tmp_path / "run" / RESULT_FILE).write_text(json.dumps(document))
    assert make_model(tmp_path / "run", tmp_path / "model").card.test is not None


def test_a_model_is_replaced_and_other_folders_are_not(made: Made, training: Path, tmp_path: Path) -> None:
    copy_folder(made.folder, tmp_path / "model")
    (tmp_path / "model" / README_FILE).write_text("old")
    make_model(training, tmp_path / "model")
    assert (tmp_path / "model" / README_FILE).read_text() != "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").touch()
    (tmp_path / "file").touch()
    for place, words in (
        ("mine", r"--model .*mine: the folder holds other files \(for example holiday.png\)"),
        ("file", "is a file. A model is a folder"),
        ("no/where", "does not exist. Make it first"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_model(training, tmp_path / place)


def test_a_training_whose_images_changed_gives_no_model(
    training: Path, photographs: Path, tmp_path: Path
) -> None:
    shutil.copytree(photographs, tmp_path / "other")
    shutil.copy(tmp_path / "other/train/a/000.png", tmp_path / "other/train/b/000.png")
    shutil.copytree(training, tmp_path / "run")
    document = json.loads((tmp_path / "run" / RESULT_FILE).read_text())
    document["config"]["dataset"] = f"folder:{tmp_path / 'other'}"
    (tmp_path / "run" / RESULT_FILE).write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="The images are not those that it was trained on"):
        make_model(tmp_path / "run", tmp_path / "model")
    with pytest.raises(ConfigError, match="holds no finished training"):
        make_model(tmp_path / "other", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_refit_takes_the_temperature_of_its_sibling(made: Made, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "refit"
    ssl_core.train(document_of(photographs, refit=True), out=out, final=True)
    alone = make_model(out, tmp_path / "alone").card
    assert alone.calibration is None and alone.temperature == 1 and alone.validation is None
    assert "not calibrated" in (tmp_path / "alone" / README_FILE).read_text()
    card = make_model(out, tmp_path / "model", sibling=made.folder).card
    assert card.temperature == made.card.temperature != 1
    assert card.calibration is not None
    assert card.calibration.fitted_on == "validation images of the sibling"


def test_a_model_of_a_user_s_own_method_loads_without_its_file(photographs: Path, tmp_path: Path) -> None:
    """The method's file is code; a model has none."""
    method = Path(__file__).parents[3] / "docs" / "examples" / "my_uda.py"
    document = document_of(photographs, method=f"file:{method}", epochs=2, warmup_epochs=1)
    del document["pseudo_label"]
    ssl_core.train(document, out=tmp_path / "run", final=True)
    card = make_model(tmp_path / "run", tmp_path / "model").card
    assert card.method == "my_uda" and "method_digest" in card.configuration
    edit_card(tmp_path / "model", lambda d: d["configuration"].update(method_digest="of no file here"))
    assert ssl_core.load(tmp_path / "model").classes == ("a", "b", "c")


def test_a_model_with_an_attention_head_is_rebuilt(photographs: Path, tmp_path: Path) -> None:
    document = document_of(photographs, method="attention_fixmatch", epochs=2, warmup_epochs=1)
    del document["pseudo_label"]
    ssl_core.train(document, out=tmp_path / "run", final=True)
    card = make_model(tmp_path / "run", tmp_path / "model").card
    assert card.network.attention_maps > 0
    assert len(ssl_core.load(tmp_path / "model").predict(photographs / "test")) == 30


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Read at once: `load_file` maps the file, which some tests write over."""
    return load((folder / WEIGHTS_FILE).read_bytes())


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / CARD_FILE).read_text())
    change(document)
    (folder / CARD_FILE).write_text(json.dumps(document))


def other_network(folder: Path) -> None:
    """Whole weights of another network: the sha256 is right, too."""
    edit_card(folder, lambda d: d["network"].update(name="wrn-16-1"))


def other_classes(folder: Path) -> None:
    edit_card(folder, lambda d: d["classes"].append("d"))


def damaged_weights(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)


def truncated_weights(folder: Path) -> None:
    data = (folder / WEIGHTS_FILE).read_bytes()[:1000]
    (folder / WEIGHTS_FILE).write_bytes(data)
    edit_card(folder, lambda d: d.update(weights_sha256=hashlib.sha256(data).hexdigest()))


def saved_by_torch(folder: Path) -> None:
    torch.save(weights_of(folder), folder / WEIGHTS_FILE)


def pickled_weights(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps({"weights": 1}))


def pickled_beside(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "pytorch_model.bin")


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "does not exist. Name a folder that .*--model"),
    (lambda f: (f / CARD_FILE).unlink(), "there is no model.json in this folder, so it is no model"),
    (lambda f: (f / CARD_FILE).write_text("{"), "model.json is damaged: Expecting"),
    (lambda f: (f / CARD_FILE).write_text("[]"), "model.json is damaged: it does not say its format"),
    (lambda f: edit_card(f, lambda d: d.update(format=2)), "has format 2; this version .* up to 1"),
    (lambda f: edit_card(f, lambda d: d.pop("classes")), "model.json is damaged: classes: Field required"),
    (lambda f: edit_card(f, lambda d: d["image"].update(size="8")), "damaged: image.size: .*integer"),
    (lambda f: edit_card(f, lambda d: d["network"].update(name="wrn-11-1")), "network 'wrn-11-1': "),
    (lambda f: edit_card(f, lambda d: d["configuration"].update(lr=-1.0)), "configuration.lr: "),
    (lambda f: (f / WEIGHTS_FILE).unlink(), "model.safetensors is missing"),
    (other_network, "holds other weights than wrn-16-1 for 3 classes has: "),
    (other_classes, "holds other weights than wrn-10-1 for 4 classes has: "),
    (damaged_weights, "model.safetensors is damaged: it is not the file that model.json names"),
    (truncated_weights, "model.safetensors is damaged: "),
    (saved_by_torch, "is refused: it is a pickle"),
    (pickled_weights, "is refused: it is a pickle"),
    (pickled_beside, "pytorch_model.bin is refused: pickled weights can run code"),
]


@pytest.mark.parametrize(("harm", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_whole_model_is_refused_with_one_message(
    made: Made, tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made.folder, folder)
    harm(folder)
    with pytest.raises(ConfigError, match=words) as refused:
        ssl_core.load(folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


def test_weights_are_replaced_only_with_their_hash(made: Made, tmp_path: Path) -> None:
    """Somebody who fine-tunes the weights writes their hash, and the model loads."""
    folder = tmp_path / "model"
    shutil.copytree(made.folder, folder)
    weights = weights_of(folder)
    weights["classifier.bias"] += 100 * torch.eye(3)[1]
    save_file(weights, folder / WEIGHTS_FILE)
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    edit_card(folder, lambda d: d.update(weights_sha256=digest))
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).numpy()
    assert list(ssl_core.load(folder).predict(images)["label"]) == ["b", "b"]
