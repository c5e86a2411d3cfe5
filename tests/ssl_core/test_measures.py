"""Errors by class, their mean and the confusion matrix: hand-computed, and against counting image by image."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_core.measures import (
    balanced_deviation,
    balanced_error,
    count_confusion,
    errors_by_class,
    images_and_wrong,
    matrix_of,
)
from tests.tiny import finish, make_run


def test_a_confusion_matrix_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 4.0, 3.0], [0.0, 0.0, 9.0]])
    cells = count_confusion(logits, torch.tensor([0, 1, 1, 2])).tolist()
    matrix = matrix_of(cells)
    assert matrix == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]  # one image of class 1 is taken for class 0
    assert images_and_wrong(matrix) == ([1, 2, 1], [0, 1, 0])


def test_counts_are_those_of_one_image_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 4, generator=generator)
    labels = torch.randint(0, 4, (200,), generator=generator)
    slowly = [[0] * 4 for _ in range(4)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        slowly[label][row.index(max(row))] += 1
    assert matrix_of(count_confusion(logits, labels).tolist()) == slowly


def test_every_class_counts_the_same_in_the_balanced_error() -> None:
    images, wrong = [90, 10], [9, 5]
    assert errors_by_class(images, wrong) == [10.0, 50.0]
    assert balanced_error(images, wrong) == 30.0  # 14 % of the images are misclassified


def test_a_class_without_an_image_has_no_error_and_is_left_out_of_the_mean() -> None:
    assert errors_by_class([4, 0, 2], [1, 0, 1]) == [25.0, None, 50.0]
    assert balanced_error([4, 0, 2], [1, 0, 1]) == 37.5


def test_the_deviation_is_the_binomial_one_where_classes_are_alike() -> None:
    # 2 classes of 50 images, a fifth of each wrong: as 100 images with an error of 20 %, 100 sqrt(0.2 * 0.8 / 100).
    assert balanced_deviation([50, 50], [10, 10]) == pytest.approx(4.0)


def test_a_class_of_few_images_makes_the_balanced_error_uncertain() -> None:
    # Var = (0.5 * 0.5 / 4 + 0.1 * 0.9 / 100) / 4
    by_hand = 100 * math.sqrt((0.25 / 4 + 0.09 / 100) / 4)
    assert balanced_deviation([4, 100], [2, 10]) == pytest.approx(by_hand)
    assert balanced_deviation([4, 100], [0, 10]) == pytest.approx(
        100 * math.sqrt((0.25 * 0.75 / 4 + 0.09 / 100) / 4)  # 0 of 4 is not known exactly: taken as 1 of 4
    )
    assert balanced_deviation([1, 0], [0, 0]) == 50.0


def test_an_epoch_s_errors_are_those_of_its_model() -> None:
    run = make_run("fixmatch")
    last = finish(run)[-1]
    run.network.eval()
    wrong: list[list[float]] = [[], [], []]
    for index in run.valid.tolist():
        predicted = int(run.evaluated(run.images[index : index + 1]).argmax())
        label = int(run.labels[index])
        wrong[label].append(float(predicted != label))
    every = [each for of_class in wrong for each in of_class]
    assert last.metrics["val/error"] == 100 * sum(every) / len(every)
    means = [100 * sum(of_class) / len(of_class) for of_class in wrong]
    assert last.metrics["val/error_balanced"] == pytest.approx(sum(means) / 3)
    assert last.classes["images"] == [2, 2, 2]
    assert last.classes["wrong"] == [int(sum(of_class)) for of_class in wrong]


def test_the_confusion_matrix_comes_with_the_last_epoch_alone() -> None:
    reports = finish(make_run())
    assert [("confusion" in report.classes) for report in reports] == [False, False, False, True]
    images, wrong = images_and_wrong(matrix_of(reports[-1].classes["confusion"]))
    assert (images, wrong) == (reports[-1].classes["images"], reports[-1].classes["wrong"])
    stopped = finish(make_run(stop_after_epoch=2))
    assert "confusion" in stopped[-1].classes and stopped[-1].epoch == 2
