"""Every method's loss again: one image at a time, from the equations alone.

The functions are differentiable, and detach what the equations stop the gradient of, so that they check gradients too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssl_core.methods.base import Batch
from ssl_core.training.run import Run
from tests import slow_attention


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def minus_log_probability(logits: Tensor, label: int) -> Tensor:
    """-log softmax(logits)[label] of one image, (C,)."""
    highest = max(logits.tolist())
    total = sum((torch.exp(value - highest) for value in logits), torch.zeros((), dtype=logits.dtype))
    return torch.log(total) + highest - logits[label]


def supervised_reference(run: Run, batch: Batch) -> Tensor:
    logits = run.network(batch.labelled).logits
    each = [minus_log_probability(row, int(y)) for row, y in zip(logits, batch.labels, strict=True)]
    return sum(each[1:], each[0]) / len(each)


def pseudo_label_reference(run: Run, batch: Batch) -> Tensor:
    assert batch.targets is not None
    logits = run.network(torch.cat([batch.labelled, batch.views["weak"]])).logits
    labels = batch.labels.tolist() + batch.targets.tolist()
    each = [minus_log_probability(row, y) for row, y in zip(logits, labels, strict=True)]
    return sum(each[1:], each[0]) / len(each)


def length(image: Tensor) -> float:
    """L2 norm of one image."""
    return float(sum(value * value for value in image.flatten().tolist())) ** 0.5


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(logits)) of one image, (C,) each."""
    each = []
    for label in range(len(logits)):
        log_p = -minus_log_probability(target, label)
        each.append(torch.exp(log_p) * (log_p + minus_log_probability(logits, label)))
    return sum(each[1:], each[0])


def vat_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    images = batch.views["weak"]
    d = torch.stack(
        [row / length(row) for row in torch.randn(images.shape, generator=seeded(11), dtype=run.dtype)]
    )
    targets = run.network(images).logits.detach()
    for _ in range(config.iterations):
        start = d.detach().requires_grad_()
        moved = run.network(images + config.xi * start).logits
        each = [divergence(p, q) for p, q in zip(targets, moved, strict=True)]
        (found,) = torch.autograd.grad(sum(each[1:], each[0]), start)
        d = torch.stack([row / length(row) for row in found])
    eps = config.eps or 0.05 * (images[0].numel()) ** 0.5
    perturbed = run.network(images + eps * d).logits
    each = [divergence(p, q) for p, q in zip(targets, perturbed, strict=True)]
    return supervised_reference(run, batch) + config.alpha * sum(each[1:], each[0]) / len(each)


def random_perturbation_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    images = batch.views["weak"]
    noise = torch.randn(images.shape, generator=seeded(11), dtype=run.dtype)
    moved = torch.stack([x + config.eps * d / length(d) for x, d in zip(images, noise, strict=True)])
    targets, logits = run.network(images).logits.detach(), run.network(moved).logits
    each = [divergence(p, q) for p, q in zip(targets, logits, strict=True)]
    return supervised_reference(run, batch) + config.alpha * sum(each[1:], each[0]) / len(each)


def entropy_minimisation_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total = supervised_reference(run, batch)
    for row in run.network(batch.views["weak"]).logits:
        for label in range(len(row)):
            minus_log_p = minus_log_probability(row, label)
            total = total + config.weight * torch.exp(-minus_log_p) * minus_log_p / len(batch.indices)
    return total


Rows = list[tuple[Tensor, Any]]


def labelled_weak_strong(run: Run, batch: Batch) -> tuple[Tensor, Rows, Rows, Rows]:
    """The labelled loss; and image by image, logits and attention maps of labelled, weak and strong views."""
    views = [batch.labelled, batch.views["weak"], batch.views["strong"]]
    config: Any = run.config.parameters
    if getattr(config, "weak_forward", "joint") == "joint":
        rows = rows_of(run.network(torch.cat(views)))
        n, size = len(batch.labels), len(batch.indices)
        parts = [rows[:n], rows[n : n + size], rows[n + size :]]
    else:
        parts = [rows_of(run.network(images)) for images in views]
    labels = batch.labels.tolist()
    each = [minus_log_probability(row, y) for (row, _), y in zip(parts[0], labels, strict=True)]
    return sum(each[1:], each[0]) / len(each), parts[0], parts[1], parts[2]


def rows_of(output: Any) -> Rows:
    maps = [None] * len(output.logits) if output.attention is None else list(output.attention)
    return list(zip(output.logits, maps, strict=True))


def probabilities_of(logits: Tensor) -> list[float]:
    """softmax(logits) of one image, as numbers."""
    return [math.exp(-minus_log_probability(logits, label).item()) for label in range(len(logits))]


def fixmatch_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, _, weak, strong = labelled_weak_strong(run, batch)
    for (logits_weak, _), (logits_strong, _) in zip(weak, strong, strict=True):
        q = probabilities_of(logits_weak)
        if max(q) >= config.threshold:
            loss = minus_log_probability(logits_strong, q.index(max(q)))
            total = total + config.lambda_u * loss / len(batch.indices)
    return total


def flexmatch_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    last = [int(run.method_state.last[i]) for i in run.unlabelled.tolist()]
    highest = max(last.count(c) for c in [-1, *range(run.setup.num_classes)])
    total, _, weak, strong = labelled_weak_strong(run, batch)
    for (logits_weak, _), (logits_strong, _) in zip(weak, strong, strict=True):
        q = probabilities_of(logits_weak)
        label = q.index(max(q))
        beta = last.count(label) / highest
        if max(q) >= config.threshold * beta / (2 - beta):
            loss = minus_log_probability(logits_strong, label)
            total = total + config.lambda_u * loss / len(batch.indices)
    return total


def my_uda_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, _, weak, strong = labelled_weak_strong(run, batch)
    for (logits_weak, _), (logits_strong, _) in zip(weak, strong, strict=True):
        if max(probabilities_of(logits_weak)) > config.threshold:
            loss = divergence(logits_weak.detach() / config.temperature, logits_strong)
            total = total + config.weight * loss / len(batch.indices)
    return total


def attention_fixmatch_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, (_, labelled, weak, strong) = fixmatch_reference(run, batch), labelled_weak_strong(run, batch)
    assert batch.geometry is not None and config.align == "geometry"
    affines, boxes = batch.geometry.affine.tolist(), batch.geometry.cutout.tolist()
    for i, ((logits_weak, maps_weak), (_, maps_strong)) in enumerate(zip(weak, strong, strict=True)):
        if max(probabilities_of(logits_weak)) >= config.threshold:
            target = slow_attention.compared_positions(maps_weak.sum(0).tolist(), affines[i], boxes[i], 8)
            loss = slow_attention.divergence(target, maps_strong.sum(0))
            total = total + config.lambda_att * loss / len(batch.indices)
    maps = [one for _, one in [*labelled, *strong]]
    for one in maps:
        total = total + config.diversity_weight * slow_attention.similarity(one) / len(maps)
    return total


def new_averages(values: list[float], news: list[float], m: float = 0.9) -> list[float]:
    """m old + (1 - m) new, one by one. 0.9 is what fits 12 steps."""
    return [m * old + (1 - m) * new for old, new in zip(values, news, strict=True)]


def column_means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def freematch_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, _, weak, strong = labelled_weak_strong(run, batch)
    q = [probabilities_of(row) for row, _ in weak]
    c = len(q[0])
    labels = [row.index(max(row)) for row in q]
    (tau,) = new_averages([1 / c], [sum(max(row) for row in q) / len(q)])
    p = new_averages([1 / c] * c, column_means(q))
    hist = new_averages([1 / c] * c, [labels.count(k) / len(q) for k in range(c)])
    accepted = [i for i, row in enumerate(q) if max(row) >= tau * p[labels[i]] / max(p)]
    for i in accepted:
        total = total + config.lambda_u * minus_log_probability(strong[i][0], labels[i]) / len(q)
    if not accepted:
        return total
    found = [[torch.exp(-minus_log_probability(strong[i][0], k)) for k in range(c)] for i in accepted]
    classes = [max(range(c), key=lambda k, row=row: row[k].item()) for row in found]
    ratios = []
    for k in range(c):
        share = classes.count(k) / len(accepted)
        mean = sum((row[k] for row in found), torch.zeros((), dtype=torch.float64)) / len(accepted)
        ratios.append(mean / share if share else torch.zeros((), dtype=torch.float64))
    wanted = [one / other for one, other in zip(p, hist, strict=True)]
    for k in range(c):
        inner = ratios[k] / sum(ratios[1:], ratios[0]) + 1e-12
        total = total + config.lambda_f * wanted[k] / sum(wanted) * torch.log(inner)
    return total


def softmatch_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, _, weak, strong = labelled_weak_strong(run, batch)
    q = [probabilities_of(row) for row, _ in weak]
    c, n = len(q[0]), len(q)
    p = column_means(q)  # the first step
    confidence = []
    for row in q:
        scaled = [value * (1 / c + 1e-6) / (mean + 1e-6) for value, mean in zip(row, p, strict=True)]
        confidence.append(max(scaled) / sum(scaled))
    mean_now = sum(confidence) / n
    mean, variance = new_averages(
        [1 / c, 1.0], [mean_now, sum((value - mean_now) ** 2 for value in confidence) / (n - 1)]
    )
    for value, row, (logits, _) in zip(confidence, q, strong, strict=True):
        below = min(value - mean, 0)
        weight = math.exp(-(below**2) / (2 * variance / config.n_sigma**2))
        total = total + config.lambda_u * weight * minus_log_probability(logits, row.index(max(row))) / n
    return total


def uda_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total, _, weak, strong = labelled_weak_strong(run, batch)
    for (logits_weak, _), (logits_strong, _) in zip(weak, strong, strict=True):
        if max(probabilities_of(logits_weak)) > config.threshold:
            target = probabilities_of(logits_weak.detach() / config.temperature)
            for label, q in enumerate(target):
                total = total + config.lambda_u * q * minus_log_probability(logits_strong, label) / len(
                    batch.indices
                )
    return total


def probability_rows(logits: Tensor) -> list[list[Tensor]]:
    """softmax of (n, C) logits, entry by entry, with its gradient."""
    return [[torch.exp(-minus_log_probability(row, k)) for k in range(len(row))] for row in logits]


def averaged_network(run: Run) -> torch.nn.Module:
    """A copy of the run's moving average, with the running statistics of the network as they are now."""
    network = copy.deepcopy(run.ema.network)
    own, there = dict(network.named_buffers()), dict(run.network.named_buffers())
    for name, buffer in own.items():
        buffer.data.copy_(there[name])
    return network


def ramped(weight: float, share: float) -> float:
    """A weight that grows linearly over a share of the 12 steps, at step 3."""
    return weight * min(1.0, 3 / (share * 12))


def mean_teacher_reference(run: Run, batch: Batch) -> Tensor:
    config: Any = run.config.parameters
    total = supervised_reference(run, batch)
    teacher = averaged_network(run).train()
    with torch.no_grad():
        targets = teacher(batch.views["weak"]).logits
    students = probability_rows(run.network(batch.views["weak2"]).logits)
    for target, student in zip(targets, students, strict=True):
        for q, p in zip(probabilities_of(target), student, strict=True):
            total = total + ramped(config.weight, config.ramp) * (p - q) ** 2 / len(student) / len(students)
    return total


def mixmatch_reference(run: Run, batch: Batch) -> Tensor:
    """With the same random numbers: two ranks and a Beta number for each row, labelled rows first."""
    config: Any = run.config.parameters
    views = [batch.views["weak"], batch.views["weak2"]]
    guesses = [[probabilities_of(row) for row in run.network(view).logits] for view in views]
    n, size, c = len(batch.labels), len(batch.indices), run.setup.num_classes
    labels = [[float(k == y) for k in range(c)] for y in batch.labels.tolist()]
    for one, other in zip(*guesses, strict=True):
        powers = [((a + b) / 2) ** (1 / config.temperature) for a, b in zip(one, other, strict=True)]
        labels.append([power / sum(powers) for power in powers])
    labels += labels[n:]
    images = [*batch.labelled, *views[0], *views[1]]

    stream = seeded(11)
    ranks = (
        torch.rand((n, 1, 2), generator=stream).tolist(),
        torch.rand((size, 2, 2), generator=stream).tolist(),
    )
    gammas = [
        torch._standard_gamma(
            torch.full((*shape, 2), config.beta, dtype=torch.float64), generator=stream
        ).tolist()
        for shape in ((n, 1), (size, 2))
    ]
    places = [(0, i, 0) for i in range(n)] + [(1, i, v) for v in range(2) for i in range(size)]
    keys = [ranks[part][i][v] for part, i, v in places]
    mixed, soft = [], []
    for row, (part, i, v) in enumerate(places):
        rank = sorted(key[0] for key in keys).index(keys[row][0])
        partner = [key[1] for key in keys].index(sorted(key[1] for key in keys)[rank])
        g1, g2 = gammas[part][i][v]
        lam = max(g1, g2) / (g1 + g2)
        mixed.append(lam * images[row] + (1 - lam) * images[partner])
        soft.append([lam * a + (1 - lam) * b for a, b in zip(labels[row], labels[partner], strict=True)])

    total = torch.zeros((), dtype=torch.float64)
    for logits, target in zip(run.network(torch.stack(mixed[:n])).logits, soft[:n], strict=True):
        for k, q in enumerate(target):
            total = total + q * minus_log_probability(logits, k) / n
    for start in (n, n + size):
        found = probability_rows(run.network(torch.stack(mixed[start : start + size])).logits)
        for p, target in zip(found, soft[start : start + size], strict=True):
            for k, q in enumerate(target):
                total = total + ramped(config.lambda_u, config.ramp) * (p[k] - q) ** 2 / c / (2 * size)
    return total


def overlap(q: list[float], p: list[Any]) -> Any:
    """sum of sqrt(q_c p_c); p may have a gradient."""
    return sum(math.sqrt(a) * b**0.5 for a, b in zip(q, p, strict=True))


def simple_reference(run: Run, batch: Batch) -> Tensor:
    """Row by row: strong views of the first kind for all images, then of the next."""
    config: Any = run.config.parameters
    network = averaged_network(run).eval()
    with torch.no_grad():
        guesses = [[probabilities_of(row) for row in network(view).logits] for view in batch.views_of("weak")]
    targets = []
    for each in zip(*guesses, strict=True):
        powers = [mean ** (1 / config.temperature) for mean in column_means(list(each))]
        targets.append([power / sum(powers) for power in powers])
    strong = batch.views_of("strong")
    logits = run.network(torch.cat([batch.labelled, *strong])).logits
    n, c = len(batch.labels), run.setup.num_classes
    labelled = [minus_log_probability(row, y) for row, y in zip(logits, batch.labels.tolist(), strict=False)]
    total = sum(labelled[1:], labelled[0]) / n
    q, p = targets * len(strong), probability_rows(logits[n:])
    rows = len(q)
    for i in range(rows):
        if max(q[i]) <= config.threshold:
            continue
        for k in range(c):
            total = total + config.lambda_u * (p[i][k] - q[i][k]) ** 2 / (rows * c)
        for j in range(rows):
            similar = overlap(q[i], q[j])
            if j != i and similar > config.similarity:
                pairs = rows * (rows - 1) / 2
                total = total + config.lambda_pair * similar * (1 - overlap(q[i], p[j])) / pairs
    return total


def alphamatch_reference(run: Run, batch: Batch) -> Tensor:
    """The divergences from g*, which is constant. No gradient is long enough here to be shortened."""
    config: Any = run.config.parameters
    views = [batch.views["weak"], *batch.views_of("strong")]
    logits = run.network(torch.cat([batch.labelled, *views])).logits
    n, size, a = len(batch.labels), len(batch.indices), config.alpha
    labelled = [minus_log_probability(row, y) for row, y in zip(logits, batch.labels.tolist(), strict=False)]
    total = sum(labelled[1:], labelled[0]) / n
    weights = [1 - config.beta] + [config.beta / config.strong_views] * config.strong_views
    for i in range(size):
        p = probability_rows(logits[[n + v * size + i for v in range(len(views))]])
        means = [
            sum(w * row[k].item() ** (1 - a) for w, row in zip(weights, p, strict=True)) ** (1 / (1 - a))
            for k in range(run.setup.num_classes)
        ]
        target = [mean / sum(means) for mean in means]
        for w, row in zip(weights, p, strict=True):
            inner = sum(g**a * prob ** (1 - a) for g, prob in zip(target, row, strict=True))
            total = total + config.lambda_u * w * (inner - 1) / (a * (a - 1)) / size
    return total


REFERENCES: dict[str, Callable[[Run, Batch], Tensor]] = {
    "supervised": supervised_reference,
    "pseudo_label": pseudo_label_reference,
    "vat": vat_reference,
    "random_perturbation": random_perturbation_reference,
    "entropy_minimisation": entropy_minimisation_reference,
    "fixmatch": fixmatch_reference,
    "flexmatch": flexmatch_reference,
    "attention_fixmatch": attention_fixmatch_reference,
    "my_uda": my_uda_reference,
    "freematch": freematch_reference,
    "softmatch": softmatch_reference,
    "mean_teacher": mean_teacher_reference,
    "mixmatch": mixmatch_reference,
    "simple": simple_reference,
    "alphamatch": alphamatch_reference,
    "uda": uda_reference,
}
OFF: dict[str, dict[str, Any]] = {
    "supervised": {},
    "pseudo_label": {"threshold": 1.0},
    "vat": {"alpha": 0.0},
    "random_perturbation": {"alpha": 0.0},
    "entropy_minimisation": {"weight": 0.0},
    "fixmatch": {"lambda_u": 0.0},
    "flexmatch": {"lambda_u": 0.0},
    "attention_fixmatch": {"lambda_u": 0.0, "lambda_att": 0.0, "diversity_weight": 0.0},
    "my_uda": {"weight": 0.0},
    "freematch": {"lambda_u": 0.0, "lambda_f": 0.0},
    "softmatch": {"lambda_u": 0.0},
    "mean_teacher": {"weight": 0.0},
    "simple": {"lambda_u": 0.0, "lambda_pair": 0.0},
    "alphamatch": {"lambda_u": 0.0},
    "uda": {"lambda_u": 0.0},
}
"""Parameters under which the gradient is that of the labelled cross-entropy alone."""

ALWAYS_MIXED = {"mixmatch"}
"""Methods that train on other labelled images than the batch's, whatever their weights: they have no entry in OFF."""
