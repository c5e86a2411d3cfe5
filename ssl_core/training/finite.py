"""A loss or gradient that is not finite stops a run before the update, and never makes the device wait for it.

On a CPU the step's verdict is read at once. A GPU works behind the program that gives it orders, and reading
a value there would hold both up at every step; so the verdict stays on the device, where it keeps the optimiser
and the average from moving (`found_inf`), and is read at the end of the epoch. Either way no weight, momentum
or average has moved from the first bad step on, and the error names that step and what was wrong in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_core.methods.base import LossOutput
from ssl_core.system.errors import NonFiniteError


@dataclass(frozen=True)
class _Step:
    """What the verdict on a step was made of: scalars on the device."""

    number: int
    terms: dict[str, Tensor]
    loss: Tensor
    gradient: Tensor

    def finite(self) -> Tensor:
        return torch.isfinite(self.loss + self.gradient)

    def problem(self) -> str:
        """What is not finite, the most particular first."""
        bad = [name for name, value in self.terms.items() if not bool(torch.isfinite(value))]
        if bad:
            return f"the term {bad[0]}"
        return "the gradient" if bool(torch.isfinite(self.loss)) else "the loss"


class FiniteGuard:
    """Watches the steps of an epoch.

    Args:
        parameters: the weights under training; their gradients are watched.
        at_once: read the verdict on a step after the step; else when the epoch ends.
        where: which run and epoch it is, for the message.

    Attributes:
        found_inf: () float32 on the weights' device: 1 from the first bad step on, 0 before. None where
            verdicts are read at once: a bad step then ends the run, and there is none after it.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], *, at_once: bool, where: str) -> None:
        self._parameters, self._where = parameters, where
        self._steps: list[_Step] = []
        self.found_inf = None if at_once else torch.zeros((), device=parameters[0].device)

    def watch(self, output: LossOutput[Any], step: int) -> None:
        """Judge a step by its loss and gradients, before the update.

        Raises:
            NonFiniteError: where verdicts are read at once and this one is bad.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).sum()
        terms = {name: value.detach() for name, value in output.terms.items()}
        self._steps.append(_Step(step, terms, output.total.detach(), norm))
        if self.found_inf is None:
            self.read()
        else:
            self.found_inf.logical_or_(self._steps[-1].finite().logical_not_())

    def read(self) -> None:
        """Wait for the verdict on the steps since it was last read.

        Raises:
            NonFiniteError: naming the first bad step and what was not finite in it.
        """
        steps, self._steps = self._steps, []
        if self.found_inf is not None and not bool(self.found_inf):
            return
        for step in steps:
            if not bool(step.finite()):
                raise NonFiniteError(
                    f"{step.problem()} is not finite at step {step.number} {self._where}; nothing was updated"
                )
