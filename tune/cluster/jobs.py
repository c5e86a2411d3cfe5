"""Studies on a cluster that this machine does not belong to: sent, followed and stopped through Ray's job API.

The driver then runs on the cluster's head, in Ray's keeping: it goes on when the sender's machine is switched off.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ssl_core.system.errors import ConfigError
from tune.errors import Exit, ServiceError

CONNECT_SECONDS = 5.0
STOP_SECONDS = 600
"""How long Ray lets a driver that is told to stop finish the epochs under way, before it kills it."""
STUDY = "ssl-tune.store.study_folder"
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


def job_server(address: str | None) -> str:
    """The URL of a job server.

    Raises:
        ConfigError: none is named, or this cannot be one.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError(
            "--address is missing: name the cluster's job server, such as http://ray-head:8265, or set "
            "RAY_API_SERVER_ADDRESS."
        )
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.username is None
        _ = parts.port
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"--address {address!r}: http(s)://HOST:PORT of a job server is expected (8265 is usual)."
        )
    return url


class Jobs:
    """One cluster's job server.

    Args:
        address: its URL; None: RAY_API_SERVER_ADDRESS.

    Raises:
        ConfigError: no address, or none that can be one.
        ServiceError: nobody answers there within seconds, or the token is refused.
    """

    def __init__(self, address: str | None) -> None:
        self.address = job_server(address)
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
        except OSError as error:
            raise ServiceError(
                f"the job server at {self.address} does not answer ({error.strerror or error}). Is the cluster's "
                "dashboard running, and may this machine reach that port?",
                Exit.UNREACHABLE,
            ) from None
        self._client = self._connected()

    def _connected(self) -> Any:
        from ray._private.authentication.authentication_token_setup import (
            maybe_enable_token_auth_if_token_available,
        )

        ray = importlib.import_module("ray")
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        try:
            return importlib.import_module("ray.job_submission").JobSubmissionClient(self.address)
        except ray.exceptions.AuthenticationError:
            raise ServiceError(
                f"the job server at {self.address} refuses the token. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH "
                "to the file with the cluster's token (or RAY_AUTH_TOKEN to the token itself).",
                Exit.UNREACHABLE,
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ServiceError(
                f"what answers at {self.address} is no job server that this version understands: "
                f"{str(error).strip().splitlines()[0]}",
                Exit.UNREACHABLE,
            ) from None

    def submit(self, study: str, words: Sequence[str], files: Path | None = None) -> str:
        """Send a command; returns the job's id.

        Args:
            study: the study's name, by which the job is found again.
            words: the command.
            files: a folder that it is to run in.

        Raises:
            ServiceError: the study is being driven by a job already.
        """
        running = self.newest(study)
        if running is not None and running.status not in ENDED:
            raise ServiceError(
                f"the study {study!r} is driven by the job {running.submission_id} already ({running.status}). "
                f"Follow it with `ssl-tune logs {study} --follow`.",
                Exit.IN_USE,
            )
        environment: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}
        if files is not None:
            environment["working_dir"] = str(files)
        return str(
            self._client.submit_job(
                entrypoint=shlex.join(words),
                submission_id=f"ssl-tune-{study}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
                metadata={STUDY: study},
                runtime_env=environment,
            )
        )

    def newest(self, study: str) -> Any | None:
        """The job that drives a study, or drove it last; None where there is none."""
        found = [j for j in self._client.list_jobs() if (j.metadata or {}).get(STUDY) == study]
        return max(found, key=lambda job: job.start_time or 0, default=None)

    def _job(self, study: str) -> Any:
        job = self.newest(study)
        if job is None:
            jobs = self._client.list_jobs()
            known = sorted({j.metadata[STUDY] for j in jobs if STUDY in (j.metadata or {})})
            listed = f"Known there: {', '.join(known)}." if known else "None was submitted there yet."
            raise ConfigError(f"no job of a study {study!r} at {self.address}. {listed}")
        return job

    def logs(self, study: str) -> str:
        """What a study's job has printed so far.

        Raises:
            ConfigError: no such job.
        """
        return str(self._client.get_job_logs(self._job(study).submission_id))

    def follow(self, study: str) -> Iterator[str]:
        """What a study's job prints, until it ends.

        Raises:
            ConfigError: no such job.
        """
        stream = self._client.tail_job_logs(self._job(study).submission_id)
        with asyncio.Runner() as runner:
            while True:
                try:
                    yield runner.run(anext(stream))
                except StopAsyncIteration:
                    return

    def state(self, study: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.

        Raises:
            ConfigError: no such job.
        """
        return str(getattr(self._job(study).status, "value", self._job(study).status))

    def stop(self, study: str) -> bool:
        """Tell a study's driver to stop, resumably; whether there was anything to stop.

        Raises:
            ConfigError: no such job.
        """
        job = self._job(study)
        return job.status not in ENDED and bool(self._client.stop_job(job.submission_id))
