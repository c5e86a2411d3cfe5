"""A training with test images, and the model that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ssl_core
from ssl_core.model.making import Made, make_model
from tests.ssl_core.model.helpers import document_of
from tests.tune.helpers import make_pictures


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8x8 images."""
    return make_pictures(tmp_path_factory.mktemp("pictures") / "shapes", train=20, test=10)


@pytest.fixture(scope="session")
def training(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that has read the test set."""
    out = tmp_path_factory.mktemp("training") / "run"
    result = ssl_core.train(document_of(photographs), out=out, final=True)
    assert result.test_error is not None and result.val_error is not None
    assert result.test_error < 50  # it has learnt something: predictions are no constant
    return out


@pytest.fixture(scope="session")
def made(training: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Its model; to be looked at and left as it is."""
    return make_model(training, tmp_path_factory.mktemp("models") / "shapes", origin={"study": "a study"})
