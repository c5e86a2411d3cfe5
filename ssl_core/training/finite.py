"""A loss or gradient that is not finite stops a run before the update, without making the device wait.

On a CPU the check of a step is read at once. A GPU runs behind the program, and reading a value from it would make both
wait at every step. So the result of the check stays on the device, where it prevents the optimiser and the average from
changing (`found_inf`), and is read at the end of the epoch. Either way no weight, momentum or average changes from the
first bad step on, and the error names that step and what was not finite in it.

In float16 a gradient may overflow because the loss is scaled. Such a step is skipped and is no error
(`ssl_core.training.optim.LossScale`); a loss that is not finite is one in every precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_core.methods.base import LossOutput
from ssl_core.system.errors import NonFiniteError


@dataclass(frozen=True)
class _Step:
    """A step that was checked.

    Attributes:
        number: of the step.
        names: of the terms.
        values: the loss, the terms and `found_inf`, as they were in this step, (2 + terms,) on the device.
    """

    number: int
    names: tuple[str, ...]
    values: Tensor

    def problem(self) -> str:
        """What is not finite, the most specific first."""
        loss, *terms, _ = self.values.tolist()
        bad = [name for name, value in zip(self.names, terms, strict=True) if not math.isfinite(value)]
        if bad:
            return f"the term {bad[0]}"
        return "the gradient" if math.isfinite(loss) else "the loss"


class FiniteGuard:
    """Watches the steps of an epoch.

    Args:
        parameters: the weights under training; their gradients are watched.
        at_once: read the check of a step directly after it; else when the epoch ends.
        where: the run and epoch, for the message.

    Attributes:
        found_inf: () float32 on the weights' device: 1 from the first bad step on, 0 before. None where checks
            are read at once, because a bad step then ends the run.
        values: of the last step that was watched: its loss and its terms, in their order, and `found_inf`.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], *, at_once: bool, where: str) -> None:
        self._parameters, self._where = parameters, where
        self._steps: list[_Step] = []
        self._found = torch.zeros((), device=parameters[0].device)
        self._one = torch.ones((), device=parameters[0].device)
        self.found_inf = None if at_once else self._found
        self.values: Tensor | None = None

    @torch.no_grad()
    def watch(self, output: LossOutput[Any], step: int, skipped: Tensor | None = None) -> Tensor | None:
        """Check the loss and gradients of a step, before the update.

        Args:
            output: with the loss.
            step: its number.
            skipped: () bool on the device: the gradient has overflowed by the loss's scale, which is no error.

        Returns:
            () float32: 1 where nothing may be updated in this step; None: everything is finite.

        Raises:
            NonFiniteError: checks are read at once, and this step is bad.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        loss = output.total
        if skipped is None:
            # One operation for all: it sets `found` where a value is not finite, and multiplies all values by one.
            torch._amp_foreach_non_finite_check_and_unscale_([*gradients, loss], self._found, self._one)
        else:
            norm = torch.where(skipped, 0.0, torch.stack(torch._foreach_norm(gradients)).sum())
            self._found.logical_or_(torch.isfinite(loss + norm).logical_not_())
        self.values = measured(output, self._found)
        self._steps.append(_Step(step, tuple(output.terms), self.values))
        if self.found_inf is None:
            self.read()
            return None if skipped is None else skipped.float()
        return self.found_inf if skipped is None else torch.maximum(self.found_inf, skipped.float())

    def read(self) -> None:
        """Read the checks of the steps since the last reading; this waits for the device.

        Raises:
            NonFiniteError: naming the first bad step and what was not finite in it.
        """
        steps, self._steps = self._steps, []
        if not bool(self._found):
            return
        for step in steps:
            if float(step.values[-1]):
                raise NonFiniteError(
                    f"{step.problem()} is not finite at step {step.number} {self._where}; nothing was updated"
                )


@torch.no_grad()
def measured(output: LossOutput[Any], *more: Tensor) -> Tensor:
    """The loss and the terms of a step, in their order, and more numbers, as one tensor (n,) on the loss's device."""
    values = [output.total, *output.terms.values(), *more]
    device = output.total.device
    return torch.stack(
        [v if v.ndim == 0 and v.device == device else v.to(device).reshape(()) for v in values]
    )
