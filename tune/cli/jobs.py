"""Commands for a cluster that this machine does not belong to: submit, logs; `stop` has its part in tune.cli.study."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from search_spaces import dump_yaml
from ssl_core import method_file
from ssl_core.system.errors import ConfigError
from tune.cli.options import NameArgument, takes_request
from tune.cli.show import console
from tune.launch.request import SearchRequest, check_request
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
            words = ["ssl-tune", "resume", resume, "--address", "auto", *at]
        else:
            check_request(request)
            words = ["ssl-tune", "search", *request_words(request), "--address", "auto", *at]
            files = Path(folder) if take_files(request, Path(folder)) else None
        jobs = Jobs(request.address)
        job = jobs.submit(name, words, files)
    out = console()
    out.print(f"sent to {jobs.address} as the job {job}. Follow it with:")
    out.print(f"ssl-tune logs {name} --follow --address {jobs.address}")


def take_files(request: SearchRequest, folder: Path) -> bool:
    """Copy what a request names of this machine's files into the folder that the job runs in; False: nothing."""
    if own_space := request.space not in (None, "wide"):
        shutil.copy(str(request.space), folder / "space.yaml")
    if own_points := request.points is not None:
        points = request.points
        text = Path(points).read_text() if isinstance(points, str) else dump_yaml(list(points))
        (folder / "points.yaml").write_text(text)
    if own_method := request.method.startswith(method_file.PREFIX):
        path = method_file.path_of(request.method)
        for file in (path, path.with_suffix(".yaml")):
            if file.exists():  # a space may be named instead of lying beside the method
                shutil.copy(file, folder / file.name)
    return own_space or own_points or own_method


def request_words(request: SearchRequest) -> list[str]:
    """A request as it is typed, but for the address, where `take_files` has put its files into the job's folder."""
    words = []
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if field.name in ("address", "settings") or value is None or value == field.default:
            continue
        if field.name == "space" and value != "wide":
            value = "space.yaml"
        if field.name == "method" and value.startswith(method_file.PREFIX):
            value = f"{method_file.PREFIX}{method_file.path_of(value).name}"
        if field.name == "points":
            value = "points.yaml"
        words += [f"--{field.name.replace('_', '-')}", str(value)]
    for key, value in request.settings.items():
        words += ["--set", f"{key}={dump_yaml(value).strip().removesuffix('...').strip()}"]
    return words


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
