"""Commands that explain: methods, spaces, schema, doctor."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from tune import api
from tune.cli.line.completion import complete_method
from tune.cli.options import AddressOption, DataRootOption, HomeOption, JsonOption
from tune.cli.show import console, print_json, print_table, waiting


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("methods")(methods_command)
    app.command("spaces")(spaces_command)
    app.command("schema")(schema_command)
    app.command("doctor")(doctor_command)


def methods_command(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="[METHOD]", help="One method; or file:PATH, your own", autocompletion=complete_method
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the training methods with their parameters, defaults and descriptions."""
    found = api.methods(method)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    for each in found:
        console().print(f"{each.method}: {each.summary}")
        if method is None:
            for own in each.own:
                console().print(f"    {own.name} [{_default(own.default)}]: {own.description}")
        else:
            rows = [[p.name, p.accepts, p.unit, _default(p.default), p.description] for p in each.parameters]
            print_table(["parameter", "accepts", "unit", "default", "what it is"], rows)
        for name, values in each.presets.items():
            shown = ", ".join(f"{key} {value}" for key, value in values.items())
            console().print(f"    --preset {name}: {shown}")
    if method is None:
        console().print(
            "all parameters of one, those that every method has included: ssl-tune methods METHOD"
        )


def _default(value: object) -> str:
    return "filled in" if value is None else str(value)


def spaces_command(
    method: Annotated[
        str | None,
        typer.Argument(
            metavar="[METHOD]", help="One method; or file:PATH, your own", autocompletion=complete_method
        ),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="The wider variant of the space")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the search spaces: what is searched, in which range, and why."""
    found = api.spaces(method, wide=wide)
    if as_json:
        print_json([api.describe_space(space) for space in found])
        return
    for space in found:
        document = api.describe_space(space)
        rows = [
            [p["name"], p["range"], p["role"], document["baseline"][p["name"]], p["why"]]
            for p in document["parameters"]
        ]
        print_table(["parameter", "range", "role", "tried first", "why"], rows, title=space.source)


def schema_command() -> None:
    """The JSON schema of a study's file (`--study FILE`), for editors and for check-jsonschema."""
    from tune.definition.study_file import study_schema

    print_json(study_schema())


def doctor_command(
    home: HomeOption = None,
    data_root: DataRootOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine (with --address a cluster): what it has, what it lacks, and how to get it."""
    with waiting("this machine" if address is None else f"the cluster at {address}"):
        findings = api.doctor(address=address, data_root=data_root, home=home)
    if as_json:
        print_json([asdict(f) for f in findings])
    else:
        print_table(
            ["", "what", "found", "remedy"], [[f.verdict, f.what, f.found, f.remedy] for f in findings]
        )
    sys.exit(2 if any(f.verdict == "bad" for f in findings) else 0)
