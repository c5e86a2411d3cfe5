"""Labels and confidences: the same as in training, for files and for images in memory."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import ssl_core
from ssl_core.config import from_document
from ssl_core.data.datasets import load_test
from ssl_core.model import images as images_of
from ssl_core.model.making import Made
from ssl_core.model.model import Model
from ssl_core.preparation import prepare
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training.result import CHECKPOINTS, RESULT_FILE
from ssl_core.training.run import Run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(made: Made) -> Model:
    return ssl_core.load(made.folder)


@pytest.fixture(scope="module")
def pixels(photographs: Path) -> np.ndarray:
    return load_test(f"folder:{photographs}").images


def confusion(table: pd.DataFrame, classes: tuple[str, ...]) -> list[list[int]]:
    """Of files PART/<class>/NAME."""
    counts = Counter(
        (Path(file).parent.name, label) for file, label in zip(table["file"], table["label"], strict=True)
    )
    return [[counts[true, guess] for guess in classes] for true in classes]


def test_predictions_on_the_test_files_are_those_that_training_counted(
    model: Model, training: Path, photographs: Path
) -> None:
    table = model.predict(photographs / "test")
    result = json.loads((training / RESULT_FILE).read_text())
    assert confusion(table, model.classes) == result["test_confusion"]
    assert list(table.columns) == ["file", "label", "confidence", "confidence_raw", "error"]
    assert list(table["file"]) == sorted(map(str, (photographs / "test").rglob("*.png")))
    assert table["error"].isna().all()


def test_logits_have_the_bits_of_the_training_s_evaluation(
    model: Model, training: Path, pixels: np.ndarray
) -> None:
    document = json.loads((training / RESULT_FILE).read_text())["config"]
    run = Run(*prepare(from_document(document)))
    state = checkpoint.load_newest(training / CHECKPOINTS)
    assert state is not None
    run.load_state(state)
    expected = run.evaluated_in_batches(torch.tensor(pixels), torch.arange(len(pixels)))
    assert torch.equal(model.logits(pixels), expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_other_precisions_are_those_of_training(
    made: Made, training: Path, pixels: np.ndarray, precision: str
) -> None:
    document = json.loads((training / RESULT_FILE).read_text())["config"] | {"precision": precision}
    try:
        prepared = prepare(from_document(document))
    except ConfigError as error:
        pytest.skip(str(error))
    run = Run(*prepared)
    state = checkpoint.load_newest(training / CHECKPOINTS)
    assert state is not None
    run.ema.network.load_state_dict(state["ema"])
    expected = run.evaluated_in_batches(torch.tensor(pixels), torch.arange(len(pixels)))
    found = ssl_core.load(made.folder, precision=precision).logits(pixels)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_files_arrays_and_pictures_give_the_same(model: Model, photographs: Path, pixels: np.ndarray) -> None:
    of_files = model.predict(photographs / "test", top=3)
    files = sorted((photographs / "test").rglob("*.png"))
    in_memory = {
        "array": pixels,
        "pictures": [Image.open(file) for file in files],
        "paths": files,
        "texts": [str(file) for file in files],
    }
    for images in in_memory.values():
        found = model.predict(images, top=3)
        pd.testing.assert_frame_equal(found.drop(columns="file"), of_files.drop(columns="file"))
    assert list(model.predict(pixels)["file"]) == [str(n) for n in range(30)]
    assert model.predict(pixels[3])["label"][0] == of_files["label"][3]
    assert model.predict(Image.open(files[3]))["label"][0] == of_files["label"][3]
    assert len(model.predict(pixels[:0])) == 0


def test_confidences_are_softmaxes_with_and_without_the_temperature(model: Model, pixels: np.ndarray) -> None:
    table = model.predict(pixels, top=9)  # there are three classes
    assert list(table.columns)[4:] == ["label_2", "confidence_2", "label_3", "confidence_3", "error"]
    logits = model.logits(pixels).double().numpy()
    for temperature, columns in (
        (model.card.temperature, ["confidence", "confidence_2", "confidence_3"]),
        (1, ["confidence_raw"]),
    ):
        powers = np.exp(logits / temperature)
        expected = np.sort(powers / powers.sum(1, keepdims=True), axis=1)[:, ::-1]
        for place, column in enumerate(columns):
            np.testing.assert_allclose(table[column], expected[:, place], rtol=1e-9)
    order = np.argsort(-logits, axis=1, kind="stable")
    names = np.asarray(model.classes)
    for place, column in enumerate(["label", "label_2", "label_3"]):
        assert list(table[column]) == list(names[order[:, place]])
    assert model.card.temperature != 1


def test_the_module_is_a_torch_module_from_pixels_to_logits(model: Model, pixels: np.ndarray) -> None:
    assert isinstance(model.module, torch.nn.Module) and isinstance(model.network, torch.nn.Module)
    with torch.no_grad():
        logits = model.module(torch.tensor(pixels))
    np.testing.assert_allclose(logits.numpy(), model.logits(pixels).numpy(), atol=1e-4)
    assert not any(module.training for module in model.module.modules())


def test_a_file_that_cannot_be_read_is_a_row_with_its_error(
    model: Model, photographs: Path, tmp_path: Path
) -> None:
    files = sorted((photographs / "test").rglob("*.png"))[:3]
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:60])
    whole = model.predict(files)
    table = model.predict([files[0], bad, *files[1:]], top=2)
    assert table["file"][1] == str(bad) and table["error"][1]
    assert table.loc[1, ["label", "confidence", "confidence_raw", "label_2", "confidence_2"]].isna().all()
    good = table.drop(index=1)
    assert good["error"].isna().all()
    assert list(good["label"]) == list(whole["label"])
    np.testing.assert_allclose(good["confidence"], whole["confidence"], rtol=1e-5)


def test_images_are_made_as_in_training(model: Model, photographs: Path, tmp_path: Path) -> None:
    """A larger grey image, one with transparency and one of another shape become the network's input."""
    picture = Image.open(next((photographs / "test").rglob("*.png")))
    larger = picture.resize((30, 20)).convert("L")
    larger.save(tmp_path / "grey.png")
    transparent = picture.convert("RGBA")
    transparent.putalpha(0)
    transparent.save(tmp_path / "clear.png")
    white = np.full((1, 8, 8, 3), 255, dtype=np.uint8)
    table = model.predict(tmp_path)
    assert table["error"].isna().all() and len(table) == 2
    clear = table[table["file"].str.endswith("clear.png")].reset_index(drop=True)
    assert clear["confidence"][0] == pytest.approx(model.predict(white)["confidence"][0], rel=1e-5)
    left = (30 - 20) / 2
    fitted = larger.convert("RGB").resize((8, 8), Image.Resampling.BILINEAR, box=(left, 0, left + 20, 20))
    grey = table[table["file"].str.endswith("grey.png")].reset_index(drop=True)
    assert grey["confidence"][0] == pytest.approx(model.predict(fitted)["confidence"][0], rel=1e-5)


def test_many_files_are_decoded_a_chunk_at_a_time(
    model: Model, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.predict(photographs / "test", batch_size=4)
    monkeypatch.setattr(images_of, "_FILES_PER_THREAD", 3)
    told: list[tuple[int, int]] = []
    parts = list(model.stream(photographs / "test", batch_size=4, progress=lambda *done: told.append(done)))
    assert len(parts) > 2 and max(len(part.names) for part in parts) < 30
    assert all(len(part.names) % 4 == 0 for part in parts[:-1])  # whole batches
    assert told[-1] == (30, 30) and [n for n, _ in told] == sorted({n for n, _ in told})
    pd.testing.assert_frame_equal(model.predict(photographs / "test", batch_size=4), whole)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("nowhere", "image nowhere does not exist"),
        (["also/nowhere.png"], "image also/nowhere.png does not exist"),
        (np.zeros((2, 8, 8, 3)), "an array of float64: an image is a path"),
        (np.zeros((2, 9, 9), dtype=np.uint8), r"an array \(2, 9, 9\) of uint8"),
        ([3], "an array"),
        (3, "int: images are paths"),
    ],
)
def test_what_is_no_image_is_refused(model: Model, images: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model.predict(images)


def test_other_bad_arguments(made: Made, model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no image to predict"):
        model.predict(tmp_path)
    with pytest.raises(ConfigError, match="top = 0"):
        model.predict(pixels, top=0)
    with pytest.raises(ConfigError, match="batch_size = -1"):
        model.predict(pixels, batch_size=-1)
    with pytest.raises(ConfigError, match="device = 'tpu'"):
        ssl_core.load(made.folder, device="tpu")
    with pytest.raises(ConfigError, match="precision = 'int8'"):
        ssl_core.load(made.folder, precision="int8")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA GPU"):
            ssl_core.load(made.folder, device="cuda")


def test_threads_are_the_training_s_while_it_predicts_and_the_process_s_own_afterwards(
    made: Made, pixels: np.ndarray
) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    for threads, expected in ((None, 1), (2, 2), (0, before)):
        model = ssl_core.load(made.folder, threads=threads)
        model.module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        model.predict(pixels)
        assert seen[-1] == expected and torch.get_num_threads() == before


NEEDED = ("torch", "torchvision", "numpy", "pillow", "pandas", "pydantic", "pyyaml", "safetensors")


def closure(names: tuple[str, ...]) -> set[str]:
    """Distributions and what they require, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", text)[0] for text in requires if "extra ==" not in text]  # type: ignore[index]
    return found


def test_a_model_is_used_where_only_the_named_packages_are(
    made: Made, photographs: Path, model: Model, tmp_path: Path
) -> None:
    """As in a new virtual environment: a folder with links to these packages and what they need, and our own code."""
    site = tmp_path / "site"
    site.mkdir()
    for name in closure(NEEDED):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    (site / "ssl_core").symlink_to(ROOT / "ssl_core")
    code = f"""
import sys
sys.path.append({str(site)!r})
import ssl_core
model = ssl_core.load({str(made.folder)!r})
assert "pandas" not in sys.modules
table = model.predict({str(photographs / "test")!r})
table.to_csv({str(tmp_path / "table.csv")!r}, index=False)
absent = "ray optuna mlflow sqlalchemy typer rich sklearn scipy matplotlib xxhash tune"
for name in absent.split():
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name)
try:  # one message where a data set is asked for, not pictures that all seem to be the same
    from ssl_core.data.datasets import load_train
    load_train({f"folder:{photographs}"!r})
except ssl_core.ConfigError as error:
    assert "pip install xxhash" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    there = pd.read_csv(tmp_path / "table.csv")
    assert list(there["label"]) == list(model.predict(photographs / "test")["label"])
