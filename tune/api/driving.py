"""Studies that another process drives: sent to a cluster, followed there, and stopped wherever they run."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from ssl_core.system.errors import ConfigError
from tune.comparison.record import is_comparison, load_comparison
from tune.definition.inputs import parse_duration
from tune.definition.request import SearchRequest
from tune.definition.request_options import RequestOptions
from tune.errors import Exit, ServiceError
from tune.findings.study import load_study
from tune.launch.request import check_request
from tune.launch.sending import afterwards_words, request_words, take_files
from tune.store.home import Home
from tune.store.layout import check_name

LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """A study that runs on a cluster as a Ray job.

    Attributes:
        study: the study's name.
        job: the job's id.
        address: URL of the cluster's job server.
    """

    study: str
    job: str
    address: str


def submit(*, home: str | None = None, **options: Unpack[RequestOptions]) -> Job:
    """Send a search to a cluster as a Ray job; it goes on when this machine is switched off.

    Args:
        home: the folder of all state, as the cluster sees it; None: the cluster's SSL_TUNE_HOME.
        options: as of `search`; `name` is needed, and `address` is the URL of the cluster's job server
            (None: RAY_API_SERVER_ADDRESS).

    Raises:
        ConfigError: anything wrong with what is asked for that can be told without the cluster.
        ServiceError: nobody answers at the address, or a job drives the study already.
    """
    return submit_request(SearchRequest(**options), home)


def submit_request(request: SearchRequest, home: str | None = None) -> Job:
    """`submit` for a request that is made already."""
    if request.name is None:
        raise ConfigError("--name is missing: a study that is sent away is found again by its name.")
    check_request(request)
    with tempfile.TemporaryDirectory(prefix="ssl-tune-") as folder:
        files = Path(folder) if take_files(request, Path(folder)) else None
        return _send(request.name, ["search", *request_words(request)], request.address, home, files)


def submit_resume(
    name: str, request: SearchRequest | None = None, home: str | None = None, *, trust_method: bool = False
) -> Job:
    """Send what is left of a study to its cluster.

    Args:
        name: the study.
        request: its `address`, and what is to come after the search; None: RAY_API_SERVER_ADDRESS, and nothing.
        home: as of `submit`.
        trust_method: the study's method file is run there also where the cluster's user has not run it before.

    Raises:
        ConfigError, ServiceError: as of `submit`.
    """
    request = request or SearchRequest()
    trust = ["--trust-method"] if trust_method else []
    return _send(name, ["resume", name, *afterwards_words(request), *trust], request.address, home, None)


def _send(name: str, words: list[str], address: str | None, home: str | None, files: Path | None) -> Job:
    from tune.cluster.jobs import Jobs  # loads Ray

    check_name(name)
    at = ["--home", home] if home else []
    jobs = Jobs(address)
    return Job(name, jobs.submit(name, ["ssl-tune", *words, "--address", "auto", *at], files), jobs.address)


def logs(name: str, *, follow: bool = False, address: str | None = None) -> Iterator[str]:
    """What the driver of a submitted study prints.

    Args:
        name: the study.
        follow: until the job ends.
        address: URL of the job server; None: RAY_API_SERVER_ADDRESS.

    Raises:
        ConfigError: no address, or no job of such a study.
        ServiceError: nobody answers there, or the token is refused.
    """
    from tune.cluster.jobs import Jobs  # loads Ray

    jobs = Jobs(address)
    yield from jobs.follow(name) if follow else [jobs.logs(name)]


def job_state(name: str, *, address: str | None = None) -> str:
    """How the job of a submitted study stands: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    from tune.cluster.jobs import Jobs  # loads Ray

    return Jobs(address).state(name)


@dataclass(frozen=True)
class Stopped:
    """What became of a request to stop.

    Attributes:
        state: the study's, once its driver has ended; of a submitted one, its job's.
        asked: whether there was a driver to ask.
        address: of the job server, where the study was submitted; None: it ran here.
    """

    state: str
    asked: bool
    address: str | None = None


def stop(
    name: str,
    *,
    timeout: float | str = 300.0,
    address: str | None = None,
    home: Path | str | None = None,
) -> Stopped:
    """End a study that another process runs, resumably: its trials end their epoch, which is kept.

    Args:
        name: the study, or a comparison: all of its studies.
        timeout: how long to wait until its driver has ended: seconds, or text such as "5m".
        address: of the job server that a study was submitted to; None: a study of the home, else
            RAY_API_SERVER_ADDRESS.
        home: the home folder.

    Raises:
        ConfigError: no such study or job.
        ServiceError: the driver has not ended within the time; it will as soon as it can.
    """
    place = Home(home)
    compared = is_comparison(name, place)
    is_here = compared or place.has_study(name)
    if address is not None or (not is_here and "RAY_API_SERVER_ADDRESS" in os.environ):
        from tune.cluster.jobs import Jobs  # loads Ray

        jobs = Jobs(address)
        return Stopped(asked=jobs.stop(name), state=jobs.state(name), address=jobs.address)
    folder = load_comparison(name, place).folder if compared else load_study(name, home=home).folder
    deadline = time.monotonic() + parse_duration(str(timeout), "--timeout")
    if not folder.is_locked():
        return Stopped(folder.state(), asked=False)
    folder.request_stop()
    while folder.is_locked():
        if time.monotonic() >= deadline:
            raise ServiceError(
                f"the driver of {name!r} has not ended yet. It will look at the request as soon as it can; see "
                f"`{shlex.join(['ssl-tune', 'status', name, '--home', Home(home).shown])}`.",
                Exit.IN_USE,
            )
        time.sleep(LOOK_SECONDS)
    return Stopped(folder.state(), asked=True)
