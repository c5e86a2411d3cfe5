"""A reproduced table as text: its cells and notes, in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import counted

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

Document = Mapping[str, Any]
"""A table as `tune.paper_tables.reproduce.documents` makes it."""
CUT = "†"
"""Marks a cell that was trained at less than the published report's budget."""
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


def cells(row: Document) -> list[str]:
    """The cells of a row as text, in the order of `COLUMNS`."""
    mark = CUT if row["cut"] else ""
    missing = "not run" if row["test_error"] is None else ""
    note = f" ({row['report_note']})" if row["report_note"] else ""
    return [
        row["cell"],
        _setting(row),
        missing or f"{spread(row['test_error'])}{mark}",
        "" if row["report"] is None else f"{row['report']:.2f}{note}",
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
    who = "" if row["source"] in ("report", "published") else f"{row['source']}: "
    return f"{who}{words}, warm-up {row['warmup_epochs']} of {counted(row['epochs'], 'epoch')}"


def _short(value: object) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )


def _published(known: Mapping[str, Any] | None) -> str:
    if known is None:
        return ""
    return f"{known['error']:.2f}" + ("" if known["std"] is None else f" ± {known['std']:.2f}")


def spread(values: Mapping[str, Any] | None, *, sign: bool = False) -> str:
    """``12.34 ± 0.56 (n = 3)``; empty if there is no value."""
    if values is None:
        return ""
    mean = f"{values['mean']:{'+' if sign else ''}.2f}"
    deviation = "" if values["std"] is None else f" ± {values['std']:.2f}"
    return f"{mean}{deviation} (n = {len(values['values'])})"


def notes(document: Document) -> list[str]:
    """What a reader of the table has to know: notes of a sentence or two."""
    rows = document["rows"]
    found = [
        "test/error: percent of test images misclassified, mean ± standard deviation over training seeds and "
        "labelled sets; the validation images are always the same. The test set was read once for each final model.",
    ]
    cuts = {word for row in rows for word in row["cut"]}
    if cuts:
        found.append(
            f"{CUT} At a cut budget: {'; '.join(sorted(cuts))}. Such a cell cannot be compared with the report's or "
            "the published value. It shows that all steps run, and how the methods compare at this budget."
        )
    images = sorted(
        {f"{r['batch_size']} labelled and at most {r['mu'] * r['batch_size']} unlabelled" for r in rows}
    )
    found.append(f"Images a step: {'; '.join(images)}.")
    found += [f"{rule[0].upper()}{rule[1:]}." for rule in dict.fromkeys(_rule(row) for row in rows)]
    for rule in dict.fromkeys(row["supervised"]["rule"] for row in rows):
        found.append(
            f"Supervised here: labelled images only, the same number of steps, the same seeds; {rule}."
        )
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
        found.append(f"{counted(failed, 'run')} turned NaN or infinite: left out of the means.")
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
    """The table and its notes as Markdown."""
    lines = [f"# {document['title']} ({document['table']})", "", _markdown_row(COLUMNS)]
    lines += [f"|{'---|' * len(COLUMNS)}", *(_markdown_row(cells(row)) for row in document["rows"])]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(document)), ""])


def _markdown_row(texts: Sequence[str]) -> str:
    escaped = [text.replace("|", r"\|") for text in texts]
    return f"| {' | '.join(escaped)} |"


def latex(document: Document) -> str:
    """The table and its notes as a LaTeX table that needs no package.

    Pandas writes the tabular and escapes all text in it; caption and notes go through the same escaping.
    """
    import pandas as pd  # loads for half a second

    rules: Any = [{"selector": rule, "props": ":hline;"} for rule in ("toprule", "midrule", "bottomrule")]
    table = _escaped(pd.DataFrame([cells(row) for row in document["rows"]], columns=list(COLUMNS)).style)
    tabular = table.set_table_styles(rules).to_latex(column_format=f"ll{'r' * 5}lrr")
    text = pd.DataFrame([document["title"], *notes(document)]).style.hide(axis="columns")
    caption, *described = _escaped(text).to_string().splitlines()
    return "\n".join(
        [
            r"\begin{table}",
            r"\tiny\centering",
            rf"\caption{{{caption}}}",
            tabular.rstrip(),
            r"\par\raggedright " + " ".join(described),
            r"\end{table}",
            "",
        ]
    )


def _escaped(style: Styler) -> Styler:
    """Escape every character that LaTeX reads as a command, and write ± and † as the commands that they need."""
    return (
        style.hide(axis="index").format(_symbols, escape="latex").format_index(escape="latex", axis="columns")
    )


def _symbols(escaped: object) -> str:
    return str(escaped).replace("±", r"$\pm$").replace(CUT, r"$^\dagger$")
