"""Random numbers and images of many steps at once: the same as a step at a time, from wherever a run goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_core.augment import weak
from ssl_core.training.drawing import views
from ssl_core.training.drawing.rows import Order
from ssl_core.training.drawing.views import STEPS, Place, ViewDraws
from ssl_core.training.rng import Balanced, Shuffled, generator
from ssl_core.training.step import unlabelled_views
from tests.tiny import assert_same_bits, everything, finish, make_run

PLACES: tuple[Place, ...] = ((1,), (1, 1), (2,))


def draws(seed: int = 3, **fields: Any) -> ViewDraws:
    given = {"side": 16, "flip": True, "probability": 1.0, "device": torch.device("cpu"), **fields}
    return ViewDraws(seed, **given)


def numbers(of: ViewDraws, step: int, n: int = 5) -> list[Tensor]:
    """All random numbers of a step."""
    strong = of.strong(step, n, (3,))
    return [*of.sources(step, n, PLACES), strong.operations, strong.magnitudes, strong.centres]


def test_a_step_s_numbers_do_not_depend_on_the_steps_before() -> None:
    one = draws()
    seen = [numbers(one, step) for step in range(2 * STEPS + 3)]
    for step in (2 * STEPS + 2, 7, STEPS, STEPS - 1, 0):
        assert_same_bits(numbers(draws(), step), seen[step])
    assert all(not torch.equal(a[0], b[0]) for k, a in enumerate(seen) for b in seen[:k])


def test_the_memory_for_rows_and_columns_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [numbers(draws(), step) for step in range(STEPS)]
    monkeypatch.setattr(views, "_EXPANDED", 3 * 2 * 16 * 5 * len(PLACES))  # three steps
    parts = draws()
    assert_same_bits([numbers(parts, step) for step in range(STEPS)], whole)
    (kept,) = parts._sources.values()
    assert (kept.first, len(kept.rows)) == (30, 2)


def test_views_of_a_step_are_those_that_are_drawn_one_by_one() -> None:
    images = torch.randint(256, (9, 16, 16, 3), dtype=torch.uint8)
    chosen = torch.tensor([4, 4, 0, 8, 2])
    step = STEPS + 5
    rows, columns = draws().sources(step, 5, PLACES)
    together = images[chosen.view(-1, 1, 1), rows, columns]
    for place, pixels in zip(PLACES, together, strict=True):
        drawn = weak.draw((STEPS, 5), 16, generator(3, "augmentation", 1, *place))
        for k, image in enumerate(chosen.tolist()):
            down, right = drawn.shift[:, 5, k].tolist()
            padded = torch.nn.functional.pad(
                images[image].permute(2, 0, 1)[None].float(), (2, 2, 2, 2), mode="reflect"
            )[0].permute(1, 2, 0)
            cut = padded[2 + down : 18 + down]
            if drawn.flipped[5, k]:
                # The shift is along the flipped row of sources, as in `weak_view`.
                places = [2 + right + x for x in reversed(range(16))]
            else:
                places = [2 + right + x for x in range(16)]
            assert torch.equal(pixels[k].float(), cut[:, places])
    one, other = draws().sources(step, 5, PLACES[:1])
    assert torch.equal(one, rows[0]) and torch.equal(other, columns[0])


def test_every_number_of_images_has_numbers_of_its_own_and_no_images_are_allowed() -> None:
    some = draws()
    assert numbers(some, 3, 5)[0].shape == (3, 5, 16, 1) and numbers(some, 3, 4)[1].shape == (3, 4, 1, 16)
    assert_same_bits(numbers(some, 3, 5), numbers(draws(), 3, 5))
    assert numbers(some, 3, 0)[0].shape == (3, 0, 16, 1) and numbers(some, 3, 0)[2].shape == (0, 2)


@pytest.mark.parametrize("balanced", [False, True])
def test_an_order_cut_into_steps_is_the_order(balanced: bool) -> None:
    images, labels = torch.tensor([3, 5, 8, 13, 21]), torch.arange(30) % 3

    def order() -> Shuffled | Balanced:
        return Balanced(labels[images], 7) if balanced else Shuffled(5, 7, "order/labelled")

    cut, plain = Order(images, order(), 4, labels, lambda values: values), order()
    for step in [*range(STEPS + 3), 2, 4 * STEPS]:
        rows, expected = cut.at(step), images[plain.batch(step, 4)]
        for part in (rows.on_host, rows.indices, rows.places.flatten()):
            assert torch.equal(part, expected)
        assert rows.places.shape == (4, 1, 1) and torch.equal(rows.labels, labels[expected])


@pytest.mark.parametrize("shared", [False, True])
def test_kinds_and_numbers_of_views_have_streams_of_their_own(shared: bool) -> None:
    run = make_run("fixmatch", epochs=2)
    run.method = type("Shares", (type(run.method),), {"shares_crop": lambda self, config: shared})()
    pixels = (run.images, torch.arange(6))
    made, _ = unlabelled_views(run, pixels, 40, {"weak": 2, "strong": 2})
    fewer, _ = unlabelled_views(run, pixels, 40, {"weak": 1, "strong": 1})
    only, _ = unlabelled_views(run, pixels, 40, {"strong": 1})
    for name in ("weak", "strong"):
        assert torch.equal(made[name], fewer[name])
    assert torch.equal(made["strong"], only["strong"])


def test_a_run_that_goes_on_within_a_block_has_the_same_bits() -> None:
    straight, first, again = (make_run("fixmatch", steps_per_epoch=5, epochs=9) for _ in range(3))
    finish(straight)
    finish(first, until=7)  # step 35: the fourth of the second block
    again.load_state(first.state())
    finish(again)
    assert_same_bits(everything(again), everything(straight))
