"""The page's section on classes: the errors of each, and which is taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_core.measures import errors_by_class, images_and_wrong
from tune.figures.confusion import last_matrix
from tune.figures.run import run_of_trial
from tune.findings.confirmation import title
from tune.page.parts import Look, Part, Table
from tune.page.searched import shown

MOST_ROWS = 20
"""With more classes than this, those with the largest errors are listed."""


def part(look: Look) -> Part:
    """Errors by class and the confusion matrix of the best trial; of confirmed models also those on test images."""
    run = run_of_trial(look.study, look.best)
    matrix = last_matrix(run.reports)
    if matrix is None:
        return Part(
            "Errors by class", [f"Trial {look.best.trial} did not train to its last epoch with this version."]
        )
    names = run.classes if len(run.classes) == len(matrix) else tuple(map(str, range(len(matrix))))
    tested = _tested(look.confirmation)
    table = Table(
        ["class", "validation images", "misclassified %", "most often taken for", *tested],
        _rows(matrix, names, tested),
        frozenset({1, 2, *range(4, 4 + len(tested))}),
    )
    sentences = [f"Of trial {look.best.trial}, on the validation images, after its last epoch."]
    if tested:
        sentences.append("The last columns are means over the fresh seeds, on the test images.")
    if len(names) > MOST_ROWS:
        sentences.append(f"Of {len(names)} classes the {MOST_ROWS} with the largest errors are listed.")
    caption = (
        "How often the images of a class (row) are taken for which (column), and the error of each class."
    )
    return Part("Errors by class", sentences, [table, *shown(run.confusion(), caption)])


def _rows(
    matrix: Sequence[Sequence[int]], names: Sequence[str], tested: Mapping[str, Mapping[str, float]]
) -> list[list[str]]:
    images, wrong = images_and_wrong(matrix)
    errors = errors_by_class(images, wrong)
    order = range(len(names))
    if len(names) > MOST_ROWS:
        order = sorted(order, key=lambda label: -(errors[label] or 0.0))[:MOST_ROWS]  # type: ignore[assignment]
    rows = []
    for label in order:
        error, name = errors[label], names[label]
        means = [of_row.get(name) for of_row in tested.values()]
        rows.append(
            [
                name,
                str(images[label]),
                "" if error is None else f"{error:.2f}",
                _taken_for(matrix[label], label, names),
                *["" if mean is None else f"{mean:.2f}" for mean in means],
            ]
        )
    return rows


def _taken_for(row: Sequence[int], label: int, names: Sequence[str]) -> str:
    """The class that the misclassified images of a class are taken for most often."""
    count, other = max(((n, -c) for c, n in enumerate(row) if c != label), default=(0, 0))
    return f"{names[-other]} ({count})" if count else ""


def _tested(confirmation: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Test errors by class of the confirmation's winner and its baseline, by the title of the column."""
    if confirmation is None:
        return {}
    wanted = (confirmation["winner"], confirmation["baseline"])
    rows = [row for row in confirmation["rows"] if row["who"] in wanted]
    return {
        f"test %, {title(row['who'])}": row["test_error_by_class"]
        for row in rows
        if row.get("test_error_by_class")
    }
