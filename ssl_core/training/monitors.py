"""What is measured during an epoch: loss terms and the quality of pseudo-labels.

The unlabelled images' true labels are used here, for the monitor of pseudo-label accuracy, and nowhere else.
Sums stay on the device until the epoch's end, so that measuring needs no synchronisation. All terms of a step are
one tensor, and pseudo-labels are kept for some steps and counted together: a small operation costs a GPU's program as
much as a large one.
"""

from __future__ import annotations

from typing import Any

import torch

from ssl_core.methods.base import LossOutput, PseudoLabels
from ssl_core.training.finite import measured

COUNTED_TOGETHER = 32
"""Steps whose pseudo-labels are kept at most before they are counted."""
MAX_CLASSES_SHOWN = (
    20  # with more classes, a metric for each would be too many for the tracking server; `classes` has all
)


class EpochMonitor:
    """Collects an epoch's terms and pseudo-labels.

    Args:
        true_labels: of all training images, (N,) int64, on the device.
        labelled: indices of the labelled images, which the pseudo-label metrics leave out.
        num_classes: C.
    """

    def __init__(self, true_labels: torch.Tensor, labelled: torch.Tensor, num_classes: int) -> None:
        self._true = true_labels
        self._is_labelled = torch.zeros(len(true_labels), dtype=torch.bool, device=true_labels.device)
        self._is_labelled[labelled.to(true_labels.device)] = True
        self._waiting: list[PseudoLabels] = []
        # The values of each step, (n,), by their names.
        self._values: dict[tuple[str, ...], list[torch.Tensor]] = {}
        self._counts = torch.zeros(num_classes, dtype=torch.int64, device=true_labels.device)
        self._right = torch.zeros_like(self._counts)
        self._seen = torch.zeros((), dtype=torch.int64, device=true_labels.device)
        # Of methods that weigh pseudo-labels: the sum of the weights, and of those of the right ones.
        self._weights: torch.Tensor | None = None
        self._has_pseudo = False
        self._pool: int | None = None
        self._has_truth = not bool((true_labels < 0).any())  # images without a label have no true one

    @torch.no_grad()
    def add(self, output: LossOutput[Any], values: torch.Tensor | None = None) -> None:
        """Add one step.

        Args:
            output: of the step.
            values: its loss and terms as `finite.measured` gives them, where that was called already.
        """
        names = ("loss", *output.terms)
        self._values.setdefault(names, []).append(measured(output) if values is None else values)
        if output.pseudo is not None:
            self.add_pseudo_labels(output.pseudo)

    def add_pseudo_labels(self, pseudo: PseudoLabels) -> None:
        """Add the pseudo-labels of a step, or of all unlabelled images."""
        self._has_pseudo, self._pool = True, pseudo.pool
        self._waiting.append(pseudo)
        if len(self._waiting) >= COUNTED_TOGETHER:
            self._count()

    @torch.no_grad()
    def _count(self) -> None:
        """Count the pseudo-labels that wait."""
        waiting, self._waiting = self._waiting, []
        self._count_alike([pseudo for pseudo in waiting if pseudo.weights is None])
        self._count_alike([pseudo for pseudo in waiting if pseudo.weights is not None])

    def _count_alike(self, several: list[PseudoLabels]) -> None:
        """Count pseudo-labels that all have weights, or none."""
        if not several:
            return
        device = self._true.device

        def joined(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat([part if part.device == device else part.to(device) for part in parts])

        indices, labels = (
            joined([each.indices for each in several]),
            joined([each.labels for each in several]),
        )
        unlabelled = ~self._is_labelled[indices]
        accepted = joined([each.accepted for each in several]) & unlabelled
        self._seen += unlabelled.sum()
        agrees = labels == self._true[indices]
        self._right.scatter_add_(0, labels, (accepted & agrees).long())
        self._counts.scatter_add_(0, labels, accepted.long())
        weighted = [each.weights for each in several if each.weights is not None]
        if weighted:
            weights = joined(weighted).double() * unlabelled
            parts = torch.stack([weights.sum(), (weights * agrees).sum()])
            self._weights = parts if self._weights is None else self._weights + parts

    def classes(self) -> dict[str, list[int]]:
        """Pseudo-labels of each class: how many were `accepted`, and how many of those are `right` if that is known."""
        if not self._has_pseudo:
            return {}
        self._count()
        counts = {"accepted": self._counts.tolist()}
        return counts | {"right": self._right.tolist()} if self._has_truth else counts

    def metrics(self) -> dict[str, float]:
        """Means over the epoch, by their MLflow names; an accuracy is absent where nothing was accepted, or where
        unlabelled images have no true label."""
        result = self._means()
        if not self._has_pseudo:
            return result
        classes = self.classes()
        counts, right = classes["accepted"], classes.get("right")
        accepted, seen = sum(counts), int(self._seen)
        weight, right_weight = self._weights.tolist() if self._weights is not None else (accepted, None)
        result["ssl/mask_rate"] = weight / seen if seen else 0.0
        if self._pool is not None:
            result["ssl/pool_predicted"] = seen / self._pool
        if weight and right is not None:
            result["ssl/pseudo_label_accuracy"] = (
                sum(right) if right_weight is None else right_weight
            ) / weight
        result["ssl/pseudo_labels_largest_class"] = float(max(counts))
        result["ssl/pseudo_labels_smallest_class"] = float(min(counts))
        if len(counts) <= MAX_CLASSES_SHOWN:
            result |= {f"ssl/pseudo_labels/class_{c:02d}": float(n) for c, n in enumerate(counts)}
        if len(counts) <= MAX_CLASSES_SHOWN and right is not None:
            result |= {
                f"ssl/pseudo_label_accuracy/class_{c:02d}": right[c] / n for c, n in enumerate(counts) if n
            }
        return result

    def _means(self) -> dict[str, float]:
        """The mean of every term over the steps that had it."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, values in self._values.items():
            totals = torch.stack(values).double().sum(dim=0).tolist()
            for name, total in zip(names, totals, strict=False):  # what was measured besides comes last
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + len(values)
        return {f"train/{name}": total / counts[name] for name, total in sums.items()}
