"""Models with the networks of libraries: what is predicted is what training counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

import ssl_core
from ssl_core.model.making import make_model
from ssl_core.training import checkpoint
from ssl_core.training.result import CHECKPOINTS, RESULT_FILE
from tests.ssl_core.model.helpers import document_of

CASES = {
    "resnet18": {"method": "fixmatch", "fixmatch": {"threshold": 0.4}},
    "timm:vit_tiny_patch16_224": {"method": "attention_fixmatch", "optimizer": "adamw"},
}


@pytest.mark.parametrize("network", CASES)
def test_a_model_predicts_what_its_training_counted(photographs: Path, tmp_path: Path, network: str) -> None:
    document = document_of(
        photographs,
        **{"network": network, "epochs": 2, "warmup_epochs": 1, "steps_per_epoch": 2},
        **CASES[network],
        data={"image_size": 64},
    )
    del document["pseudo_label"]
    out = tmp_path / "run"
    ssl_core.train(document, out=out, final=True)
    model = ssl_core.load(make_model(out, tmp_path / "model").folder)

    result = json.loads((out / RESULT_FILE).read_text())
    table = model.predict(photographs / "test")
    pairs = Counter(
        (Path(file).parent.name, label) for file, label in zip(table["file"], table["label"], strict=True)
    )
    assert [[pairs[a, b] for b in model.classes] for a in model.classes] == result["test_confusion"]
    assert result["config"].get("backbone") == ({"stem": "small"} if network == "resnet18" else None)
    state = checkpoint.load_newest(out / CHECKPOINTS)
    assert state is not None
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, state["ema"][name]), name


def test_a_model_s_folder_is_a_place_to_start_from(photographs: Path, tmp_path: Path) -> None:
    first = document_of(photographs, epochs=2, warmup_epochs=1, steps_per_epoch=2)
    ssl_core.train(first, out=tmp_path / "first", final=True)
    made = make_model(tmp_path / "first", tmp_path / "model")
    document = first | {"backbone": {"weights": str(made.folder)}, "epochs": 1, "warmup_epochs": 0}
    result = ssl_core.train(document, out=tmp_path / "second")
    assert result.config["backbone"]["weights_digest"]
    again = ssl_core.train(document, out=tmp_path / "second", resume=True)
    assert again == result
