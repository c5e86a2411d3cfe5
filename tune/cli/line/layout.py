"""Tables that break no word: as wide as they need where nothing limits them, else columns of whole words.

Where a terminal is too narrow for all columns, the table is continued below with the first column repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

BORDER, PADDING = 1, 2
"""Columns of a terminal for the line before a column, and for the blanks around its text."""
NARROWEST = 20


def print_columns(
    out: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[bool],
    title: str | None,
    width: int | None,
) -> None:
    """Print a table.

    Args:
        out: where to.
        columns: the heads.
        rows: a text for each column.
        right: which columns are aligned to the right.
        title: above the table.
        width: of the terminal; None: as wide as it needs.
    """
    by_column = [[column, *[row[place] for row in rows]] for place, column in enumerate(columns)]
    natural = [max(map(_longest_line, cells)) for cells in by_column]
    if title is not None:
        out.print(title)
    if width is None:
        _print_part(out, columns, rows, dict(enumerate(natural)), right)
        return
    limit = max(width, NARROWEST)
    room = limit - needed([0])
    least = [min(max(map(_longest_word, cells)), room) for cells in by_column]
    for places in groups(least, limit):
        _print_part(out, columns, rows, spread(places, least, natural, limit), right)


def _longest_line(text: str) -> int:
    return max((cell_len(line) for line in text.splitlines()), default=0)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)


def needed(widths: Iterable[int]) -> int:
    """Columns of a terminal that a table of such columns takes."""
    listed = list(widths)
    return sum(listed) + len(listed) * (BORDER + PADDING) + BORDER


def groups(least: Sequence[int], limit: int) -> list[list[int]]:
    """Places of the columns of each part of a table, so that each part fits; the first column is in all of them
    (unless not even two columns fit side by side).

    Args:
        least: the least width of each column.
        limit: of the terminal.
    """
    found: list[list[int]] = [[]]
    for place, width in enumerate(least):
        part = found[-1]
        if not part or needed([*(least[each] for each in part), width]) <= limit:
            part.append(place)
        else:
            found.append([0, place] if needed([least[0], width]) <= limit else [place])
    return found


def spread(places: Sequence[int], least: Sequence[int], natural: Sequence[int], limit: int) -> dict[int, int]:
    """Widths of a part's columns, in their order: what the terminal has left goes first to those that lack least."""
    widths = {place: least[place] for place in places}
    left = max(limit - needed(widths.values()), 0)
    for done, place in enumerate(sorted(places, key=lambda each: natural[each] - least[each])):
        more = min(natural[place] - least[place], left // (len(places) - done))
        widths[place] += more
        left -= more
    return widths


def _print_part(
    out: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Mapping[int, int],
    right: Sequence[bool],
) -> None:
    table = Table()
    for place, width in widths.items():
        justify: Literal["left", "right"] = "right" if right[place] else "left"
        table.add_column(columns[place], justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*[row[place] for place in widths])
    width = needed(widths.values())
    if width > out.width:  # of a pipe, which has no end
        out = Console(file=out.file, width=width, highlight=False, markup=False)
    out.print(table, soft_wrap=False)
