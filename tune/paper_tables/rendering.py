"""A reproduced table as Markdown, LaTeX, CSV and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Document = Mapping[str, Any]
CUT = "†"
_NAMES = {
    "pseudo_label": "pseudo-labelling",
    "vat": "VAT",
    "attention_fixmatch": "attention FixMatch",
    "fixmatch": "FixMatch",
    "supervised": "supervised",
}
COLUMNS = (
    "cell",
    "setting",
    "test/error %",
    "report %",
    "published %",
    "supervised here %",
    "difference, paired",
    "network",
    "steps",
    "seconds a run",
)


def write_all(document: Document, folder: Path) -> list[Path]:
    """Write a table in every form; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    name = document["table"]
    texts = {"md": markdown(document), "tex": latex(document), "csv": comma_separated(document)}
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{name}.{suffix}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    picture(document, folder / f"{name}.png")
    return [*paths, folder / f"{name}.png"]


def cells(row: Document) -> list[str]:
    """A row as text, in the order of `COLUMNS`."""
    mark = CUT if row["cut"] else ""
    missing = "not run" if row["test_error"] is None else ""
    note = f" ({row['report_note']})" if row["report_note"] else ""
    return [
        row["cell"],
        _setting(row),
        missing or f"{spread(row['test_error'])}{mark}",
        f"{row['report']:.2f}{note}",
        _published(row["published"]),
        spread(row["supervised"]["test_error"]) or "not run",
        spread(row["difference"], sign=True),
        row["network"],
        f"{row['steps']:,}",
        _seconds(row),
    ]


def _seconds(row: Document) -> str:
    mine, theirs = row["seconds"], row["supervised"]["seconds"]
    if mine is None:
        return ""
    return f"{mine['mean']:.0f}" + (f" (supervised {theirs['mean']:.0f})" if theirs else "")


def _setting(row: Document) -> str:
    words = ", ".join(f"{k}={_short(v)}" for k, v in row["parameters"].items())
    who = "" if row["source"] == "report" else f"{row['source']}: "
    return f"{who}{words}, warm-up {row['warmup_epochs']} of {row['epochs']} epochs"


def _short(value: object) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )


def _published(known: Mapping[str, Any] | None) -> str:
    return "" if known is None else f"{known['error']:.2f} ± {known['std']:.2f}"


def spread(values: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    """``12.34 ± 0.56 (n = 3)``; empty where there is no value."""
    if values is None:
        return ""
    mean = f"{values['mean']:{'+' if sign else ''}.2f}"
    deviation = "" if values["std"] is None else f" ± {values['std']:.2f}"
    return f"{mean}{deviation} (n = {len(values['values'])})"


def notes(document: Document) -> list[str]:
    """What has to be known to read the table, a sentence or two each."""
    rows = document["rows"]
    found = [
        "test/error: percent of test images misclassified, mean ± standard deviation over training seeds and "
        "labelled sets (the validation images stay); the test set was read once for each final model.",
    ]
    cuts = {word for row in rows for word in row["cut"]}
    if cuts:
        found.append(
            f"{CUT} At a cut budget: {'; '.join(sorted(cuts))}. Such a cell is no measure of the report's or the "
            "published value: it shows that the whole way runs, and how methods compare at this budget."
        )
    images = sorted(
        {f"{r['batch_size']} labelled and at most {r['mu'] * r['batch_size']} unlabelled" for r in rows}
    )
    found.append(f"Images a step: {'; '.join(images)}.")
    found += [f"{rule[0].upper()}{rule[1:]}." for rule in dict.fromkeys(_rule(row) for row in rows)]
    for rule in dict.fromkeys(row["supervised"]["rule"] for row in rows):
        found.append(f"Supervised here: labelled images alone, as many steps, the same seeds; {rule}.")
    known = [row["published"] for row in rows if row["published"]]
    if known:
        first = known[0]
        siblings = {k["method"] for k in known if k["method"] != rows[0]["method"]}
        of = f" of {', '.join(_NAMES.get(s, s) for s in siblings)}, which it extends" if siblings else ""
        found.append(
            f"Published{of}: {first['source']}, {first['network']}, {first['budget']}, {first['selection']}."
        )
    failed = sum(row["failed"] for row in rows)
    if failed:
        found.append(f"{failed} runs turned NaN or infinite and are left out of the means.")
    found += document["choices"]
    made = document["fingerprint"]
    found.append(
        f"Made on {document['made']} on {made['processor']}, torch {made['torch']}, ssl-tune {made['ssl-tune']} "
        f"(revision {document['git_revision']})."
    )
    return found


def _rule(row: Document) -> str:
    return f"{row['source']} rows: {row['rule']}"


def markdown(document: Document) -> str:
    """The table with its notes."""
    lines = [f"# {document['title']} ({document['table']})", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in document["rows"]]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(document)), ""])


_TEX = {"±": r"$\pm$", CUT: r"$^\dagger$", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "^": r"\^{}"}


def latex(document: Document) -> str:
    """The same as a LaTeX table that needs no package."""
    head, rows = (
        " & ".join(_tex(c) for c in COLUMNS),
        [" & ".join(_tex(c) for c in cells(row)) for row in document["rows"]],
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\tiny\centering",
            rf"\caption{{{_tex(document['title'])}}}",
            rf"\begin{{tabular}}{{ll{'r' * 5}lrr}}",
            r"\hline",
            rf"{head} \\",
            r"\hline",
            *(rf"{row} \\" for row in rows),
            r"\hline",
            r"\end{tabular}",
            r"\par\raggedright " + " ".join(_tex(note) for note in notes(document)),
            r"\end{table}",
            "",
        ]
    )


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def comma_separated(document: Document) -> str:
    """One line a cell, every number in a column of its own."""
    out = io.StringIO()
    rows = [_flat(document, row) for row in document["rows"]]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


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
        "seconds": None if row["seconds"] is None else round(row["seconds"]["mean"], 1),
        "supervised_seconds": None
        if supervised["seconds"] is None
        else round(supervised["seconds"]["mean"], 1),
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


def _draw_row(axes: Any, place: int, row: Document) -> None:
    """A cell's line of the dot plot, at this height."""
    axes.axhline(place, color="0.92", linewidth=1, zorder=0)
    for values, shift, shape, colour, label in (
        (row["supervised"]["test_error"], 0.12, "s", "0.45", "supervised, here"),
        (row["test_error"], -0.12, "o", "C0", "this method, here"),
    ):
        if values:
            axes.errorbar(
                values["mean"],
                place + shift,
                xerr=values["std"] or 0.0,
                fmt=shape,
                color=colour,
                label=label,
                capsize=3,
                markersize=6,
            )
    axes.plot(row["report"], place, "D", color="C3", markersize=6, label="the report")
    if row["published"]:
        axes.plot(
            row["published"]["error"],
            place,
            "|",
            color="C2",
            markersize=13,
            markeredgewidth=2.5,
            label="published, full budget",
        )


def picture(document: Document, path: Path) -> None:
    """The table as a dot plot: here, report, published and supervised, a line for each cell."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = document["rows"]
    figure = Figure(figsize=(8, 1.7 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        _draw_row(axes, place, row)
    axes.set_yticks(range(len(rows)), [f"{r['cell']}{' ' + CUT if r['cut'] else ''}" for r in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("test error, percent of images misclassified (± one standard deviation)")
    cut = next((row["cut"] for row in rows if row["cut"]), None)
    axes.set_title(
        document["title"], loc="left", fontsize=11, pad=18 if cut else 6
    )  # room for the note below it
    axes.spines[["top", "right"]].set_visible(False)
    shown = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    if cut:
        axes.annotate(
            f"{CUT} cut budget: {'; '.join(cut[:3])}",
            (0, 1.0),
            xytext=(0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=7,
            color="0.4",
            va="bottom",
        )
    figure.savefig(path, dpi=110)
