"""A page from its content: one file of HTML with its style and pictures inside, no script, no link to load."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape as html_escape

from tune.page.parts import Content, Figure, Hidden, Part, Table
from tune.tracking.uri import shown

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #e2e6eb; --back: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
header h1 { margin: 0; font-size: 26px; overflow-wrap: anywhere; }
header p { margin: 4px 0 20px; color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 0 0 16px; padding: 0; list-style: none; }
.facts li { flex: 1 1 170px; background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.facts strong { display: block; font-size: 20px; }
.facts span { color: var(--soft); font-size: 13px; }
.verdict { background: #fff; border: 1px solid var(--line); border-left: 5px solid var(--accent);
  border-radius: 8px; padding: 14px 18px; margin-bottom: 22px; }
.verdict p { margin: 4px 0; }
.verdict p:first-child { font-weight: 600; font-size: 16px; }
section > p, .verdict p { max-width: 940px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 6px 20px 18px;
  margin-bottom: 18px; break-inside: avoid; }
h2 { font-size: 18px; margin: 12px 0 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin: 8px 0; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.strong td { font-weight: 650; }
figure { margin: 14px 0 4px; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; max-width: 820px; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--back); border-radius: 6px; padding: 12px; overflow-x: auto; font-size: 12.5px; }
footer { color: var(--soft); font-size: 13px; }
@media print { body { background: #fff; } main { max-width: none; padding: 0; } }
"""


def page(content: Content) -> str:
    """The whole page."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(content.study)}</title><style>{STYLE}</style></head><body><main>",
            f"<header><h1>{_text(content.study)}</h1><p>{_text(content.subtitle)}</p></header>",
            '<ul class="facts">',
            *(f"<li><strong>{_text(v)}</strong><span>{_text(k)}</span></li>" for k, v in content.facts),
            "</ul>",
            '<div class="verdict">',
            *(f"<p>{_text(sentence)}</p>" for sentence in content.verdict),
            "</div>",
            *(line for part in content.parts for line in _part(part)),
            f"<footer>{_text(content.closing)}</footer>",
            "</main></body></html>",
            "",
        ]
    )


def _part(part: Part) -> Iterator[str]:
    yield f"<section><h2>{_text(part.title)}</h2>"
    for sentence in part.sentences:
        yield f"<p>{_text(sentence)}</p>"
    for item in part.items:
        if isinstance(item, Table):
            yield from _table(item)
        elif isinstance(item, Figure):
            data = base64.b64encode(item.png).decode()
            caption = _text(item.caption)
            yield f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            yield f"<figcaption>{caption}</figcaption></figure>"
        else:
            yield from _hidden(item)
    yield "</section>"


def _table(table: Table) -> Iterator[str]:
    yield '<div class="wide"><table>'
    if any(table.head):
        yield f"<tr>{''.join(_cell('th', text, n in table.numeric) for n, text in enumerate(table.head))}</tr>"
    for number, row in enumerate(table.rows):
        strong = ' class="strong"' if number in table.strong else ""
        yield f"<tr{strong}>{''.join(_cell('td', text, n in table.numeric) for n, text in enumerate(row))}</tr>"
    yield "</table></div>"


def _cell(tag: str, text: str, numeric: bool) -> str:
    return f"<{tag}{' class=number' if numeric else ''}>{_text(text)}</{tag}>"


def _hidden(hidden: Hidden) -> Iterator[str]:
    yield f"<details><summary>{_text(hidden.title)}</summary><pre>{_text(hidden.text)}</pre></details>"


def _text(text: str) -> str:
    """Text as HTML; a password that a URL in an error message may hold is not shown."""
    return html_escape(shown(text))
