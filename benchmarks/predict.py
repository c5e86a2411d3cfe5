"""How fast a model predicts images in memory, against its bare forward pass, in one run.

    python -m benchmarks.predict                     # wrn-28-2 at 32x32, batches of 256, one thread for each core
    python -m benchmarks.predict --network wrn-10-1

The bare pass is the network alone on normalised tensors of one batch that lie in memory, in the same precision, with
the same threads. `predict` starts from uint8 pixels: it normalises them, makes confidences and the pandas table. The
weights are initial ones: the speed does not depend on them. The two take turns; the median of the rounds is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_core.config import from_document
from ssl_core.model.card import FORMAT, Card, ImageRule, Network
from ssl_core.model.folder import write_folder
from ssl_core.model.model import load
from ssl_core.model.network import build
from ssl_core.system import environment

CLASSES, SIDE = [f"class {n}" for n in range(10)], 32


def write_model(folder: Path, network: str, precision: str, threads: int) -> None:
    """A model with initial weights."""
    document = {"method": "supervised", "network": network, "precision": precision, "threads": threads}
    card = Card(
        format=FORMAT,
        created="",
        network=Network(name=network),
        classes=CLASSES,
        image=ImageRule(
            size=SIDE,
            resize="crop",
            background="white",
            bits=16,
            flip=True,
            mean=[0.5] * 3,
            std=[0.25] * 3,
            pillow="",
        ),
        method="supervised",
        configuration=from_document(document).document(),
        epochs=1,
        split_hash="",
        versions={},
        weights_sha256="",
    )
    write_folder(folder, card, build(card).state_dict())


def rates(network: str, batch: int, batches: int, rounds: int, threads: int) -> dict[str, Any]:
    """Images a second of `predict` and of the bare pass, and their ratio."""
    fast = environment.has_fast_cpu_bfloat16()
    precision = "bfloat16" if fast else "float32"
    with tempfile.TemporaryDirectory() as place:
        write_model(Path(place, "model"), network, precision, threads)
        model = load(Path(place, "model"), device="cpu")
    torch.set_num_threads(threads)
    pixels = np.random.default_rng(0).integers(0, 256, (batch * batches, SIDE, SIDE, 3), dtype=np.uint8)
    normalised = torch.randn(batch, 3, SIDE, SIDE).to(memory_format=torch.channels_last)

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()

    def bare() -> None:
        with torch.inference_mode(), autocast():
            for _ in range(batches):
                model.network(normalised)

    def predict() -> None:
        model.predict(pixels, batch_size=batch)

    seconds: dict[str, list[float]] = {"bare": [], "predict": []}
    both: list[tuple[str, Callable[[], None]]] = [("bare", bare), ("predict", predict)]
    for each in range(rounds + 1):
        for name, call in both:
            began = time.perf_counter()
            call()
            if each:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    found = {name: len(pixels) / statistics.median(values) for name, values in seconds.items()}
    return {
        "network": network,
        "precision": precision,
        "threads": threads,
        "batch": batch,
        "bare_images_per_second": round(found["bare"]),
        "predict_images_per_second": round(found["predict"]),
        "ratio": round(found["predict"] / found["bare"], 3),
    }


def main() -> None:
    """Print one row as JSON."""
    parser = argparse.ArgumentParser(description="the speed of predict against the bare forward pass")
    parser.add_argument("--network", default="wrn-28-2")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    print(json.dumps(rates(given.network, given.batch, given.batches, given.rounds, given.threads)))


if __name__ == "__main__":
    main()
