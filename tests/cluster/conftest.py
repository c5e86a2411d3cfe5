"""A cluster on hosts of its own: MLflow on PostgreSQL, a head and two workers, started by the image's entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.hosts import ENTRY, ROOT, Host, Network, network, wait_for, why_not

MLFLOW_USER = "ssl-tune"


@dataclass
class Cluster:
    """The hosts, and where things are."""

    net: Network
    tracking: Host
    head: Host
    workers: dict[str, Host] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        return self.net.folder / "secrets"

    @property
    def home(self) -> Path:
        return self.net.folder / "home"

    @property
    def address(self) -> str:
        return f"{self.head.address}:6379"

    @property
    def jobs(self) -> str:
        return f"http://{self.head.address}:8265"

    @property
    def mlflow(self) -> str:
        return f"http://{self.tracking.address}:5000"

    @property
    def store(self) -> str:
        return f"http://{self.tracking.address}:9000"

    def keep_copies(self, host: Host) -> None:
        """Give a machine the object store's login, and a disk of its own for its copies of what is there."""
        host.hide(self.net.folder / "work")
        host.environment(
            SSL_TUNE_WORK=str(self.net.folder / "work"),
            AWS_ENDPOINT_URL=self.store,
            AWS_ACCESS_KEY_ID="key",
            AWS_SECRET_ACCESS_KEY="word",
            AWS_DEFAULT_REGION="us-east-1",
        )

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(host.logs() for host in self.net.hosts)

    def worker(
        self, name: str, cpus: int, hidden: Path | None = None, pythonpath: Path | None = None
    ) -> Host:
        """Add a machine that runs trials.

        Args:
            name: its host name.
            cpus: that it gives to trials.
            hidden: a shared folder that it does not mount.
            pythonpath: a folder of packages that it alone has.
        """
        host = self.net.host(name)
        self.keep_copies(host)
        if hidden is not None:
            host.hide(hidden)
        if pythonpath is not None:
            host.environment(PYTHONPATH=f"{pythonpath}:{ROOT}")
        host.environment(
            RAY_HEAD_ADDRESS=self.address,
            RAY_TOKEN_FILE=str(self.secrets / "ray_token"),
            RAY_WORKER_CPUS=str(cpus),
            RAY_OBJECT_STORE="80000000",
        )
        host.start(str(ENTRY / "ray-worker.sh"))
        self.workers[name] = host
        return host

    def ssl_tune(
        self, *words: str, check: bool = True, timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        """The command on the head, with the cluster's logins."""
        return self.head.run(str(ENTRY / "driver.sh"), *words, check=check, timeout=timeout)

    def wait_for_ray(self, host: Host, seconds: float = 300) -> None:
        """Wait until a machine is in the cluster."""

        def said() -> bool:
            return any("Ray runtime started" in path.read_text() for path in host.folder.glob("ray-*.log"))

        wait_for(said, f"Ray on {host.name}", seconds, self.logs)

    def wait_for_ports(self, host: Host, *ports: int, seconds: float = 300) -> None:
        """Wait until a host listens."""
        for port in ports:
            words = ("bash", "-c", f"</dev/tcp/{host.address}/{port}")
            wait_for(
                lambda words=words: host.run(*words, check=False).returncode == 0,  # type: ignore[misc]
                f"port {port} of {host.name}",
                seconds,
                self.logs,
            )


@pytest.fixture(scope="session")
def hosts() -> Iterator[Network]:
    """A network; skipped, with the reason, where none can be made (a failure with SSL_TUNE_REQUIRE=hosts)."""
    reason = why_not()
    if reason is not None:
        required = os.environ.get("SSL_TUNE_REQUIRE", "").split(",")
        assert "hosts" not in required, f"this test may not be skipped here: {reason}"
        pytest.skip(f"{reason} (`make cluster-test`, as root, installs what it needs)")
    folder = Path(tempfile.mkdtemp(prefix="ssl-tune-hosts-", dir="/var/tmp"))
    folder.chmod(0o711)  # PostgreSQL's own user passes through
    try:
        with network(folder) as net:
            yield net
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(hosts: Network) -> Cluster:
    """The cluster, ready."""
    there = Cluster(hosts, tracking=hosts.host("tracking"), head=hosts.host("head"))
    subprocess.run([ROOT / "docker" / "make-secrets.sh", there.secrets], check=True, capture_output=True)
    there.tracking.environment(
        PGDATA=str(hosts.folder / "postgres"),
        POSTGRES_HOST=there.tracking.address,
        POSTGRES_PASSWORD_FILE=str(there.secrets / "postgres_password"),
        MLFLOW_ADMIN_PASSWORD_FILE=str(there.secrets / "mlflow_password"),
        MLFLOW_SECRET_KEY_FILE=str(there.secrets / "mlflow_secret_key"),
        MLFLOW_ARTIFACTS=str(hosts.folder / "artifacts"),
        MLFLOW_WORKERS="1",
    )
    there.head.environment(
        RAY_TOKEN_FILE=str(there.secrets / "ray_token"),
        RAY_OBJECT_STORE="80000000",
        MLFLOW_TRACKING_URI=there.mlflow,
        MLFLOW_TRACKING_USERNAME=MLFLOW_USER,
        MLFLOW_TRACKING_PASSWORD_FILE=str(there.secrets / "mlflow_password"),
        SSL_TUNE_HOME=str(there.home),
    )
    there.keep_copies(there.head)
    # One after the other: each takes all processors of a small machine while it starts.
    there.tracking.start(str(ENTRY / "postgres.sh"))
    there.wait_for_ports(there.tracking, 5432)
    there.tracking.start(str(ENTRY / "mlflow.sh"))
    there.wait_for_ports(there.tracking, 5000)
    there.tracking.start("moto_server", "-H", there.tracking.address, "-p", "9000")  # speaks S3
    there.head.start(str(ENTRY / "ray-head.sh"))
    there.wait_for_ray(there.head)
    there.wait_for_ports(there.head, 8265)
    for name in ("one", "two"):
        there.wait_for_ray(there.worker(name, cpus=1))
    return there
