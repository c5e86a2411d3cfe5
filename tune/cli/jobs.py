"""Commands for a cluster that this machine does not belong to: submit and logs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tune import api
from tune.cli.options import NameArgument, TrustOption, takes_request
from tune.cli.show import console
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
    out.print(f"ssl-tune logs {job.study} --follow --address {job.address}")


def logs_command(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends")] = False,
    address: JobsOption = None,
) -> None:
    """What the driver of a submitted study prints."""
    for text in api.logs(name, follow=follow, address=address):
        print(text, end="", flush=True)  # noqa: T201
    print(f"the job is {api.job_state(name, address=address)}", file=sys.stderr)  # noqa: T201
