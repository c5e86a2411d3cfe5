"""A model as an ONNX file gives what the torch model gives."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import ssl_core
from ssl_core.model import onnx as onnx_of
from ssl_core.model.making import Made
from ssl_core.system.errors import ConfigError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_onnx_and_torch_agree_on_a_hundred_images(made: Made, tmp_path: Path) -> None:
    import onnxruntime

    model = ssl_core.load(made.folder, device="cpu", precision="float32")
    path = tmp_path / "model.onnx"
    onnx_of.to_onnx(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), dtype=np.uint8)
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    expected = model.logits(images).numpy()
    assert expected.std() > 0.1  # the images differ for the model
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    order = np.sort(expected, axis=1)
    clear = order[:, -1] - order[:, -2] > 1e-2
    assert clear.sum() > 90 and (logits.argmax(1) == expected.argmax(1))[clear].all()
    table = model.predict(images)
    np.testing.assert_allclose(probabilities.max(1), table["confidence"], atol=1e-3)
    (one,) = session.run(["logits"], {"images": images[:1]})  # any number of images
    np.testing.assert_allclose(one[0], logits[0], rtol=1e-3, atol=1e-3)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["classes"]) == ["a", "b", "c"] and meta["image_size"] == "8"


@pytest.mark.parametrize(
    ("name", "words"), [("model.pb", "ends in .onnx"), ("no/where.onnx", "does not exist. Make it first")]
)
def test_what_cannot_become_an_onnx_file(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        onnx_of.check_onnx(tmp_path / name)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ssl-tune\[onnx\]'"):
        onnx_of.check_onnx(tmp_path / "model.onnx")
