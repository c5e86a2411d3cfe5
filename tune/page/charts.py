"""Charts as SVG text, for a page that is drawn again every few seconds: a thousand trials take milliseconds.

Coordinates are those of a view box, which the page scales to the width that there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from tune.figures.colours import BLUE, GREY, ORANGE, VERMILLION

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 10, 42
TICKS = 4
MOST_POINTED = 120
"""Trials that say what they are when they are pointed at; of more, the others are drawn together, which is quick."""
STRONG, SHADES = 0.1, 12
"""Share of the trials whose lines are strong, and how many colours the other lines have."""
COLOURS = {"completed": BLUE, "stopped_early": ORANGE, "failed": VERMILLION, "running": GREY}
LEGEND = {
    "completed": "ran the full budget",
    "stopped_early": "stopped early",
    "failed": "failed",
    "running": "running",
}


@dataclass(frozen=True)
class Scale:
    """From values of a parameter or a metric to positions: linear, logarithmic, or choices one beside the other.

    Attributes:
        low, high: the ends.
        log: whether positions go by the logarithm.
        choices: the words, where it is no number.
    """

    low: float
    high: float
    log: bool = False
    choices: tuple[str, ...] = ()

    def share(self, value: object) -> float:
        """Where a value lies between the ends, from 0 to 1."""
        if self.choices:
            return (self.choices.index(str(value)) + 0.5) / len(self.choices)
        number = float(value)  # type: ignore[arg-type]
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = math.log(number) if self.log else number
        return 0.5 if high <= low else min(max((number - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        """Positions from 0 to 1 and what is written there."""
        if self.choices:
            return [(self.share(word), word) for word in self.choices]
        if self.high <= self.low:
            return [(0.5, f"{self.low:.4g}")]
        shares = [place / TICKS for place in range(TICKS + 1)]
        return [(share, f"{self._at(share):.3g}") for share in shares]

    def _at(self, share: float) -> float:
        if self.log:
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)


def scale_of(values: Sequence[object], *, log: bool = False, from_zero: bool = False) -> Scale:
    """The scale that holds some values."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return Scale(0.0, 1.0, choices=tuple(sorted({str(v) for v in values})))
    numbers = [float(v) for v in values if math.isfinite(float(v))] or [0.0]  # type: ignore[arg-type]
    low, high = min(numbers), max(numbers)
    return Scale(min(low, 0.0) if from_zero else low, high, log=log and low > 0)


@dataclass(frozen=True)
class Line:
    """A curve: points of x and y, its colour and width, and what it says when it is pointed at."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float
    title: str


@dataclass(frozen=True)
class Mark:
    """A trial in a scatter: x and y, its state, and what it says when it is pointed at."""

    x: object
    y: float
    state: str
    title: str


def curves(lines: Sequence[Line], x: str, y: str) -> str:
    """Curves over epochs."""
    drawn = [line for line in lines if line.points]
    across = scale_of([point[0] for line in drawn for point in line.points] or [0, 1], from_zero=True)
    up = scale_of([point[1] for line in drawn for point in line.points] or [0, 1], from_zero=True)
    horizontal, vertical = _places(across, up)
    parts = [_frame(across, up, x, y)]
    for line in drawn:
        path = " ".join(f"{horizontal(a):.1f},{vertical(b):.1f}" for a, b in line.points if math.isfinite(b))
        last = line.points[-1]
        end = (
            f'<circle cx="{horizontal(last[0]):.1f}" cy="{vertical(last[1]):.1f}" r="2.5" fill="{line.colour}"/>'
            if math.isfinite(last[1])
            else ""
        )
        parts.append(
            f'<g><title>{escape(line.title)}</title><polyline points="{path}" fill="none" stroke="{line.colour}" '
            f'stroke-width="{line.width}"/>{end}</g>'
        )
    return _svg("".join(parts))


def scatter(marks: Sequence[Mark], x: str, y: str, *, log: bool = False) -> str:
    """Trials by one parameter and the objective."""
    across = scale_of([mark.x for mark in marks] or [0, 1], log=log)
    up = scale_of([mark.y for mark in marks] or [0, 1], from_zero=True)
    horizontal, vertical = _places(across, up)
    spots: dict[str, list[str]] = {}
    for mark in marks[:-MOST_POINTED]:
        spots.setdefault(mark.state, []).append(f"M{horizontal(mark.x):.0f} {vertical(mark.y):.0f}h0")
    parts = [_frame(across, up, x, y)]
    parts += [
        f'<path d="{"".join(spots[state])}" stroke="{COLOURS[state]}" stroke-width="6" stroke-linecap="round" '
        'stroke-opacity=".6"/>'
        for state in COLOURS
        if state in spots
    ]
    parts += [
        f'<circle cx="{horizontal(mark.x):.1f}" cy="{vertical(mark.y):.1f}" r="3.2" fill="{COLOURS[mark.state]}" '
        f'fill-opacity=".75"><title>{escape(mark.title)}</title></circle>'
        for mark in marks[-MOST_POINTED:]
    ]
    return _svg("".join(parts))


def parallel(axes: Sequence[tuple[str, Scale]], rows: Sequence[tuple[Sequence[object], float, str]]) -> str:
    """Parallel coordinates: an axis for each parameter, the last one the objective; a line for each trial.

    Args:
        axes: names and scales.
        rows: for each trial its values, its place among all from 0 (best) to 1, and what it says when pointed at.
    """
    width = max(WIDTH, 110 * len(axes))
    step = (width - 2 * LEFT) / max(1, len(axes) - 1)
    inner = HEIGHT - TOP - BOTTOM - 14
    bottom = HEIGHT - BOTTOM
    places = [LEFT + step * number for number in range(len(axes))]
    parts, shades = [], dict[int, list[str]]()
    ordered = sorted(rows, key=lambda row: -row[1])  # the best on top
    for values, rank, title in ordered:
        points = [
            f"{place:.0f} {bottom - inner * scale.share(value):.0f}"
            for place, (_, scale), value in zip(places, axes, values, strict=True)
        ]
        if len(ordered) > MOST_POINTED and rank >= STRONG:
            shades.setdefault(int(rank * SHADES), []).append(f"M{'L'.join(points)}")
            continue
        stroke, opacity = (1.8, 0.95) if rank < STRONG else (0.8, 0.45)
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{_between(rank)}" stroke-width="{stroke}" '
            f'stroke-opacity="{opacity}"><title>{escape(title)}</title></polyline>'
        )
    lines = [
        f'<path d="{"".join(paths)}" fill="none" stroke="{_between((shade + 0.5) / SHADES)}" stroke-width="0.8" '
        'stroke-opacity="0.35"/>'
        for shade, paths in shades.items()
    ]
    parts = [*lines, *parts]
    for number, (place, (name, scale)) in enumerate(zip(places, axes, strict=True)):
        top = TOP + 14
        anchor = "start" if number == 0 else "end" if number == len(axes) - 1 else "middle"
        parts.append(f'<line x1="{place:.1f}" y1="{top}" x2="{place:.1f}" y2="{bottom}" class="axis"/>')
        for share, text in scale.ticks() if scale.choices else [scale.ticks()[0], scale.ticks()[-1]]:
            height = bottom - inner * share
            parts.append(
                f'<text x="{place + 4:.1f}" y="{height + 4:.1f}" class="halo">{escape(_short(text, 12))}</text>'
            )
        shown = place - 30 if number == 0 else place + 30 if number == len(axes) - 1 else place
        parts.append(
            f'<text x="{shown:.1f}" y="{HEIGHT - 14 - 12 * (number % 2)}" text-anchor="{anchor}">'
            f"{escape(_short(name, 26))}</text>"
        )
    return _svg("".join(parts), width)


def bars(rows: Sequence[tuple[str, int, int]], first: str, second: str) -> str:
    """Horizontal bars of two parts each.

    Args:
        rows: names, all, and how many of them are of the second part.
        first, second: what the parts are.
    """
    height = 26 * len(rows) + 34
    most = max([1, *[count for _, count, _ in rows]])
    left, parts = 120, []
    room = WIDTH - left - 44
    for number, (name, count, part) in enumerate(rows):
        top = 6 + 26 * number
        whole, rest = room * (count - part) / most, room * part / most
        parts.append(
            f'<text x="{left - 6}" y="{top + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{top}" width="{whole:.1f}" height="18" fill="{BLUE}"/>'
            f'<rect x="{left + whole:.1f}" y="{top}" width="{rest:.1f}" height="18" fill="{ORANGE}"/>'
            f'<text x="{left + whole + rest + 4:.1f}" y="{top + 14}">{count}</text>'
        )
    top = height - 20
    for place, colour, words in ((left - 100, BLUE, first), (left + 80, ORANGE, second)):
        parts.append(
            f'<rect x="{place}" y="{top}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{place + 14}" y="{top + 10}">{escape(words)}</text>'
        )
    return _svg("".join(parts), WIDTH, height)


def legend(states: Sequence[str]) -> str:
    """The colours of trials' states, as a line of text."""
    return ", ".join(f"{_NAMES[COLOURS[state]]}: {LEGEND[state]}" for state in LEGEND if state in states)


_NAMES = {BLUE: "blue", ORANGE: "orange", VERMILLION: "red", GREY: "grey"}


def _places(across: Scale, up: Scale) -> tuple[Callable[[object], float], Callable[[object], float]]:
    def horizontal(value: object) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * across.share(value)

    def vertical(value: object) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up.share(value)

    return horizontal, vertical


def _frame(across: Scale, up: Scale, x: str, y: str) -> str:
    """Grid, ticks and names of the axes."""
    parts = []
    bottom, inner_width, inner_height = HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    for share, text in up.ticks():
        height = bottom - inner_height * share
        parts.append(
            f'<line x1="{LEFT}" y1="{height:.1f}" x2="{WIDTH - RIGHT}" y2="{height:.1f}" class="grid"/>'
        )
        parts.append(f'<text x="{LEFT - 5}" y="{height + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for share, text in across.ticks():
        place = LEFT + inner_width * share
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(
            f'<text x="{place:.1f}" y="{bottom + 15}" text-anchor="{anchor}">{escape(_short(text, 14))}</text>'
        )
    parts.append(
        f'<text x="{LEFT + inner_width / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
    )
    parts.append(f'<text x="{LEFT + 4}" y="{TOP + 10}" class="halo">{escape(y)}</text>')
    return "".join(parts)


def _svg(inside: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" xmlns="http://www.w3.org/2000/svg">{inside}</svg>'


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _between(share: float) -> str:
    """A colour from blue (the best) over grey to orange (the worst)."""
    ends = ((0, 114, 178), (170, 170, 170)) if share < 0.5 else ((170, 170, 170), (230, 159, 0))
    part = 2 * share if share < 0.5 else 2 * share - 1
    mixed = [round(a + part * (b - a)) for a, b in zip(*ends, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)
