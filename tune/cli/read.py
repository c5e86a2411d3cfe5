"""Commands that read: studies, status, trials, export, ui; and sync, which delivers what MLflow lacks."""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated, Any

import typer

from ssl_core.system.errors import ConfigError, counted
from tune import api
from tune.cli.options import HomeOption, JsonOption, NameArgument, home_of
from tune.cli.show import console, print_json, print_study, print_table, print_trials, typed
from tune.definition.objective import DEFAULT
from tune.delivery.moved_home import follow
from tune.errors import Exit
from tune.findings.ranking import trials_document
from tune.findings.study import load_study
from tune.findings.words import PROTOCOLS


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("studies")(studies_command)
    app.command("status")(status_command)
    app.command("trials")(trials_command)
    app.command("ui")(ui_command)
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
        console().print(f"no study in {home_of(home).shown} yet. Start one with: ssl-tune search")
        return
    rows = [_row(document) for document in documents]
    print_table(["study", "state", "method", "labels", "trials ended", "best val/error %", "objective"], rows)


def _row(status: dict[str, Any]) -> list[object]:
    """A study's row in the list of studies."""
    if status["trials"] is None:
        return [status["study"], status["state"], "", "", "", "", ""]
    ended = sum(status["trials"][state] for state in ("completed", "stopped_early", "failed"))
    return [
        status["study"],
        status["state"],
        status["method"],
        status["labels"],
        f"{ended}/{status['trials']['total']}",
        "" if status["best"] is None else round(status["best"]["val_error"], 2),
        "" if status["objective"] == DEFAULT else status["objective"],
    ]


def cost(document: dict[str, float]) -> str:
    """Epochs, time and disk in words."""
    megabytes, minutes = document["disk_bytes"] / 1e6, document["seconds"] / 60
    return f"{document['epochs']:g} epochs, {minutes:.1f} min, {megabytes:.1f} MB of checkpoints"


def status_command(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the state of a study, also while it runs."""
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
    if document["cost"]["planned"] is not None:
        rows.append(["expected", cost(document["cost"]["planned"])])
    print_table([name, ""], rows)
    if tracking["problem"]:
        console().print(f"not delivered to MLflow, will be tried again: {tracking['problem']}")
    if tracking["refused"]:
        console().print(
            f"MLflow refused {counted(tracking['refused'], 'event')} for good; see which with: "
            f"{typed('sync', name, home)}"
        )
    print_study(study, records)
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


def ui_command(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on", min=1, max=65535)] = 5000,
) -> None:
    """Start the MLflow UI on this home; stop it with Ctrl-C."""
    place = home_of(home).folder_for("ui")
    database = place.path / "mlflow.db"
    if not database.exists():
        raise ConfigError(
            f"{database} does not exist yet: no study of this home was tracked there. Run one first."
        )
    check_port(host, port)
    follow(database, place.artifacts)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", place.default_tracking_uri]
    command += ["--artifacts-destination", place.artifacts.as_uri(), "--host", host, "--port", str(port)]
    command += ["--workers", "1"]  # one reader on SQLite; four would take minutes to start on a small machine
    # MLflow opens on pages for language models unless it is told that these are training runs.
    console().print(
        f"MLflow: http://{host}:{port}/#/experiments?workflowType=machine_learning (Ctrl-C stops it)"
    )
    sys.stdout.flush()
    os.execv(sys.executable, command)  # in this process's place, so that signals reach the server


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on: MLflow's own processes would take a minute to say so.

    Raises:
        ConfigError: says why, and which port is free.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: no address of this machine ({error.strerror}).") from None
    problem = _listened(family, place)
    if problem is None:
        return
    free = next(
        (p for p in range(port + 1, min(port + 100, 65536)) if not _listened(family, (place[0], p))), None
    )
    remedy = "Name another with --port." if free is None else f"Take another, such as --port {free}."
    raise ConfigError(f"--port {port}: {host} cannot be listened on there ({problem}). {remedy}")


def _listened(family: int, place: tuple[Any, ...]) -> str | None:
    """Why nothing can listen at an address; None where something can."""
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(place)
        except OSError as error:
            return error.strerror or str(error)
    return None


def sync_command(
    name: NameArgument,
    timeout: Annotated[str, typer.Option(metavar="300s", help="How long to try")] = "300s",
    retry_refused: Annotated[
        bool, typer.Option("--retry-refused", help="Try again what MLflow refused for good")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Deliver to MLflow the events of a study that still wait."""
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
