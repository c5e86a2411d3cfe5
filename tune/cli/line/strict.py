"""Commands as they are registered: an option that is given twice is refused, and not silently the last one taken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand


class StrictCommand(TyperCommand):
    """A command that refuses an option which is given twice, unless it is one that collects its values."""

    def make_parser(self, ctx: Any) -> Any:
        """The parser of this command, with the check."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_once(args: list[str]) -> Any:
            parsed = parse(args)
            if not ctx.resilient_parsing:  # of a line that is being completed nothing is refused
                _check_once(ctx, parsed[2])
            return parsed

        parser.parse_args = parse_once  # type: ignore[method-assign]
        return parser


def _check_once(ctx: Any, order: list[Any]) -> None:
    """Refuse a parameter that stands twice in the order in which they were given."""
    for parameter, times in Counter(order).items():
        collects = parameter.multiple if hasattr(parameter, "multiple") else True
        if times > 1 and parameter.param_type_name == "option" and not collects:
            ctx.fail(
                f"{parameter.opts[0]} is given {'twice' if times == 2 else f'{times} times'}: give it once."
            )


class StrictTyper(typer.Typer):
    """An application whose commands are `StrictCommand`."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Register a command, as `typer.Typer.command` does."""
        return super().command(name, **({"cls": StrictCommand} | options))
