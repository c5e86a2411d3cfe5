"""What `benchmarks.gpu_evidence` keeps, a JSON line a measurement, and the tables of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read(out: Path) -> list[dict[str, Any]]:
    """The lines that are there. One that was cut off by a kill is left out: it is made again."""
    found = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def write(out: Path, row: dict[str, Any]) -> None:
    """Add a line."""
    out.parent.mkdir(parents=True, exist_ok=True)
    cut_off = out.exists() and not out.read_text().endswith("\n") and out.stat().st_size > 0
    with out.open("a") as file:
        file.write(("\n" if cut_off else "") + json.dumps(row) + "\n")


def machine() -> dict[str, str]:
    """Where this is measured."""
    import torch

    from ssl_core.system.environment import fingerprint

    return fingerprint("cuda" if torch.cuda.is_available() else "cpu")


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown, one table a kind of line and machine."""
    for machine in {json.dumps(row["machine"], sort_keys=True): row["machine"] for row in rows}.values():
        of_machine = [row for row in rows if row["machine"] == machine]
        yield f"{machine['processor']}, torch {machine['torch']}\n"
        speeds = [row for row in of_machine if row["part"] == "speed"]
        if speeds:
            yield "| method | precision | ours, images/s | bare | ours / bare | launches a step |"
            yield "|---|---|---|---|---|---|"
        for row in speeds:
            compiled = ", compiled" if row["compile"] else ""
            yield (
                f"| {row['name']} | {row['precision']}{compiled} | {row['ours']:.0f} | {row['bare']:.0f} | "
                f"{row['ratio']:.2f} | {row['launches']:.0f} |"
            )
        trained = [row for row in of_machine if row["part"] == "training"]
        if trained:
            yield "\n| training | steps | test/error % | val/error % | seconds |\n|---|---|---|---|---|"
        for row in trained:
            yield (
                f"| {row['name']} | {row['steps']} | {row['test_error']:.2f} | {row['val_error']:.2f} | "
                f"{row['seconds']:.0f} |"
            )
        for row in (row for row in of_machine if row["part"] == "failed"):
            yield f"\nfailed: {row['name']}: {row['problem'].strip().splitlines()[-1]}"
        yield ""
