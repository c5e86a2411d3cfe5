"""The temperature and the expected calibration error, against numbers by hand and a slow version."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_core.measures import BINS, expected_calibration_error, overconfidence
from ssl_core.model.calibration import fit_temperature


def test_two_classes_by_hand() -> None:
    """All logits (3, 0); 8 of 10 images are of class 0: softmax(3 / T) must be their mean smoothed target."""
    logits = torch.tensor([[3.0, 0.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 8 + [1] * 2)
    right = 11 / 12
    target = (8 * right + 2 * (1 - right)) / 10
    expected = 3 / math.log(target / (1 - target))
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_the_temperature_minimises_the_smoothed_cross_entropy() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 60)
    logits = 3 * random.normal(size=(60, 4)) + 4 * np.eye(4)[labels]
    found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    right = 61 / 62
    targets = np.where(np.eye(4)[labels] == 1, right, (1 - right) / 3)

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((targets * (np.log(np.exp(scaled).sum(1, keepdims=True)) - scaled)).sum())

    assert 1 < found < 10
    for other in np.geomspace(0.1, 50, 200):
        assert loss(found) <= loss(other) + 1e-9


def test_a_network_that_is_always_right_is_not_made_certain() -> None:
    labels = torch.arange(4).repeat(5)
    logits = 2.0 * torch.nn.functional.one_hot(labels, 4)
    confidence = (logits / fit_temperature(logits, labels)).softmax(dim=1).amax()
    assert float(confidence) == pytest.approx(21 / 22, abs=1e-6)


def test_logits_that_say_nothing_get_a_finite_temperature() -> None:
    labels = torch.tensor([0, 1, 2])
    assert math.isfinite(fit_temperature(torch.zeros(3, 3), labels))
    worse = -5.0 * torch.nn.functional.one_hot(labels, 3)
    assert fit_temperature(worse, labels) == pytest.approx(1e3, rel=1e-6)


def test_the_expected_calibration_error_by_hand() -> None:
    # Confidences 0.9, 0.9 and 0.6; the first and the last are right. Bins of 1/15: 0.9 in (13/15, 14/15], 0.6 in
    # (8/15, 9/15]. Gaps: |1.8 - 1| and |0.6 - 1|, over three images.
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64).log()
    found = expected_calibration_error(logits, torch.tensor([0, 1, 1]))
    assert found == pytest.approx(100 * (0.8 + 0.4) / 3, abs=1e-9)


def test_overconfidence_by_hand() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64).log()
    # Mean confidence 0.8. One right: 0.8 - 1/3; all right: 0.8 - 1.
    assert overconfidence(logits, torch.tensor([0, 1, 0])) == pytest.approx(100 * (0.8 - 1 / 3), abs=1e-9)
    assert overconfidence(logits, torch.tensor([0, 0, 1])) == pytest.approx(-20, abs=1e-9)


def test_the_expected_calibration_error_against_a_slow_version() -> None:
    random = np.random.default_rng(1)
    logits, labels = 3 * random.normal(size=(200, 5)), random.integers(0, 5, 200)
    scaled = np.exp(logits / 2)
    probabilities = scaled / scaled.sum(1, keepdims=True)
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    total = 0.0
    for place in range(BINS):
        inside = (confidence > place / BINS) & (confidence <= (place + 1) / BINS)
        if inside.any():
            gap = abs(confidence[inside].mean() - (predicted == labels)[inside].mean())
            total += gap * inside.mean()
    found = expected_calibration_error(torch.from_numpy(logits), torch.from_numpy(labels), 2.0)
    assert found == pytest.approx(100 * total, abs=1e-9)
