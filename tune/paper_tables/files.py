"""A reproduced table as files: Markdown, LaTeX, CSV and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune.paper_tables.dot_plot import picture
from tune.paper_tables.rendering import Document, latex, markdown


def write_all(document: Document, folder: Path) -> list[Path]:
    """Write a table in every form, as ``FOLDER/<table>.<suffix>``; the folder is made where it is missing.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = document["table"]
    texts = {"md": markdown(document), "tex": latex(document), "csv": comma_separated(document)}
    for suffix, text in texts.items():
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    picture(document, folder / f"{name}.png")
    return [folder / f"{name}.{suffix}" for suffix in (*texts, "png")]


def comma_separated(document: Document) -> str:
    """The table as CSV: one line per cell, every number in a column of its own at full precision."""
    import pandas as pd  # loads for half a second

    return pd.DataFrame([_flat(document, row) for row in document["rows"]]).to_csv(
        index=False, lineterminator="\n"
    )


def _flat(document: Document, row: Document) -> dict[str, object]:
    known = row["published"] or {}
    supervised = row["supervised"]
    return {
        "table": document["table"],
        "cell": row["cell"],
        "method": row["method"],
        "source": row["source"],
        "threshold": row["threshold"],
        "n": len(row["seeds"]),
        **_numbers("test_error", row["test_error"]),
        "report": row["report"],
        "published": known.get("error"),
        "published_std": known.get("std"),
        "published_method": known.get("method"),
        **_numbers("supervised", supervised["test_error"]),
        **_numbers("difference", row["difference"]),
        **_numbers("val_error", row["val_error"]),
        "seconds": _mean_seconds(row),
        "supervised_seconds": _mean_seconds(supervised),
        **{k: row[k] for k in ("network", "epochs", "warmup_epochs", "steps", "batch_size", "mu", "failed")},
        "cut": "; ".join(row["cut"]),
        "rule": row["rule"],
        "supervised_rule": supervised["rule"],
        "seeds": " ".join(map(str, row["seeds"])),
        "test_errors": " ".join(f"{v:g}" for v in (row["test_error"] or {"values": []})["values"]),
    }


def _numbers(name: str, values: Mapping[str, Any] | None) -> dict[str, float | None]:
    found = values or {"mean": None, "std": None}
    return {f"{name}_{part}": found[part] for part in ("mean", "std")}


def _mean_seconds(row: Document) -> float | None:
    return None if row["seconds"] is None else round(row["seconds"]["mean"], 1)
