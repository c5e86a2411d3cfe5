"""One suite over every method that comes with the package, those of tomorrow included, and over the documentation's.

A new method is found by itself. It needs a slow reference of its loss in REFERENCES, parameters that switch its
unlabelled loss off in OFF (both in tests/references.py), and a golden trace (`python -m tests.golden.record METHOD`);
where its defaults leave the unlabelled loss asleep on an untrained network, also parameters in `tests.tiny.PARAMETERS`.

    pytest tests/ssl_core/test_methods.py --method file:my_method.py

runs the suite over a method of one's own alone; what it has no entry for is skipped.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from ssl_core.augment.randaugment import Geometry, strong_view
from ssl_core.augment.weak import weak_view
from ssl_core.methods.base import Batch, LossOutput, Method, Progress, Relabel, Step, counted_views
from ssl_core.methods.views import Views, view_names
from ssl_core.registry import get_method
from ssl_core.schema import MethodConfig
from ssl_core.system.errors import NonFiniteError
from ssl_core.training import checkpoint
from ssl_core.training.run import Run
from tests.golden import record
from tests.references import ALWAYS_MIXED, OFF, REFERENCES, seeded
from tests.tiny import (
    METHODS,
    OWN,
    assert_same_bits,
    everything,
    finish,
    make_run,
    method_named,
    same_bits,
    trained,
)

PROGRESS = Progress(step=3, total_steps=12, step_in_epoch=0, epoch=2, ssl_epoch=1)
SEPARATE = {"weak_forward": "separate"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that takes a `name` over every method, or over the one that --method names; and each that takes
    a `way` besides with the weak view in a pass of its own, where the method has the choice."""
    if "name" in metafunc.fixturenames:
        names, given = METHODS, metafunc.config.getoption("--method")
        if given is not None:
            names = [get_method(given).name]
            OWN[names[0]] = given
        if "way" in metafunc.fixturenames:
            ways = [(name, {}) for name in names]
            ways += [(n, SEPARATE) for n in names if "weak_forward" in method_named(n).Config.model_fields]
            metafunc.parametrize(("name", "way"), ways)
        else:
            metafunc.parametrize("name", names)


def lacks(name: str, what: str) -> None:
    """End a test that needs an entry which a method does not have: a method that comes with the package must."""
    (pytest.fail if name in METHODS else pytest.skip)(f"{name} {what}")


def probabilities(indices: Tensor) -> Tensor:
    """Predictions for the start of an epoch: each image sure of some class."""
    return torch.eye(3)[indices % 3] * 0.9 + 0.1 / 3


def prepared(name: str, *, precision: str = "float64", **parameters: Any) -> tuple[Run, Batch]:
    """A run at the start of its first epoch after the warm-up, and a batch as the loop would make it."""
    run = make_run(name, precision=precision, parameters=parameters)
    run.network.train()
    method, config = run.method, run.config.parameters
    pool = run.unlabelled[~torch.isin(run.unlabelled, run.labelled)]
    relabel = Relabel(pool=pool, predict=probabilities, progress=PROGRESS)
    run.method_state, _ = method.start_epoch(config, run.method_state, relabel)

    def weak(indices: Tensor, seed: int) -> Tensor:
        return weak_view(run.images, indices, flip=True, generator=seeded(seed))

    labelled, labels = run.labelled[:4], run.labels[run.labelled[:4]]
    indices, targets, geometry = run.unlabelled[:0], None, None
    pixels = {}
    if counts := counted_views(method, config):
        drawn = method.draw(config, run.method_state, run.setup, PROGRESS, 0)
        indices, targets = (drawn.indices, drawn.targets) if drawn else (run.unlabelled[:8], None)
        for number, view in enumerate(view_names("weak", counts.get("weak", 0))):
            pixels[view] = weak(indices, 6 + 10 * number)
        for number, view in enumerate(view_names("strong", counts.get("strong", 0))):
            base = pixels["weak"] if method.shares_crop(config) else weak(indices, 7 + 10 * number)
            pixels[view], where = strong_view(base, seeded(8 + 10 * number))
            geometry = geometry or where
    return run, Batch(
        labelled=run.normalise(weak(labelled, 5)),
        labels=labels,
        indices=indices,
        views=Views({view: run.normalise(each) for view, each in pixels.items()}),
        targets=targets,
        geometry=geometry,
    )


def loss_of(run: Run, batch: Batch, *, state: Any = None, forward: Any = None) -> LossOutput[Any]:
    """The method's loss; the run's own state is left as it is."""
    state = copy.deepcopy(run.method_state if state is None else state)
    step = Step(forward or run.forward, batch, state, PROGRESS, seeded(11), run.averaged)
    return run.method.compute_loss(run.config.parameters, step)


def gradients(run: Run, loss: Tensor) -> dict[str, Tensor]:
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad for name, p in run.network.named_parameters() if p.grad is not None}
    run.optimizer.zero_grad(set_to_none=True)
    return found


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    """Equal but for a share of the largest gradient."""
    assert one.keys() == other.keys()
    scale = max(float(g.abs().max()) for g in other.values())
    for name in one:
        assert float((one[name] - other[name]).abs().max()) <= tolerance * scale, name


def test_a_method_says_what_it_is(name: str) -> None:
    method = method_named(name)
    assert isinstance(method, Method) and method.name == name
    assert method.summary and "\n" not in method.summary
    assert issubclass(method.Config, MethodConfig)
    assert counted_views(method, method.Config()).keys() <= {"weak", "strong"}
    assert 0 <= method.warmup_share < 1


def test_loss_terms_and_gradients_are_finite(name: str) -> None:
    run, batch = prepared(name, precision="float32")
    output = loss_of(run, batch)
    assert output.total.shape == () and bool(torch.isfinite(output.total))
    assert "loss_supervised" in output.terms
    assert all(term.shape == () and bool(torch.isfinite(term)) for term in output.terms.values())
    if len(batch.indices):
        assert "loss_unsupervised" in output.terms
    found = gradients(run, output.total)
    assert found.keys() == dict(run.network.named_parameters()).keys()
    assert all(bool(torch.isfinite(g).all()) for g in found.values())
    assert max(float(g.abs().max()) for g in found.values()) > 0


def test_the_unlabelled_loss_is_at_work_in_these_tests(name: str) -> None:
    run, batch = prepared(name)
    assert (len(batch.indices) > 0) == bool(batch.views)
    if batch.views and float(loss_of(run, batch).terms["loss_unsupervised"].detach()) == 0:
        lacks(name, "has an unlabelled loss of 0 here: enter fitting parameters in tests.tiny.PARAMETERS")


@pytest.mark.parametrize("what", ["each term", "gradient"])
def test_a_term_or_gradient_that_is_not_finite_stops_the_run_before_the_update(name: str, what: str) -> None:
    terms = ["the gradient"]
    if what == "each term":
        run, batch = prepared(name)
        terms = [f"the term {term}" for term in loss_of(run, batch).terms]
    assert terms
    for term in terms:
        run = make_run(name, warmup_epochs=0)
        run.method = cast(Any, Poisoned(run.method, term.removeprefix("the term "), step=4))
        with pytest.raises(NonFiniteError, match=rf"{term} is not finite at step 4 \(epoch 2\)") as caught:
            finish(run)
        assert f"{name} " in str(caught.value) and f"lr={run.config.lr}" in str(caught.value)
        stopped, whole = trained(run), make_run(name, warmup_epochs=0)
        kept: dict[int, Any] = {}
        update = whole.ema.update

        def noted(step: int, *rest: Any, whole: Run = whole, update: Any = update, kept: Any = kept) -> None:
            update(step, *rest)
            kept[step] = copy.deepcopy(dict(whole.network.named_parameters()))

        whole.ema.update = noted  # type: ignore[method-assign]
        finish(whole, until=2)
        for parameter, value in kept[3].items():  # after step 3, the last good one
            assert torch.equal(stopped["network"][parameter], value), f"{term}: {parameter}"


class Poisoned:
    """A method of which one term, or the gradient alone, is not finite at one step."""

    def __init__(self, method: Method, term: str, step: int) -> None:
        self._method, self._term, self._step = method, term, step

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._method, attribute)

    def compute_loss(self, config: Any, step: Step[Any]) -> Any:
        output = self._method.compute_loss(config, step)
        if step.progress.step != self._step:
            return output
        if self._term == "the gradient":  # a finite loss, and an infinite derivative: that of sqrt at 0
            return dataclasses.replace(
                output, total=output.total + torch.sqrt(output.total - output.total.detach())
            )
        terms = {k: v * torch.nan if k == self._term else v for k, v in output.terms.items()}
        return dataclasses.replace(output, total=output.total * torch.nan, terms=terms)


def test_every_parameter_moves(name: str) -> None:
    run = make_run(name)
    before = trained(run)
    finish(run)
    after = trained(run)
    for part in ("network", "ema"):
        for key, value in before[part].items():
            assert not torch.equal(value, after[part][key]), f"{part}.{key}"


def test_the_loss_and_its_gradient_are_those_of_the_slow_reference(name: str, way: dict[str, Any]) -> None:
    if name not in REFERENCES:
        lacks(name, "has no slow reference of its loss: write one, and enter it in REFERENCES")
    run, batch = prepared(name, **way)
    loss, expected = loss_of(run, batch).total, REFERENCES[name](run, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_close(gradients(run, loss), gradients(run, expected), 1e-6)


def test_switched_off_the_gradient_is_that_of_the_labelled_images_alone(
    name: str, way: dict[str, Any]
) -> None:
    if name in ALWAYS_MIXED:
        pytest.skip("trains on mixed labelled images: its own tests say what is left with weight 0")
    if name not in OFF:
        lacks(name, "has no entry in OFF: say which parameters switch its unlabelled loss off")
    run, batch = prepared(name, **OFF[name], **way)
    calls: list[tuple[Tensor, Any]] = []

    def forward(images: Tensor, **options: Any) -> Any:
        calls.append((images, run.forward(images, **options)))
        return calls[-1][1]

    loss = loss_of(run, batch, forward=forward).total
    n = len(batch.labels)
    joint = [(images, out) for images, out in calls if torch.equal(images[:n], batch.labelled)]
    assert len(joint) == 1, "the labelled images go through the network once, before any others"
    _, output = joint[0]
    labelled = torch.nn.functional.cross_entropy(output.logits[:n], batch.labels)
    expected = torch.autograd.grad(labelled, list(run.network.parameters()), retain_graph=True)
    found = gradients(run, loss)
    for (parameter, gradient), wanted in zip(found.items(), expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-14, msg=parameter)


def permuted(batch: Batch, order: Tensor) -> Batch:
    return dataclasses.replace(
        batch,
        indices=batch.indices[order],
        views={view: images[order] for view, images in batch.views.items()},
        targets=None if batch.targets is None else batch.targets[order],
        geometry=batch.geometry and Geometry(batch.geometry.affine[order], batch.geometry.cutout[order]),
    )


def test_the_order_of_the_unlabelled_images_changes_nothing(
    name: str, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, batch = prepared(name, **way)
    plain = loss_of(run, batch)
    plain_gradients = gradients(run, plain.total)
    order = torch.randperm(len(batch.indices), generator=seeded(2))

    for draw in ("rand", "randn", "_standard_gamma"):  # each image keeps its noise
        drawn = getattr(torch, draw)

        def along(*args: Any, drawn: Any = drawn, **options: Any) -> Tensor:
            noise: Tensor = drawn(*args, **options)
            return noise[order] if noise.ndim and len(noise) == len(order) else noise

        monkeypatch.setattr(torch, draw, along)
    shuffled = loss_of(run, permuted(batch, order))

    assert shuffled.total.item() == pytest.approx(plain.total.item(), rel=1e-6)
    assert shuffled.terms.keys() == plain.terms.keys()
    for term, value in plain.terms.items():
        assert shuffled.terms[term].item() == pytest.approx(value.item(), rel=1e-6, abs=1e-12), term
    assert_close(gradients(run, shuffled.total), plain_gradients, 1e-6)
    if dataclasses.is_dataclass(plain.state):
        for field in dataclasses.fields(plain.state):
            one, other = getattr(plain.state, field.name), getattr(shuffled.state, field.name)
            if isinstance(one, Tensor) and one.is_floating_point():
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)
            else:
                assert same_bits(one, other), field.name


def test_the_loss_depends_on_what_is_handed_in_alone(name: str) -> None:
    run, batch = prepared(name)
    torch.manual_seed(0)
    one = loss_of(run, batch)
    before = torch.get_rng_state()
    other = loss_of(run, batch)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    assert one.total.item() == other.total.item()


def test_the_state_handed_in_is_not_changed_in_place(name: str) -> None:
    run, batch = prepared(name)
    before = run.state()["method"]
    kept = copy.deepcopy(before)
    step = Step(run.forward, batch, run.method_state, PROGRESS, seeded(), run.averaged)
    run.method.compute_loss(run.config.parameters, step)
    assert_same_bits(run.state()["method"], kept)


def test_evaluation_leaves_batchnorm_alone(name: str) -> None:
    run = make_run(name)
    finish(run, until=2)
    before = trained(run)
    run.evaluated_in_batches(run.images, run.unlabelled)
    run.evaluated_in_batches(run.images, run.valid)
    assert_same_bits(trained(run), before)
    assert run.network.training and not run.ema.network.training


def test_stopped_after_any_epoch_and_resumed_gives_the_bits_of_an_uninterrupted_run(
    name: str, tmp_path: Path
) -> None:
    whole, expected = make_run(name), {}
    for epoch in range(1, 5):
        finish(whole, until=epoch)
        checkpoint.save(tmp_path, epoch, whole.state(), keep=9)
        expected[epoch] = everything(whole)
    assert not same_bits(expected[3], expected[4])
    for stop in range(1, 4):
        resumed = make_run(name)
        resumed.load_state(checkpoint.read(checkpoint.path_of(tmp_path, stop)))
        assert_same_bits(everything(resumed), expected[stop])
        finish(resumed)
        assert_same_bits(everything(resumed), expected[4])


def test_a_run_can_be_made_twice_with_the_same_bits(name: str) -> None:
    one, other = make_run(name), make_run(name)
    finish(one)
    torch.rand(5)  # the global generator has no part in it
    finish(other)
    assert_same_bits(everything(one), everything(other))


def test_the_loss_follows_the_golden_trace(name: str) -> None:
    path = record.path_of(name)
    if not path.exists():
        lacks(name, f"has no golden trace: record it with `python -m tests.golden.record {name}`")
    assert record.trace(name) == pytest.approx(record.read(name), rel=1e-6)


def test_golden_traces_are_of_known_methods() -> None:
    traces = {path.stem for path in Path(record.__file__).parent.glob("*.txt")}
    assert traces <= set(METHODS)
    assert all(len(record.read(name)) == record.STEPS for name in traces)


def test_the_methods_are_listed() -> None:
    assert {"supervised", "pseudo_label"} <= set(METHODS)
    assert sorted(METHODS) == METHODS and "base" not in METHODS
