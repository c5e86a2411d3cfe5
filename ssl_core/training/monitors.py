"""What is measured during an epoch: loss terms and the quality of pseudo-labels.

The unlabelled images' true labels are used here, for the monitor of pseudo-label accuracy, and nowhere else.
Sums stay on the device until the epoch's end, so that measuring needs no synchronisation.
"""

from __future__ import annotations

from typing import Any

import torch

from ssl_core.methods.base import LossOutput, PseudoLabels

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
        self._terms: dict[str, tuple[torch.Tensor, int]] = {}
        self._counts = torch.zeros(num_classes, dtype=torch.int64, device=true_labels.device)
        self._right = torch.zeros_like(self._counts)
        self._seen = torch.zeros((), dtype=torch.int64, device=true_labels.device)
        # Of methods that weigh pseudo-labels: the sum of the weights, and of those of the right ones.
        self._weights: torch.Tensor | None = None
        self._has_pseudo = False
        self._pool: int | None = None
        self._has_truth = not bool((true_labels < 0).any())  # images without a label have no true one

    def add(self, output: LossOutput[Any]) -> None:
        """Add one step."""
        for name, value in {"loss": output.total, **output.terms}.items():
            total, count = self._terms.get(name, (torch.zeros((), device=value.device), 0))
            self._terms[name] = (total + value.detach().float(), count + 1)
        if output.pseudo is not None:
            self.add_pseudo_labels(output.pseudo)

    def add_pseudo_labels(self, pseudo: PseudoLabels) -> None:
        """Add the pseudo-labels of a step, or of all unlabelled images."""
        device = self._true.device
        indices, labels = pseudo.indices.to(device), pseudo.labels.to(device)
        unlabelled = ~self._is_labelled[indices]
        accepted = pseudo.accepted.to(device) & unlabelled
        self._has_pseudo, self._pool = True, pseudo.pool
        self._seen = self._seen + unlabelled.sum()
        right = accepted & (labels == self._true[indices])
        self._right = self._right + torch.zeros_like(self._counts).scatter_add(0, labels, right.long())
        self._counts = self._counts + torch.zeros_like(self._counts).scatter_add(0, labels, accepted.long())
        if pseudo.weights is not None:
            weights = pseudo.weights.to(device).double() * unlabelled
            parts = torch.stack([weights.sum(), (weights * (labels == self._true[indices])).sum()])
            self._weights = parts if self._weights is None else self._weights + parts

    def classes(self) -> dict[str, list[int]]:
        """Pseudo-labels of each class: how many were `accepted`, and how many of those are `right` if that is known."""
        if not self._has_pseudo:
            return {}
        counts = {"accepted": self._counts.tolist()}
        return counts | {"right": self._right.tolist()} if self._has_truth else counts

    def metrics(self) -> dict[str, float]:
        """Means over the epoch, by their MLflow names; an accuracy is absent where nothing was accepted, or where
        unlabelled images have no true label."""
        result = {f"train/{name}": float(total) / count for name, (total, count) in self._terms.items()}
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
