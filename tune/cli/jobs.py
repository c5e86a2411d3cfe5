"""Commands for studies that another process drives, here or on a cluster: submit, logs, stop, enqueue, pin."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ssl_core.system.errors import ConfigError
from tune import api
from tune.cli.options import HomeOption, NameArgument, TrustOption, takes_request
from tune.cli.show import console, typed, waiting
from tune.definition.request import SearchRequest

JobsOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="http://HOST:8265", help="The cluster's job server [RAY_API_SERVER_ADDRESS]"
    ),
]
ClusterHomeOption = Annotated[
    str | None,
    typer.Option("--home", help="Folder of all state, as the cluster sees it [the cluster's SSL_TUNE_HOME]"),
]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("submit")(takes_request(submit_command))
    app.command("logs")(logs_command)
    app.command("stop")(stop_command)
    app.command("enqueue")(enqueue_command)
    app.command("pin")(pin_command)


def submit_command(
    request: SearchRequest,
    home: ClusterHomeOption = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="NAME", help="Carry on this study instead")
    ] = None,
    trust_method: TrustOption = False,
) -> None:
    """Send a search to a cluster as a Ray job; it goes on when this machine is switched off."""
    job = (
        api.submit_resume(resume, request, home, trust_method=trust_method)
        if resume
        else api.submit_request(request, home)
    )
    out = console()
    out.print(f"sent to {job.address} as the job {job.job}. Follow it with:")
    out.print(shlex.join(["ssl-tune", "logs", job.study, "--follow", "--address", job.address]))


def logs_command(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends")] = False,
    address: JobsOption = None,
) -> None:
    """What the driver of a submitted study prints."""
    for text in api.logs(name, follow=follow, address=address):
        print(text, end="", flush=True)  # noqa: T201
    print(f"the job is {api.job_state(name, address=address)}", file=sys.stderr)  # noqa: T201


def stop_command(
    name: NameArgument,
    timeout: Annotated[
        str, typer.Option(metavar="5m", help="How long to wait until its driver has ended")
    ] = "5m",
    trial: Annotated[
        str | None,
        typer.Option(
            "--trial", metavar="T", help="Stop this trial alone: it ends its epoch, the study goes on"
        ),
    ] = None,
    home: HomeOption = None,
    address: JobsOption = None,
) -> None:
    """End a study that another process runs, resumably: its trials end their epoch, which is kept."""
    if trial is not None:
        _say_steered(api.stop_trial(name, trial, home=home), name, home)
        return
    with waiting(f"the driver of {name}: its trials end their epoch (at most {timeout})"):
        stopped = api.stop(name, timeout=timeout, address=address, home=home)
    if stopped.address is not None:
        again = f"ssl-tune submit --resume {name} --address {stopped.address}"
        ended = f"the job of {name} has ended already: {stopped.state}"
        console().print(f"told to stop. Carry on with: {again}" if stopped.asked else ended)
        return
    if not stopped.asked:
        console().print(f"nobody runs the study {name!r}: it is {stopped.state}.")
        return
    console().print(f"the study {name!r} is {stopped.state}.")
    if stopped.state == "interrupted":
        console().print(f"carry on with: {typed('resume', name, home)}")


def enqueue_command(
    name: NameArgument,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A value of the point; what is left out, the sampler chooses"
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--points", metavar="FILE.yaml", help="A list of points, each tried as it is"),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Try a point of your own next, also while the study runs; its trial is marked in MLflow (ssl.origin: user)."""
    _say_steered(api.enqueue(name, points, settings=settings, home=home), name, home)


def pin_command(
    name: NameArgument,
    trial: Annotated[str | None, typer.Argument(metavar="[TRIAL]", help="The trial's number")] = None,
    none: Annotated[bool, typer.Option("--none", help="Recommend none any more")] = False,
    home: HomeOption = None,
) -> None:
    """Recommend a trial: `status` names it beside the best, `export` and `confirm` take it."""
    if (trial is None) != none:
        raise ConfigError("name the trial to pin, or take --none.")
    _say_steered(api.pin(name, trial, home=home), name, home)


def _say_steered(steered: api.Steered, name: str, home: str | None) -> None:
    """What was done, and what it waits for."""
    console().print(f"{steered.said}.")
    if steered.waits == "resume":
        console().print(f"nobody runs the study. Carry on with: {typed('resume', name, home)}")
    elif steered.waits:
        command = typed("resume", name, home)
        console().print(f"the study has all of its trials. Give it a new total: {command} --trials N")
