"""Hosts on one machine: network namespaces joined by a bridge that is in a namespace of its own.

The addresses 10.77.0.x exist inside the namespaces alone. Every host has its own folder for Ray's files and its own
host name; the file system is otherwise shared, as a mounted network folder would be.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ENTRY = ROOT / "docker" / "entry"
ENTER = """
set -e
hostname "$1"
mount --make-rprivate /
mount --bind "$2" /tmp/ray
for folder in $3; do mount -t tmpfs tmpfs "$folder"; done
shift 3
exec "$@"
"""


def why_not() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("setpriv", "util-linux")):
        if shutil.which(program) is None:
            return f"{program} is missing: install {package}"
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and shutil.which("initdb") is None:
        return "PostgreSQL is missing: install postgresql"
    name = f"ssltry{os.getpid() % 10000}"
    made = _ip("netns", "add", name, check=False)
    if made.returncode == 0:
        _ip("netns", "del", name, check=False)
        return None
    return f"network namespaces cannot be made: {made.stderr.strip()}"


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


class Host:
    """One host: runs commands, can be cut off from the network, and killed."""

    def __init__(self, net: Network, name: str, number: int) -> None:
        self.name, self.address = name, f"10.77.0.{number}"
        self.namespace, self._link = f"{net.prefix}{name}", f"{net.prefix}v{number}"
        self._switch = net.switch
        self.folder = net.folder / name
        (self.folder / "ray").mkdir(parents=True)
        self._started: list[subprocess.Popen[bytes]] = []
        self._environment: dict[str, str] = {}
        self._hidden: list[str] = []

    def plug(self) -> None:
        """Make the namespace and its cable to the switch."""
        _ip("netns", "add", self.namespace)
        words = ["link", "add", self._link, "netns", self._switch, "type", "veth", "peer", "name", "eth0"]
        _ip(*words, "netns", self.namespace)
        _ip("-n", self._switch, "link", "set", self._link, "master", "switch", "up")
        _ip("-n", self.namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", device, "up")

    def cut_off(self) -> None:
        """Pull the cable: the host goes on, and hears and says nothing."""
        _ip("-n", self._switch, "link", "set", self._link, "down")

    def hide(self, folder: Path) -> None:
        """Have an empty folder of its own there, as a machine has that does not mount the shared one."""
        folder.mkdir(parents=True, exist_ok=True)
        self._hidden.append(str(folder))

    def environment(self, **more: str) -> None:
        """Variables of every command from now on."""
        self._environment |= more

    def _wrapped(self, words: tuple[str, ...]) -> list[str]:
        enter = [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "unshare",
            "--mount",
            "--uts",
            "bash",
            "-c",
            ENTER,
            "host",
        ]
        return [*enter, self.name, str(self.folder / "ray"), " ".join(self._hidden), *words]

    def _variables(self) -> Mapping[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("RAY_", "MLFLOW_", "SSL_TUNE_", "PYTHON"))
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
        own = {"PATH": path, "PYTHONPATH": str(ROOT), "SSL_TUNE_ROLE_FILE": str(self.folder / "role")}
        return kept | own | {"RAY_NODE_IP": self.address} | self._environment

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a service, again and again as Compose would; its output goes to a file of its own."""
        restart = 'until "$@"; do echo "it ended: $?"; sleep 1; done'
        output = self.folder / f"{Path(words[0]).stem}.log"
        with output.open("ab") as log:
            process = subprocess.Popen(
                self._wrapped(("bash", "-c", restart, *words[:1], *words)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._variables(),
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, *words: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            self._wrapped(words),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._variables(),
            check=False,
        )
        assert not check or done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def logs(self) -> str:
        """What its services said, the ends of it."""
        return "\n".join(f"== {p}\n{p.read_text()[-3000:]}" for p in sorted(self.folder.glob("*.log")))

    def kill(self) -> None:
        """Every process of the host ends at once, as when its power fails."""
        for _ in range(50):
            listed = _ip("netns", "pids", self.namespace, check=False).stdout.split()
            for number in listed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
            for process in self._started:
                process.poll()
            if not listed:
                return
            time.sleep(0.1)


class Network:
    """A switch and its hosts.

    Args:
        folder: where the hosts keep their files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = f"st{os.getpid() % 10000}"
        self.switch = f"{self.prefix}sw"
        self.hosts: list[Host] = []

    def host(self, name: str) -> Host:
        """Add a host."""
        host = Host(self, name, len(self.hosts) + 1)
        self.hosts.append(host)
        host.plug()
        return host


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network that is gone, with everything that runs in it, at the end of the block."""
    Path("/tmp/ray").mkdir(exist_ok=True)
    net = Network(folder)
    _ip("netns", "add", net.switch)
    try:
        _ip("-n", net.switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", net.switch, "link", "set", "switch", "up")
        yield net
    finally:
        for host in net.hosts:
            host.kill()
            _ip("netns", "del", host.namespace, check=False)
        _ip("netns", "del", net.switch, check=False)


def wait_for(condition: Callable[[], object], what: str, seconds: float, logs: Callable[[], str]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} takes longer than {seconds:.0f} s\n{logs()}"
        time.sleep(0.3)
