"""Commands that explain: methods, spaces, doctor."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from tune.cli.options import AddressOption, DataRootOption, HomeOption, JsonOption, home_of
from tune.cli.show import console, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("methods")(methods_command)
    app.command("spaces")(spaces_command)
    app.command("doctor")(doctor_command)


def methods_command(
    method: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="One method; or file:PATH, one of your own")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The training methods, and their parameters with ranges, defaults and sources."""
    from ssl_core.registry import get_method, method_names

    documents: list[dict[str, Any]] = []
    for found in [get_method(each) for each in ([method] if method else method_names())]:
        name, fields = found.name, found.Config.model_fields
        documents.append(
            {
                "method": name,
                "summary": found.summary,
                "parameters": [
                    {"name": f"{name}.{key}", "default": field.default, "description": field.description}
                    for key, field in fields.items()
                ],
            }
        )
    if as_json:
        print_json(documents)
        return
    for document in documents:
        console().print(f"{document['method']}: {document['summary']}")
        for parameter in document["parameters"]:
            console().print(f"    {parameter['name']} [{parameter['default']}]: {parameter['description']}")


def spaces_command(
    method: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="One method's space; or file:PATH's")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="The wide variant")] = False,
    as_json: JsonOption = False,
) -> None:
    """The search spaces: what is searched, in which range, and why."""
    from search_spaces import describe, load_space, space_names

    names = [method] if method else space_names()
    spaces = [load_space(name, "wide" if wide else None) for name in names]
    if as_json:
        print_json(
            [
                {
                    "method": s.method,
                    "source": s.source,
                    "digest": s.digest(),
                    "baseline": dict(s.baseline),
                    "parameters": [
                        {"name": p.name, "range": describe(p.distribution), "role": p.role, "why": p.why}
                        for p in s.parameters
                    ],
                }
                for s in spaces
            ]
        )
        return
    for space in spaces:
        rows = [
            [p.name, describe(p.distribution), p.role, space.baseline[p.name], p.why]
            for p in space.parameters
        ]
        print_table(["parameter", "range", "role", "tried first", "why"], rows, title=space.source)


def doctor_command(
    home: HomeOption = None,
    data_root: DataRootOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """What this machine has (with --address, a cluster), and what to do about what it lacks."""
    from tune.cluster.doctor import examine, examine_cluster

    place = home_of(home)
    findings = examine(place, data_root) if address is None else examine_cluster(address, place)
    if as_json:
        print_json([f.__dict__ for f in findings])
    else:
        print_table(
            ["", "what", "found", "remedy"], [[f.verdict, f.what, f.found, f.remedy] for f in findings]
        )
    sys.exit(2 if any(f.verdict == "bad" for f in findings) else 0)
