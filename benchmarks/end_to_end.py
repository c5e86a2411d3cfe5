"""Whole studies, not simulated: what this project recommended before and what it recommends now, on fresh seeds.

    python -m benchmarks.end_to_end            # a quarter of an hour of two cores; carries on where it was

For each of SEEDS two studies of TRIALS configurations search pseudo_label on digits with 50 labels: one that goes by
the error with TPE, as before, and one with today's defaults. The best of each is trained on FRESH fresh seeds, and the
test set is read once for each. Both see the same labelled sets there, so their test errors are paired.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.curve_sets import DATA
from tune.findings.comparisons import Spread

HOME = Path(__file__).resolve().parent.parent / "ssl-tune-home" / "end-to-end"
SEEDS, TRIALS, FRESH = (0, 1, 2), 24, 5
COMMON = (
    *("--method", "pseudo_label", "--dataset", "digits", "--labels", "50", "--epochs", "12"),
    *("--space", str(DATA / "spaces" / "pseudo_label.yaml"), "--trials", str(TRIALS), "--concurrent", "2"),
    *("--set", "network=wrn-10-1", "--set", "steps_per_epoch=24", "--set", "batch_size=8", "--set", "mu=2"),
    *(
        "--set",
        "data.image_size=8",
        "--set",
        "data.valid=50",
        "--set",
        "threads=1",
        "--set",
        "precision=float32",
    ),
)
KINDS = {"before": ("--objective", "val/error", "--sampler", "tpe", "--grace", "2"), "now": ()}


def command(*words: str) -> None:
    """Run a command of ssl-tune in this home; its output goes to standard error."""
    called = [sys.executable, "-c", "from tune.cli import main; main()", *words, "--home", str(HOME)]
    subprocess.run(called, check=True, stdout=sys.stderr)


def confirmed(kind: str, seed: int) -> dict[str, Any]:
    """The confirmation of a study's best trial, its row; the study is made where there is none."""
    name = f"{kind}-{seed}"
    document = HOME / "studies" / name / "confirm.json"
    if not document.exists():
        if (HOME / "studies" / name / "study.yaml").exists():
            command("resume", name)
        else:
            command("search", "--name", name, "--seed", str(seed), *COMMON, *KINDS[kind])
        command("confirm", name, "--seeds", str(FRESH), "--baseline", "plain")
    found = json.loads(document.read_text())
    row: dict[str, Any] = next(r for r in found["rows"] if r["who"] == found["winner"])
    return row


def table() -> Iterator[str]:
    """A row for each seed, in Markdown, and the paired difference over all."""
    yield "| seed of the search | before: test errors | now: test errors | now less before |"
    yield "|---|---|---|---|"
    differences: list[float] = []
    for seed in SEEDS:
        rows = [confirmed(kind, seed) for kind in KINDS]
        errors = [dict(zip(row["seeds"], row["test_error"], strict=True)) for row in rows]
        paired = [errors[1][s] - errors[0][s] for s in sorted(errors[0])]
        differences += paired
        spreads = [Spread(tuple(row["test_error"])) for row in rows]
        cells = [f"{s.mean:.2f} ± {s.std:.2f}" for s in (*spreads, Spread(tuple(paired)))]
        yield f"| {seed} | {cells[0]} (trial {rows[0]['trial']}) | {cells[1]} (trial {rows[1]['trial']}) | {cells[2]} |"
    spread = Spread(tuple(differences))
    yield f"| all {len(differences)} pairs | | | {spread.mean:.2f} ± {spread.std:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.parse_args()
    print("\n".join(table()))


if __name__ == "__main__":
    main()
