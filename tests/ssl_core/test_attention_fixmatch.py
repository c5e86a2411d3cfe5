"""FixMatch with attention: the geometry of two views by hand, the distance, and what switches it off."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from search_spaces import load_space
from ssl_core.augment import operations, randaugment
from ssl_core.augment.randaugment import Geometry
from ssl_core.config import from_document
from ssl_core.losses import align_maps, map_divergence, map_similarity
from ssl_core.methods.attention_fixmatch import AttentionFixMatchConfig, attention_divergence
from ssl_core.methods.base import Batch, Step
from ssl_core.methods.fixmatch import FixMatchConfig
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests import slow_attention
from tests.matching import check_resumption, compute, digits_run, leaf, normal
from tests.tiny import assert_same_bits, finish, make_run, trained

METHOD = get_method("attention_fixmatch")
SIZE = (32, 32)
IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
TURN = [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]  # a quarter: strong (x, y) comes from weak (y, -x)
NO_BOX, ALL_BOX = [0, 0, 0, 0], [0, 0, 32, 32]


def shifted(columns: float, rows: float = 0.0) -> list[list[float]]:
    """Strong positions come from so many cells of an 8x8 map to the right and below."""
    return [[1.0, 0.0, columns / 4], [0.0, 1.0, rows / 4]]


def geometry_of(*views: tuple[list[list[float]], list[int]]) -> Geometry:
    return Geometry(torch.tensor([affine for affine, _ in views]), torch.tensor([box for _, box in views]))


def align(maps: Tensor, affine: list[list[float]], box: list[int] = NO_BOX) -> tuple[Tensor, Tensor]:
    """`align_maps` for one map (h, w)."""
    geometry = geometry_of((affine, box))
    aligned, compared = align_maps(maps[None], geometry.affine, geometry.cutout, SIZE)
    return aligned[0], compared[0]


# Configuration.


def test_defaults_are_the_report_s() -> None:
    config = AttentionFixMatchConfig()
    assert (config.threshold, config.lambda_u, config.maps, config.lambda_att) == (0.95, 1.0, 2, 1.0)
    assert (config.diversity_weight, config.align) == (0.0, "geometry")
    assert METHOD.warmup_share == 0 and METHOD.unlabelled_views == ("weak", "strong")
    point = load_space("attention_fixmatch", "wide").baseline
    own = {n.partition(".")[2]: value for n, value in point.items() if n.startswith("attention_fixmatch.")}
    assert AttentionFixMatchConfig(**own) == config and point["warmup_epochs"] == 0


def test_the_head_and_the_shared_crop_follow_the_configuration() -> None:
    off = AttentionFixMatchConfig(maps=0, lambda_att=0)
    assert METHOD.head(off, 8) is None and not METHOD.shares_crop(off)
    for weight in (0.0, 1.0):
        config = AttentionFixMatchConfig(maps=3, lambda_att=weight)
        assert len(METHOD.head(config, 8)(torch.ones(1, 8, 2, 2))[0]) == 3 and METHOD.shares_crop(config)
    assert not METHOD.shares_crop(AttentionFixMatchConfig(align="none"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"maps": 0}, r"attention_fixmatch\.lambda_att = 1\.0: .*maps = 0.*lambda_att = 0"),
        ({"maps": 0, "lambda_att": 0.5}, r"attention_fixmatch\.lambda_att = 0\.5: .*maps = 0"),
        (
            {"maps": 0, "lambda_att": 0, "diversity_weight": 0.1},
            r"attention_fixmatch\.diversity_weight = 0\.1: .*maps = 0",
        ),
        ({"maps": 1, "diversity_weight": 0.1}, r"attention_fixmatch\.diversity_weight = 0\.1: .*maps = 1"),
        ({"maps": -1}, r"attention_fixmatch\.maps = -1: .*greater than or equal to 0"),
        ({"maps": 2.5}, r"attention_fixmatch\.maps = 2\.5: .*integer"),
        ({"lambda_att": -1}, r"attention_fixmatch\.lambda_att = -1: .*greater than or equal to 0"),
        (
            {"diversity_weight": -1},
            r"attention_fixmatch\.diversity_weight = -1: .*greater than or equal to 0",
        ),
        ({"align": "crop"}, r"attention_fixmatch\.align = 'crop': .*'geometry' or 'none'"),
        ({"threshold": 0}, r"attention_fixmatch\.threshold = 0: .*greater than 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_document({"method": "attention_fixmatch", "attention_fixmatch": values})


# Geometry.


def test_the_identity_leaves_a_map_as_it_is() -> None:
    maps = normal(8, 8)
    aligned, compared = align(maps, IDENTITY)
    torch.testing.assert_close(aligned, maps, rtol=0, atol=1e-12)
    assert compared.all()


@pytest.mark.parametrize(("columns", "rows"), [(1, 0), (0, 2), (-3, 0), (2, -1)])
def test_a_translation_by_whole_cells(columns: int, rows: int) -> None:
    maps = normal(8, 8)
    aligned, compared = align(maps, shifted(columns, rows))
    for row in range(8):
        for column in range(8):
            inside = 0 <= row + rows < 8 and 0 <= column + columns < 8
            assert bool(compared[row, column]) == inside
            if inside:
                expected = maps[row + rows, column + columns].item()
                assert aligned[row, column].item() == pytest.approx(expected, rel=1e-9)


def test_half_a_cell_is_the_mean_of_two() -> None:
    maps = normal(8, 8)
    aligned, _ = align(maps, shifted(0.5))
    torch.testing.assert_close(aligned[:, :7], (maps[:, :7] + maps[:, 1:]) / 2, rtol=0, atol=1e-12)


def test_a_quarter_turn() -> None:
    maps = normal(8, 8)
    aligned, compared = align(maps, TURN)
    # strong (row r, column c) is weak (row 7 - c, column r)
    expected = torch.tensor([[maps[7 - c, r] for c in range(8)] for r in range(8)], dtype=torch.float64)
    torch.testing.assert_close(aligned, expected, rtol=0, atol=1e-12)
    assert compared.all()


def test_everything_outside() -> None:
    aligned, compared = align(normal(8, 8), shifted(9))
    assert not compared.any() and torch.isfinite(aligned).all()


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        (NO_BOX, (0, 0), (0, 0)),
        (ALL_BOX, (0, 8), (0, 8)),
        ([8, 4, 24, 20], (2, 6), (1, 5)),  # whole cells of 4 pixels
        ([0, 22, 10, 32], (0, 2), (5, 8)),  # a centre on the upper edge is cut, one on the lower edge is not
        ([1, 0, 2, 32], (0, 0), (0, 0)),  # no centre within
    ],
)
def test_positions_under_the_cutout_by_hand(
    box: list[int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    _, compared = align(normal(8, 8), IDENTITY, box)
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = False
    assert torch.equal(compared, expected)


def random_geometry(n: int, seed: int = 0) -> Geometry:
    affine = torch.eye(2, 3).expand(n, 2, 3) + 0.3 * normal(n, 2, 3, seed=seed).float()
    corners = torch.randint(0, 24, (n, 2), generator=torch.Generator().manual_seed(seed))
    return Geometry(affine, torch.cat([corners, corners + 8], dim=1))


def test_the_distance_equals_a_slow_loop() -> None:
    weak, strong = normal(6, 2, 8, 4), normal(6, 2, 8, 4, seed=1)
    geometry = random_geometry(6)
    divergence, share = attention_divergence(weak, strong, geometry, SIZE)
    total = 0
    for i in range(6):
        affine, box = geometry.affine[i].double().tolist(), geometry.cutout[i].tolist()
        target = slow_attention.compared_positions(weak[i].sum(0).tolist(), affine, box, 32)
        total += len(target)
        expected = slow_attention.divergence(target, strong[i].sum(0)).item()
        assert divergence[i].item() == pytest.approx(expected, rel=1e-9)
    assert share.item() == pytest.approx(total / (6 * 32), rel=1e-12)
    assert 0 < total < 6 * 32


@pytest.mark.parametrize(
    ("operation", "magnitude", "tolerance"),
    [
        ("translate_x", 0.25, 1e-6),
        ("translate_y", -0.125, 1e-6),
        ("rotate", 20.0, 0.06),
        ("shear_x", 0.2, 0.06),
    ],
)
def test_the_strong_view_s_own_geometry_aligns_what_it_did(
    operation: str, magnitude: float, tolerance: float
) -> None:
    """A map that averages 4x4 pixels, of a smooth image and of its strong view: equal where compared."""
    row, column = torch.arange(32.0)[:, None], torch.arange(32.0)
    picture = (127 + 60 * torch.sin(row / 5) + 60 * torch.cos(column / 6 + row / 12)).round()
    images = picture.to(torch.uint8)[None, :, :, None].expand(1, 32, 32, 3).contiguous()
    place = {name: number for number, name in enumerate(operations.OPERATIONS)}
    draws = randaugment.Draws(
        operations=torch.tensor([[place[operation], place["identity"]]]),
        magnitudes=torch.tensor([[magnitude, 0.0]]),
        centres=torch.tensor([[12, 20]]),
    )
    views, geometry = randaugment.apply(images, draws)
    weak, strong = (
        functional.avg_pool2d(part[..., 0].double()[:, None], 4)[:, 0] / 60 for part in (images, views)
    )
    aligned, compared = align_maps(weak, geometry.affine, geometry.cutout, SIZE)
    grey = (views[..., 0] == operations.GREY).double()[:, None]  # in cells on an edge, not compared here
    inner = compared & (functional.avg_pool2d(grey, 4)[:, 0] < 0.1)
    assert 16 < inner.sum() < 64
    assert (aligned - strong)[inner].square().mean().sqrt() < tolerance
    assert (weak - strong)[inner].square().mean().sqrt() > 0.25  # unaligned they differ


# The distance.


def test_the_divergence_by_hand() -> None:
    target = leaf([[0.0, math.log(3.0), 5.0]])
    scores = leaf([[0.0, 0.0, -7.0]])
    compared = torch.tensor([[True, True, False]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    each = map_divergence(target, scores, compared)
    assert each.tolist() == pytest.approx([expected], rel=1e-12)
    each.sum().backward()
    assert target.grad is None and scores.grad is not None
    assert scores.grad.flatten().tolist() == pytest.approx([0.5 - 0.25, 0.5 - 0.75, 0.0], rel=1e-12)


def test_identical_maps_have_no_distance() -> None:
    maps = 30 * normal(5, 2, 8, 8)
    divergence, share = attention_divergence(maps, maps.clone(), None, SIZE)
    assert divergence.tolist() == [0.0] * 5 and share.item() == 1.0
    aligned, _ = attention_divergence(
        maps, maps.clone(), geometry_of(*[(IDENTITY, [3, 3, 19, 19])] * 5), SIZE
    )
    assert aligned.abs().max() < 1e-12
    moved = attention_divergence(maps, maps + 7, None, SIZE)[0]  # a softmax does not see a constant
    assert moved.abs().max() < 1e-12


def test_a_symmetric_map_is_its_own_quarter_turn_and_another_is_not() -> None:
    symmetric = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    symmetric[..., 2:6, 2:6] = 3.0
    lopsided = symmetric.clone()
    lopsided[..., 0, 3] = 3.0
    turned = geometry_of((TURN, NO_BOX))
    assert attention_divergence(symmetric, symmetric, turned, SIZE)[0].item() == pytest.approx(0, abs=1e-12)
    # 17 positions of e^3 and 47 of 1; two of them have changed places
    expected = 3 * (math.exp(3) - 1) / (17 * math.exp(3) + 47)
    divergence, _ = attention_divergence(lopsided, lopsided, turned, SIZE)
    assert divergence.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("affine", "box", "left"),
    [
        (shifted(9), NO_BOX, 0),
        (IDENTITY, ALL_BOX, 0),
        (shifted(7, 7), NO_BOX, 1),
        (shifted(7, 6), NO_BOX, 2),
    ],
)
def test_fewer_than_two_positions_have_no_distance(
    affine: list[list[float]], box: list[int], left: int
) -> None:
    weak, strong = 5 * normal(1, 2, 8, 8), leaf(5 * normal(1, 2, 8, 8, seed=1))
    divergence, share = attention_divergence(weak, strong, geometry_of((affine, box)), SIZE)
    assert share.item() == left / 64
    divergence.sum().backward()
    assert strong.grad is not None and torch.isfinite(strong.grad).all()
    if left < 2:
        assert divergence.item() == 0 and not strong.grad.any()
        return
    p, q = weak[0].sum(0)[6:, 7].softmax(0), strong[0].sum(0)[:2, 0].softmax(0)
    assert divergence.item() == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-9)
    assert (strong.grad.flatten(2) != 0).sum() == 4  # two positions of two maps


def test_half_precision_maps_are_compared_in_float32() -> None:
    maps = normal(2, 2, 8, 8).to(torch.bfloat16)
    divergence, _ = attention_divergence(maps, maps.flip(0), random_geometry(2), SIZE)
    assert divergence.dtype == torch.float32 and (divergence > 0).all()
    assert map_similarity(maps.flatten(2)).dtype == torch.float32


def test_similarity_by_hand() -> None:
    far = 1e3
    maps = torch.tensor(
        [
            [[far, 0.0, 0.0], [0.0, far, 0.0], [0.0, 0.0, far]],  # three places
            [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],  # one place
            [[far, 0.0, 0.0], [far, 0.0, 0.0], [0.0, far, 0.0]],  # one pair of three
            [[far, far, 0.0], [far, 0.0, 0.0], [far, far, 0.0]],  # (1 + 2 / sqrt 2) / 3
        ],
        dtype=torch.float64,
    )
    expected = [0.0, 1.0, 1 / 3, (1 + math.sqrt(2)) / 3]
    assert map_similarity(maps).tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    random = normal(2, 4, 3, 3)
    slow = [slow_attention.similarity(one).item() for one in random]
    assert map_similarity(random.flatten(2)).tolist() == pytest.approx(slow, rel=1e-12)


# The whole loss.


class Parts:
    """Outputs of 3 labelled and 6 unlabelled images of 5 classes, two maps of 8x8 each."""

    def __init__(self) -> None:
        self.geometry = random_geometry(6, seed=5)
        self.labelled, self.weak, self.strong = (
            leaf(scale * normal(n, 5, seed=i)) for i, (n, scale) in enumerate([(3, 1.0), (6, 2.0), (6, 1.0)])
        )
        self.maps = tuple(leaf(normal(n, 2, 8, 8, seed=9 + i)) for i, n in enumerate([3, 6, 6]))

    def loss(self, kept: Any = slice(None), **parameters: Any) -> Any:
        config = AttentionFixMatchConfig(threshold=0.6).model_copy(update=parameters)
        return compute(
            "attention_fixmatch",
            config,
            (self.labelled, self.weak[kept], self.strong[kept]),
            [0, 1, 2],
            maps=(self.maps[0], self.maps[1][kept], self.maps[2][kept]),
            geometry=Geometry(self.geometry.affine[kept], self.geometry.cutout[kept]),
        )


def test_the_total_is_made_of_its_terms() -> None:
    parts = Parts()
    output = parts.loss(lambda_u=0.5, lambda_att=0.25, diversity_weight=2.0)
    terms = {name: value.item() for name, value in output.terms.items()}
    expected = terms["loss_supervised"] + 0.5 * terms["loss_unsupervised"] + 0.25 * terms["loss_attention"]
    assert output.total.item() == pytest.approx(expected + 2.0 * terms["map_similarity"], rel=1e-12)
    accepted = output.pseudo.accepted
    assert 0 < accepted.sum() < 6
    divergence, share = attention_divergence(parts.maps[1], parts.maps[2], parts.geometry, SIZE)
    assert terms["loss_attention"] == pytest.approx(divergence[accepted].sum().item() / 6, rel=1e-12)
    assert terms["attention_compared"] == share.item() < 1
    similarity = [map_similarity(parts.maps[i].flatten(2)) for i in (0, 2)]  # labelled and strong
    assert terms["map_similarity"] == pytest.approx(torch.cat(similarity).mean().item(), rel=1e-12)


def test_aligned_and_unaligned_maps_are_not_the_same() -> None:
    parts = Parts()
    aligned, plain = (parts.loss(align=align).terms for align in ("geometry", "none"))
    assert aligned["loss_attention"].item() != pytest.approx(plain["loss_attention"].item(), rel=1e-3)
    assert plain["attention_compared"].item() == 1
    unaligned, _ = attention_divergence(parts.maps[1], parts.maps[2], None, SIZE)
    accepted = parts.loss().pseudo.accepted
    assert plain["loss_attention"].item() == pytest.approx(unaligned[accepted].sum().item() / 6, rel=1e-12)


def test_targets_get_no_gradient() -> None:
    parts = Parts()
    parts.loss(diversity_weight=1.0).total.backward()
    for target in (parts.weak, parts.maps[1]):
        assert target.grad is None or not target.grad.any()
    for trained_on in (parts.labelled, parts.strong, parts.maps[0], parts.maps[2]):
        assert trained_on.grad is not None and trained_on.grad.any()


@pytest.mark.parametrize("off", [{"threshold": 1.5}, {"lambda_u": 0.0, "lambda_att": 0.0}])
def test_switched_off_the_gradient_is_that_of_the_labelled_images(off: dict[str, float]) -> None:
    parts = Parts()
    parts.loss(**off).total.backward()
    alone = leaf(parts.labelled.detach())
    functional.cross_entropy(alone, torch.tensor([0, 1, 2])).backward()
    assert torch.equal(parts.labelled.grad, alone.grad)
    for part in (parts.weak, parts.strong, *parts.maps):
        assert part.grad is None or not part.grad.any()


def test_without_the_weight_the_head_s_maps_change_nothing_in_fixmatch_s_loss() -> None:
    parts = Parts()
    output = parts.loss(lambda_att=0.0)
    logits = (parts.labelled, parts.weak, parts.strong)
    plain = compute("fixmatch", FixMatchConfig(threshold=0.6), logits, [0, 1, 2])
    assert torch.equal(output.total, plain.total) and output.terms["loss_attention"] > 0
    output.total.backward()
    assert all(part.grad is None or not part.grad.any() for part in parts.maps)


def test_masked_out_images_change_nothing_but_the_count() -> None:
    parts = Parts()
    output = parts.loss()
    kept = output.pseudo.accepted
    subset = parts.loss(kept)
    for name in ("loss_unsupervised", "loss_attention"):
        expected = subset.terms[name].item() * int(kept.sum()) / 6
        assert output.terms[name].item() == pytest.approx(expected, rel=1e-12)


def test_one_map_has_no_similarity_to_log() -> None:
    run = make_run("attention_fixmatch", parameters={"maps": 1, "diversity_weight": 0.0})
    metrics = finish(run)[-1].metrics
    assert "train/loss_attention" in metrics and "train/map_similarity" not in metrics


# Runs.


def test_the_head_changes_no_other_stream() -> None:
    plain = make_run("fixmatch")
    headed = make_run("attention_fixmatch")
    states = plain.network.state_dict(), headed.network.state_dict()
    assert len(states[1]) > len(states[0])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_without_a_head_it_is_fixmatch_bit_for_bit() -> None:
    own = {"maps": 0, "lambda_att": 0.0, "diversity_weight": 0.0, "threshold": 0.4}
    plain, off = (
        make_run("fixmatch", parameters={"threshold": 0.4}),
        make_run("attention_fixmatch", parameters=own),
    )
    finish(plain)
    finish(off)
    assert_same_bits(trained(off), trained(plain))
    assert plain.history[-1].metrics["ssl/mask_rate"] > 0
    assert {n for n in off.history[-1].metrics if n.startswith("train/")} == {
        n for n in plain.history[-1].metrics if n.startswith("train/")
    }


@pytest.mark.parametrize(
    ("own", "shared"),
    [
        ({}, True),
        ({"lambda_att": 0.0}, True),
        ({"align": "none"}, False),
        ({"maps": 0, "lambda_att": 0.0, "diversity_weight": 0.0}, False),
    ],
)
def test_views_share_their_crop_where_maps_are_aligned(own: dict[str, Any], shared: bool) -> None:
    """With a strong view that changes nothing, both views are the same pictures, or of crops of their own."""

    def unchanged(base: Tensor, _: Any) -> tuple[Tensor, Geometry]:
        return base, geometry_of(*[(IDENTITY, NO_BOX)] * len(base))

    batches: list[Batch] = []
    run = make_run("attention_fixmatch", parameters=own, epochs=2)
    take = run.method.compute_loss

    def spy(config: Any, step: Step[None]) -> Any:
        batches.append(step.batch)
        return take(config, step)

    run.apply_strong = unchanged
    with mock.patch.object(type(run.method), "compute_loss", staticmethod(spy)):
        finish(run)
    assert len(batches) == 3
    for batch in batches:
        assert torch.equal(batch.views["weak"], batch.views["strong"]) == shared


def test_the_head_s_batchnorm_sees_every_image_once_a_step() -> None:
    run = make_run("attention_fixmatch")
    finish(run)
    assert run.network.head is not None
    assert run.network.head.bn.num_batches_tracked == run.network.bn.num_batches_tracked == 4 * 3


@pytest.mark.parametrize(
    "own", [{"diversity_weight": 0.5}, {"align": "none", "maps": 3}, {"maps": 0, "lambda_att": 0.0}]
)
def test_runs_on_digits_resume_bit_for_bit(tmp_path: Path, own: dict[str, Any]) -> None:
    reports = check_resumption(tmp_path, "attention_fixmatch", attention_fixmatch={"threshold": 0.12, **own})
    head = own.get("maps") != 0
    for report in reports:
        assert report.metrics["ssl/mask_rate"] > 0
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert ("train/loss_attention" in report.metrics) == head


def test_runs_of_other_heads_do_not_resume_each_other() -> None:
    one, other = (
        digits_run("attention_fixmatch"),
        digits_run("attention_fixmatch", attention_fixmatch={"maps": 3}),
    )
    with pytest.raises(ValueError, match="attention_fixmatch differ"):
        other.load_state(one.state())
