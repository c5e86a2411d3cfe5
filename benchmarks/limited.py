"""A run whose memory is limited to less than the images' file has: decoding, training and evaluation.

    python -m benchmarks.limited            # a file of 1.5 GiB, a limit of 1.25 GiB

The images are made first, in a temporary folder: 40 with a label, 32,768 without, 16x16 files that become 128x128.
Then a process of its own, with an empty cache, decodes them, holds out test images, trains FixMatch for a few steps and
evaluates. What is limited is RLIMIT_DATA, as `ulimit -d` sets it: all memory that is not a map of a file, whether it is
in use or only asked for; an allocation beyond it fails. Importing torch alone takes some 770 MiB of it, most of that
never used. Printed are also the peak of the memory in use (RssAnon), and a loss that shows the same bits whether the
images are gathered ahead (data.device_share 0) or read where the file is mapped (0.3 of the memory).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.decode import peak_anonymous

LABELLED, SIDE = 20, 128
MIB = 2**20


def write_images(place: Path, unlabelled: int) -> None:
    """PLACE/train/{a,b}/N.png with LABELLED images each, and PLACE/unlabelled/N.png; noise of 16x16."""
    names = [place / "train" / name / f"{i:06}.png" for name in "ab" for i in range(LABELLED)]
    names += [place / "unlabelled" / f"{i:06}.png" for i in range(unlabelled)]
    for folder in {name.parent for name in names}:
        folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), 16, 16, 3), dtype=np.uint8)
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image).save(name, compress_level=1)


def limited_run(dataset: str, cache: Path, limit: int, share: float) -> dict[str, Any]:
    """Train with a limit on this process's memory; called in a process of its own.

    Args:
        dataset: of the images.
        cache: where they are decoded to.
        limit: in bytes.
        share: `data.device_share`.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import ssl_core  # under the limit, too

    document = {
        "method": "fixmatch",
        "dataset": dataset,
        "network": "wrn-10-1",
        "epochs": 2,
        "steps_per_epoch": 6,
        "batch_size": 2,
        "mu": 2,
        "eval_batch_size": 8,
        "threads": 1,
        "data": {"image_size": SIDE, "device_share": share},
    }
    with peak_anonymous() as peak:
        began = time.perf_counter()
        result = ssl_core.train(document, cache=cache)
        seconds = time.perf_counter() - began
        time.sleep(0.05)
        files = [file.stat().st_size for file in cache.glob("*/train_images.npy")]
        return {
            "device_share": share,
            "images_file_mib": max(files) / MIB,
            "limit_mib": limit / MIB,
            "peak_anonymous_mib": peak(),
            "seconds": seconds,
            "split_hash": result.split_hash,
            "val_loss": result.val_loss,
        }


def main(words: Sequence[str] | None = None) -> None:
    """Make the images, run, and print a line for each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32_768, help="images without a label")
    parser.add_argument("--limit", type=int, default=1280, help="MiB")
    parser.add_argument("--place", type=Path, help="folder to work in (default: a temporary one)")
    parser.add_argument("--one", nargs=3, metavar=("DATASET", "CACHE", "SHARE"), help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.one:
        dataset, cache, share = asked.one
        print(json.dumps(limited_run(dataset, Path(cache), asked.limit * MIB, float(share))))
        return
    with tempfile.TemporaryDirectory(dir=asked.place) as folder:
        images, cache = Path(folder, "images"), Path(folder, "cache")
        write_images(images, asked.images)
        for share in ("0", "0.3"):
            words = ["--limit", str(asked.limit), "--one", f"folder:{images}", str(cache), share]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.limited", *words],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            row = json.loads(done.stdout)
            print(
                f"device_share {row['device_share']:<4g} images {row['images_file_mib']:6.0f} MiB, "
                f"limit {row['limit_mib']:6.0f} MiB, peak RssAnon {row['peak_anonymous_mib']:6.0f} MiB, "
                f"{row['seconds']:6.1f} s, val/loss {row['val_loss']:.15f}, split {row['split_hash']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
