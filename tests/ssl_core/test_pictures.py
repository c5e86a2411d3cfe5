"""A method's own picture: what its arrays hold, by hand; and that making it changes nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ssl_core.methods.base import Panel
from ssl_core.pictures import file as picture_file
from ssl_core.pictures.file import Picture
from ssl_core.pictures.panels import one_of_each_class, picture_of, shown
from ssl_core.registry import method_names
from ssl_core.training.run import Run
from ssl_core.training.step import unlabelled_views
from tests.tiny import everything, finish, make_data, make_run, same_bits


def trained_run(method: str, **fields: object) -> Run:
    run = make_run(method, epochs=2, **fields)
    finish(run)
    return run


def made(run: Run, images: int = 4) -> Picture:
    picture = picture_of(run, images)
    assert picture is not None
    return picture


def logits_of(run: Run, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = run.ema.network(images).logits
    return logits


@pytest.mark.parametrize("method", method_names())
def test_a_picture_changes_nothing_is_the_same_again_and_has_an_entry_for_every_image(method: str) -> None:
    run = trained_run(method)
    before = everything(run)
    first, second = picture_of(run), picture_of(run)
    assert same_bits(before, everything(run))
    drawn = ("vat", "random_perturbation", "attention_fixmatch", "simple", "alphamatch")
    assert (first is not None) == (method in drawn)
    if first is None or second is None:
        return
    assert len(first.truth) == 6  # as many validation images as there are
    for one, other in zip(first.panels, second.panels, strict=True):
        assert np.array_equal(one.values, other.values, equal_nan=True)
        assert one.captions == other.captions and len(one.captions) == len(one.values) == 6
        assert one.kind != "map" or one.beneath is not None


def test_images_are_of_the_validation_set_class_by_class() -> None:
    run = make_run(data=make_data(classes=4, per_class=9), labels=12, split_of={"valid": 12})
    chosen = one_of_each_class(run, 6)
    assert set(chosen.tolist()) <= set(run.split.valid.tolist())
    labels = run.data.labels[chosen.numpy()]
    assert labels.tolist() == [0, 1, 2, 3, 0, 1]
    for c in (0, 1):  # the first two of the class, in order
        members = [i for i in run.split.valid.tolist() if run.data.labels[i] == c]
        assert chosen[labels == c].tolist() == members[:2]


def test_pixels_come_back_from_what_the_network_takes() -> None:
    run = make_run()
    pixels = run.images[:5]
    assert np.allclose(shown(run.normalise(pixels), run.data.mean, run.data.std), pixels / 255, atol=1e-6)


def test_vat_shows_original_perturbation_and_perturbed_with_both_predictions() -> None:
    run = trained_run("vat", parameters={"eps": 3.0, "xi": 0.1, "iterations": 2})
    picture = made(run)
    original, perturbation, perturbed = picture.panels
    assert [panel.kind for panel in picture.panels] == ["image", "difference", "image"]
    chosen = one_of_each_class(run, 4)
    assert np.allclose(original.values, run.data.images[chosen.numpy()] / 255, atol=1e-6)
    # The perturbed image is shown within 0 and 1; where it lies within, it is the sum of the other two.
    moved = original.values + perturbation.values
    assert np.allclose(perturbed.values, moved.clip(0, 1), atol=1e-6)
    r = perturbation.values / np.float32(run.data.std)  # in the network's units, where its length is eps
    assert np.allclose(np.sqrt((r**2).sum(axis=(1, 2, 3))), 3.0, rtol=1e-4)
    clean = run.normalise(run.images[chosen])
    shifted = clean + torch.from_numpy(r).permute(0, 3, 1, 2)
    for panel, images in ((original, clean), (perturbed, shifted)):
        probabilities = logits_of(run, images).softmax(dim=1)
        for i, caption in enumerate(panel.captions):
            name, confidence = caption.split()
            best = int(probabilities[i].argmax())
            assert name == run.data.classes[best]
            assert float(confidence) == pytest.approx(float(probabilities[i].max()), abs=0.0051)
            assert panel.right is not None and panel.right[i] == (name == picture.truth[i])
    for i, caption in enumerate(perturbation.captions):
        p, q = (logits_of(run, images)[i].softmax(dim=0).tolist() for images in (clean, shifted))
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        share = 3.0 / float(clean[i].norm())
        assert caption.startswith(f"{share:.0%} of |x|, KL ")
        assert float(caption.split()[-1]) == pytest.approx(kl, rel=0.06, abs=1e-6)


def test_the_perturbation_changes_predictions_more_than_noise_of_its_length() -> None:
    run = trained_run("vat", parameters={"eps": 4.0, "xi": 1.0, "iterations": 3})
    noise = trained_run("vat", parameters={"eps": 4.0, "xi": 1.0, "iterations": 0})
    noise.load_state(run.state() | {"config": noise.config.document()})
    kl = [
        sum(float(caption.split()[-1]) for caption in made(each, 6).panels[1].captions)
        for each in (run, noise)
    ]
    assert kl[0] > 2 * kl[1]


def test_without_its_loss_vat_has_nothing_to_show() -> None:
    run = make_run("vat", parameters={"alpha": 0.0, "use_entmin": True})
    assert picture_of(run) is None
    assert (
        picture_of(
            make_run("attention_fixmatch", parameters={"maps": 0, "lambda_att": 0.0, "diversity_weight": 0.0})
        )
        is None
    )


def test_attention_is_shown_over_both_views_and_moved_along() -> None:
    run = trained_run("attention_fixmatch")
    picture = made(run)
    weak, on_weak, strong, moved, on_strong = picture.panels
    chosen = one_of_each_class(run, 4)
    views, geometry = unlabelled_views(
        run, run.fetch(chosen), run.config.total_steps, {"weak": 1, "strong": 1}
    )
    assert geometry is not None
    for panel, name in ((weak, "weak"), (strong, "strong")):
        assert np.allclose(panel.values, shown(views[name], run.data.mean, run.data.std).clip(0, 1))
    with torch.no_grad():
        maps = {name: run.ema.network(view).attention.sum(dim=1) for name, view in views.items()}
    expected = maps["weak"].flatten(1).softmax(dim=1).view_as(maps["weak"])
    assert np.allclose(on_weak.values, expected, atol=1e-6)
    assert on_weak.beneath is not None and np.array_equal(on_weak.beneath, weak.values)
    # Position by position: which part of the image it holds, and whether that can be compared.
    side, cells = run.data.image_size, maps["weak"].shape[1]
    left_out = 0
    for i in range(4):
        scores = {}
        for row in range(cells):
            for column in range(cells):
                x, y = ((2 * place + 1) / cells - 1 for place in (column, row))
                source = geometry.affine[i].double() @ torch.tensor([x, y, 1.0], dtype=torch.float64)
                middle = [(place + 0.5) * side / cells for place in (row, column)]
                top, left, bottom, right = geometry.cutout[i].tolist()
                cut = top <= middle[0] < bottom and left <= middle[1] < right
                if cut or bool((source.abs() > 1).any()):
                    left_out += 1
                    assert math.isnan(moved.values[i, row, column])
                    assert math.isnan(on_strong.values[i, row, column])
                else:
                    scores[row, column] = float(maps["strong"][i, row, column])
        total = sum(math.exp(score) for score in scores.values())
        for (row, column), score in scores.items():
            assert on_strong.values[i, row, column] == pytest.approx(math.exp(score) / total, rel=1e-4)
        if scores:
            assert np.nansum(moved.values[i]) == pytest.approx(1.0, rel=1e-5)
            kl = np.nansum(moved.values[i] * np.log(moved.values[i] / on_strong.values[i]))
            if len(scores) > 1:
                assert float(on_strong.captions[i].split()[-1]) == pytest.approx(kl, rel=0.06, abs=1e-6)
    assert 0 < left_out < 4 * cells * cells


def test_views_of_separate_crops_are_shown_without_moving_the_map() -> None:
    run = trained_run("attention_fixmatch", parameters={"align": "none"})
    titles = [panel.title for panel in made(run).panels]
    assert titles == ["weak view", "attention, weak", "strong view", "attention, strong"]
    assert not np.isnan(made(run).panels[-1].values).any()


def test_a_picture_is_kept_as_it_is_without_pickled_objects(tmp_path: Path) -> None:
    for run in (make_run("vat"), make_run("attention_fixmatch")):
        picture = made(run, 3)
        path = tmp_path / "deep" / f"{picture.method}.npz"
        picture_file.save(path, picture)
        again = picture_file.load(path)
        assert (again.method, again.epoch, again.truth) == (picture.method, picture.epoch, picture.truth)
        for one, other in zip(picture.panels, again.panels, strict=True):
            assert (one.title, one.kind, one.captions, one.right) == (
                other.title,
                other.kind,
                other.captions,
                other.right,
            )
            assert np.array_equal(one.values, other.values, equal_nan=True)
            assert (one.beneath is None) == (other.beneath is None)
    strange = tmp_path / "strange.npz"
    np.savez(strange, head=np.array([Panel], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        picture_file.load(strange)


def test_the_map_s_shares_are_a_softmax_where_it_is_compared() -> None:
    from ssl_core.losses import map_shares

    scores = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    compared = torch.tensor([[[True, False], [True, True]]])
    shares = map_shares(scores, compared)
    assert torch.isnan(shares[0, 0, 1])
    expected = functional.softmax(torch.tensor([0.0, 2.0, 3.0]), dim=0)
    assert torch.allclose(shares[0][compared[0]], expected)
