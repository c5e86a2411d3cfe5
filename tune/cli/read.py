"""Commands that read: studies, status, trials; and sync, which delivers what MLflow lacks."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.comparisons import command as comparison
from tune.cli.options import HomeOption, JsonOption, NameArgument, home_of
from tune.cli.show import (
    console,
    print_json,
    print_known,
    print_running,
    print_study,
    print_table,
    print_trials,
    typed,
    waiting,
)
from tune.definition.inputs import without_place
from tune.definition.objective import DEFAULT
from tune.errors import Exit
from tune.findings.ranking import trials_document
from tune.findings.study import load_study
from tune.findings.words import PROTOCOLS, duration


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("studies")(studies_command)
    app.command("status")(status_command)
    app.command("trials")(trials_command)
    app.command("sync")(sync_command)


def studies_command(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the studies of this home."""
    documents = api.studies(home=home)
    for document in documents:
        if "problem" in document:
            print(f"ssl-tune: {document['study']}: {document['problem']}", file=sys.stderr)  # noqa: T201
    if as_json:
        print_json(documents)
        return
    if not documents:
        console().print(
            f"no study in {home_of(home).shown} yet. Start one with: {typed('search', None, home)}"
        )
        return
    head = [
        "study",
        "begun",
        "state",
        "method",
        "data",
        "labels",
        "trials ended",
        "best val/error %",
        "objective",
    ]
    rows = [_row(document) for document in documents]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    print_table(head, rows)
    for name in api.comparisons(home=home):
        console().print(f"comparison {name}: {typed('status', name, home)}")


def _row(status: dict[str, Any]) -> list[object]:
    """A study's row in the list of studies."""
    if status["trials"] is None:
        return [status["study"], "", status["state"], *[""] * 6]
    ended = sum(status["trials"][state] for state in ("completed", "stopped_early", "failed"))
    return [
        status["study"],
        str(status["created"])[:10],
        status["state"],
        status["method"],
        without_place(status["dataset"]),
        status["labels"],
        f"{ended}/{status['trials']['total']}",
        "" if status["best"] is None else round(status["best"]["val_error"], 2),
        "" if status["objective"] == DEFAULT else status["objective"],
    ]


def cost(document: dict[str, float]) -> str:
    """Epochs, time and disk in words."""
    megabytes = document["disk_bytes"] / 1e6
    return (
        f"{document['epochs']:g} epochs, {duration(document['seconds'])}, {megabytes:.1f} MB of checkpoints"
    )


def status_command(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of a study or a comparison, also while it runs."""
    if (compared := api.comparison_status(name, home_of(home))) is not None:
        comparison.print_status(compared, home, as_json=as_json)
        return
    study = load_study(name, home=home)
    records = study.records()
    document = study.status(records)
    if as_json:
        print_json(document)
        return
    counts, tracking = document["trials"], document["tracking"]
    rows = [
        ["state", document["state"]],
        ["method", document["method"]],
        ["data", f"{document['dataset']}, {document['labels']} labels"],
        ["protocol", PROTOCOLS[document["protocol"]]],
        ["trials", ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in counts.items())],
        ["MLflow", f"{tracking['uri']}, {counted(tracking['pending'], 'event')} to deliver"],
        ["cost so far", cost(document["cost"]["actual"])],
    ]
    if shared := document["cost"]["actual"]["shared_epochs"]:
        saved = duration(document["cost"]["actual"]["seconds_saved"])
        rows.append(["warm-ups taken over", f"{counted(shared, 'epoch')} of those, {saved} saved"])
    if document["cost"]["planned"] is not None:
        rows.append(["expected", cost(document["cost"]["planned"])])
    if document["seconds_left"] is not None:
        rows.append(["left", f"about {duration(document['seconds_left'])} of training"])
    print_table([name, ""], rows)
    if tracking["problem"]:
        console().print(f"not delivered to MLflow, will be tried again: {tracking['problem']}")
    if tracking["refused"]:
        console().print(
            f"MLflow refused {counted(tracking['refused'], 'event')} for good; see which with: "
            f"{typed('sync', name, home)}"
        )
    print_running(records, study.spec.full_epochs)
    print_study(study, records)
    console().print(f"{document['outlook']['says']}.")
    for event in document["history"]:
        console().print(f"{event['time']} {event['what']}")
    if document["state"] == "interrupted":
        console().print(f"carry on with: {typed('resume', name, home)}")


def trials_command(
    name: NameArgument,
    home: HomeOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values on standard output")] = False,
) -> None:
    """List the trials of a study in order of creation."""
    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other: take one.")
    study = load_study(name, home=home)
    if as_json:
        print_json(trials_document(study.records()))
    elif as_csv:
        study.trials().to_csv(sys.stdout, index=False)
    else:
        records = study.records()
        print_trials(records, title=f"study {name}, {study.spec.protocol} protocol")
        for record in records:
            if record.error:
                console().print(f"trial {record.trial}: {record.error.strip().splitlines()[-1]}")
        print_known(study, records)


def sync_command(
    name: NameArgument,
    timeout: Annotated[str, typer.Option(metavar="300s", help="How long to try")] = "300s",
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Try again what MLflow refused for good")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Deliver to MLflow the events of a study that still wait."""
    with waiting(f"MLflow to take what {name} owes (at most {timeout})"):
        delivery = api.sync(name, timeout=timeout, retry_refused=retry_refused, home=home)
    pending, dead, problem = delivery.pending, delivery.refused, delivery.problem
    for letter in dead:
        console().print(f"refused for good: {letter.event.kind} of {letter.event.run}: {letter.reason}")
    if pending:
        console().print(f"{counted(pending, 'event')} still owed. {problem or ''}".rstrip())
    elif problem:
        console().print(f"nothing of {name} is owed; MLflow cannot be asked at the moment: {problem}")
    if dead:
        console().print(
            f"MLflow refused {counted(len(dead), 'event')} for good, the rest goes on without them. Where the "
            f"reason is gone: {typed('sync', name, home)} --retry-refused"
        )
    if pending or dead:
        sys.exit(Exit.TRACKING_PENDING)
    console().print(f"everything of {name} is delivered.")
