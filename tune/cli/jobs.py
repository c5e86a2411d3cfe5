"""Commands for a cluster that this machine does not belong to: submit, logs; `stop` has its part in tune.cli.study."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ssl_core.system.errors import ConfigError
from tune.cli.options import NameArgument, takes_request
from tune.cli.show import console
from tune.definition.request import SearchRequest
from tune.launch.request import check_request
from tune.launch.sending import afterwards_words, request_words, take_files
from tune.store.home import check_name

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
) -> None:
    """Send a search to a cluster as a Ray job; it goes on when this machine is switched off."""
    from tune.cluster.jobs import Jobs

    name = resume or request.name
    if name is None:
        raise ConfigError("--name is missing: a study that is sent away is found again by its name.")
    check_name(name)
    at = ["--home", home] if home else []
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as folder:
        files = None
        if resume:
            words = ["ssl-tune", "resume", resume, *afterwards_words(request), "--address", "auto", *at]
        else:
            check_request(request)
            words = ["ssl-tune", "search", *request_words(request), "--address", "auto", *at]
            files = Path(folder) if take_files(request, Path(folder)) else None
        jobs = Jobs(request.address)
        job = jobs.submit(name, words, files)
    out = console()
    out.print(f"sent to {jobs.address} as the job {job}. Follow it with:")
    out.print(f"ssl-tune logs {name} --follow --address {jobs.address}")


def logs_command(
    name: NameArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends")] = False,
    address: JobsOption = None,
) -> None:
    """What the driver of a submitted study prints."""
    from tune.cluster.jobs import Jobs

    jobs = Jobs(address)
    for text in jobs.follow(name) if follow else [jobs.logs(name)]:
        print(text, end="", flush=True)  # noqa: T201
    print(f"the job is {jobs.state(name)}", file=sys.stderr)  # noqa: T201


def stop_job(name: str, address: str | None) -> None:
    """Stop a submitted study, resumably."""
    from tune.cluster.jobs import Jobs

    jobs = Jobs(address)
    if not jobs.stop(name):
        console().print(f"the job of {name} has ended already: {jobs.state(name)}")
        return
    console().print(f"told to stop. Carry on with: ssl-tune submit --resume {name} --address {jobs.address}")
