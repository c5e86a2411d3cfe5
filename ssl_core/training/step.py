"""One training step: draw images, make their views, compute the method's loss, update the weights.

During the warm-up the step is the supervised one, whatever the method (invariant 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

from ssl_core.augment.randaugment import Geometry
from ssl_core.methods.base import (
    AnyMethod,
    Batch,
    LossOutput,
    Progress,
    Step,
    counted_views,
)
from ssl_core.methods.supervised import METHOD as SUPERVISED
from ssl_core.methods.views import Views, view_names
from ssl_core.schema import MethodConfig
from ssl_core.system.errors import ConfigError
from ssl_core.training.drawing.rows import Rows
from ssl_core.training.drawing.views import Place
from ssl_core.training.finite import FiniteGuard
from ssl_core.training.optim import clip_gradient, learning_rate, set_learning_rate
from ssl_core.training.rng import generator, stream_seed
from ssl_core.training.run import Run

Fetched = tuple[torch.Tensor, torch.Tensor]
"""Images on the device, (N, H, W, 3) uint8, and which of them: (n,) int64, or (n, 1, 1)."""
_NO_PARAMETERS = MethodConfig()  # the supervised step has no parameters


def train_step(run: Run, progress: Progress, guard: FiniteGuard) -> tuple[Batch, LossOutput[Any]]:
    """Draw a batch and update the weights with it.

    Raises:
        NonFiniteError: before the update, where the guard reads its checks at once.
        ConfigError: the method did not return its state.
    """
    run.begin_step()
    batch = _batch(run, progress)
    return batch, _step(run, batch, progress, guard)


def _batch(run: Run, progress: Progress) -> Batch:
    config, step = run.config, progress.step
    rows = run.labelled_rows.at(step)
    # Labelled and unlabelled views have augmentation streams of their own, so that a step's labelled view is
    # the same whatever the method draws besides.
    (pixels,) = _weak_pixels(run, _fetched(run, rows), step, ((0,),))
    labelled = run.normalise(pixels)
    counts = counted_views(run.method, config.parameters) if progress.ssl_epoch else {}
    if not counts:
        _ahead(run, step + 1, unlabelled=False)
        return Batch(labelled=labelled, labels=rows.labels, indices=_none(run.device))
    drawn = run.method.draw(config.parameters, run.method_state, run.setup, progress, config.seed)
    if drawn is None:
        chosen, targets = run.unlabelled_rows.at(step), None
        indices, fetched = chosen.indices, _fetched(run, chosen)
    else:
        indices, targets = run.to_device(drawn.indices), run.to_device(drawn.targets)
        fetched = run.fetch(indices, drawn.indices)
    _ahead(run, step + 1, unlabelled=drawn is None)
    views, geometry = unlabelled_views(run, fetched, step, counts)
    return Batch(
        labelled=labelled,
        labels=rows.labels,
        indices=indices,
        views=views,
        targets=targets,
        geometry=geometry,
    )


def _fetched(run: Run, rows: Rows) -> Fetched:
    """Images on the device, and where the rows are in them."""
    if run.host is None:
        return run.images, rows.places
    return run.fetch(rows.indices, rows.on_host)


def _ahead(run: Run, step: int, *, unlabelled: bool) -> None:
    """Have the images of the next step gathered, where they are on the host and known before this step has ended."""
    if run.host is None or step >= run.config.total_steps:
        return
    batches = [run.labelled_rows.at(step).on_host]
    if unlabelled:
        batches.append(run.unlabelled_rows.at(step).on_host)
    run.host.ahead(batches)


def unlabelled_views(
    run: Run, fetched: Fetched, step: int, counts: Mapping[str, int]
) -> tuple[Views, Geometry | None]:
    """The views of a step by name, each (n, 3, H, W), and where the first strong one's pixels come from.

    Args:
        run: whose random streams they are made of.
        fetched: images on the device and which of them, as `Run.fetch` gives them.
        step: its number, from 0.
        counts: how many of each kind, as `Method.views` has them.
    """
    shared = run.method.shares_crop(run.config.parameters)
    # The first views of a kind have the streams that they had when there was one of a kind alone.
    weak = {name: (1, *_further(k)) for k, name in enumerate(view_names("weak", counts.get("weak", 0)))}
    strong = {
        name: (1,) if shared else (2, *_further(k))
        for k, name in enumerate(view_names("strong", counts.get("strong", 0)))
    }
    places = tuple(dict.fromkeys([*weak.values(), *strong.values()]))
    made = dict(zip(places, _weak_pixels(run, fetched, step, places), strict=True))
    pixels = {name: made[place] for name, place in weak.items()}
    geometry = None
    for number, (name, place) in enumerate(strong.items()):
        draws = run.view_draws.strong(step, len(made[place]), (3, *_further(number)))
        pixels[name], where = run.apply_strong(made[place], draws)
        geometry = geometry or where
    return Views({name: run.normalise(each) for name, each in pixels.items()}), geometry


def _further(number: int) -> tuple[int, ...]:
    """What the place of a view's random stream has besides, for the second view of a kind and those after it."""
    return (number,) if number else ()


def _weak_pixels(
    run: Run, fetched: Fetched, step: int, places: tuple[Place, ...]
) -> tuple[torch.Tensor, ...]:
    """The weak views of these streams, each (n, H, W, 3) uint8: all of them are one gather."""
    if not places:  # the picture of a method that looks at no unlabelled image
        return ()
    images, chosen = fetched
    chosen = chosen if chosen.ndim == 3 else chosen.view(-1, 1, 1)
    rows, columns = run.view_draws.sources(step, len(chosen), places)
    pixels = images[chosen, rows, columns]
    return (pixels,) if len(places) == 1 else pixels.unbind()


def _step(run: Run, batch: Batch, progress: Progress, guard: FiniteGuard) -> LossOutput[Any]:
    """One update, unless the loss or a gradient is not finite."""
    config = run.config
    if run.draws_noise:
        torch.manual_seed(stream_seed(config.seed, "dropout", progress.step))
    lr = learning_rate(config.lr, progress.step, config.total_steps, config.schedule)
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    noise = generator(config.seed, "noise", progress.step, device=run.device)
    output: LossOutput[Any]
    state = run.method_state
    if progress.ssl_epoch:
        step = Step(run.forward, batch, state, progress, noise, run.averaged)
        output = run.method.compute_loss(config.parameters, step)
        state = checked_state(run.method, state, output.state, "compute_loss")
    else:
        output = SUPERVISED.compute_loss(_NO_PARAMETERS, Step(run.forward, batch, None, progress, noise))
    _update(run, output, progress.step, guard)
    run.method_state = state
    return output


def _update(run: Run, output: LossOutput[Any], step: int, guard: FiniteGuard) -> None:
    """Differentiate the loss, and update the weights and their average."""
    scale, skipped = run.loss_scale, None
    loss = output.total if scale is None else scale.scaled(output.total)
    _differentiate(loss)
    if scale is not None:
        skipped = scale.unscale(run.network.parameters())
    found_inf = guard.watch(output, step, skipped)
    if run.config.clip_norm is not None:
        clip_gradient(run.network.parameters(), run.config.clip_norm)
    run.optimizer.found_inf = found_inf  # type: ignore[union-attr]
    run.optimizer.step()
    run.ema.update(step, found_inf)


@cache
def _none(device: torch.device) -> torch.Tensor:
    """No indices."""
    return torch.empty(0, dtype=torch.int64, device=device)


def _differentiate(loss: torch.Tensor) -> None:
    """`loss.backward()`, without the 1 that it makes at every step: with one handed in it loads torch's compiler."""
    if loss.ndim or not loss.requires_grad:  # it says what is wrong
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        ones = (_one(loss.dtype, loss.device),)
        _engine_run_backward((loss,), ones, False, False, (), allow_unreachable=True, accumulate_grad=True)


@cache
def _one(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.ones((), dtype=dtype, device=device)


def checked_state(method: AnyMethod, before: Any, after: Any, function: str) -> Any:
    """The state that a method returned.

    Raises:
        ConfigError: it is not of the type that `init_state` gave, for example because the method forgot to return it.
    """
    if type(after) is type(before):
        return after
    given, expected = type(after).__name__, type(before).__name__
    what = f"no state, but its state is a {expected}" if after is None else f"a state of type {given}"
    remedy = (
        f"Return a {expected} (unchanged: step.state)"
        if before is not None
        else "Let init_state return the first one"
    )
    raise ConfigError(f"method {method.name!r}: {function} returned {what}. {remedy}.")


def finite_guard(run: Run, epoch: int) -> FiniteGuard:
    """The guard that watches the steps of an epoch."""
    where = (
        f"(epoch {epoch}) of method {run.method.name} with lr={run.config.lr:g} and {run.config.parameters!r}"
    )
    return FiniteGuard(list(run.network.parameters()), at_once=run.device.type == "cpu", where=where)
