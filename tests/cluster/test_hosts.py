"""A cluster on hosts of its own: doors, studies sent to it, machines that die, and machines that do not fit.

The tests run in this order, on one cluster: the last ones take machines away.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.conftest import Cluster
from tests.cluster.hosts import Host, wait_for
from tune.errors import Exit
from tune.store.events import unpacked

pytestmark = [pytest.mark.timeout(900)]

TRIALS = 6  # of the study that loses machines
TINY = [
    *("--labels", "100", "--network", "wrn-10-1", "--seed", "1", "--tracking-timeout", "90s"),
    *("--set", "batch_size=16", "--set", "mu=1", "--set", "steps_per_epoch=60", "--set", "threads=1"),
]


def reports(folder: Path) -> dict[str, list[int]]:
    """Epochs by run, as the study's log has them."""
    found: dict[str, list[int]] = {}
    if not (folder / "events.db").exists():
        return found
    with sqlite3.connect(f"file:{folder / 'events.db'}?mode=ro", uri=True) as log:
        query = "SELECT run, payload FROM events WHERE kind = 'metrics' ORDER BY id"
        try:
            rows = log.execute(query).fetchall()
        except sqlite3.OperationalError:  # being made
            return found
    for run, payload in rows:
        if "epoch" in (data := unpacked(payload)):
            found.setdefault(run, []).append(data["epoch"])
    return found


def count(folder: Path) -> int:
    """All epochs that a study's log has."""
    return sum(map(len, reports(folder).values()))


def state(folder: Path) -> str:
    """What the driver noted of a study."""
    return str(json.loads((folder / "state.json").read_text())["state"])


# Doors


def http(host: Host, url: str, *options: str) -> int:
    """The status of a request from a host."""
    words = ("curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", *options, url)
    return int(host.run(*words, check=False).stdout or 0)


def test_rays_doors_open_with_the_token_alone(cluster: Cluster) -> None:
    stranger, head = cluster.workers["one"], cluster.head.address
    token = (cluster.secrets / "ray_token").read_text()
    right, wrong = (f"Authorization: Bearer {word}" for word in (token, "0" * 64))
    job = ("-X", "POST", "-H", "Content-Type: application/json", "-d", '{"entrypoint": "touch /tmp/x"}')
    for port, path in (
        (8265, "/api/jobs/"),
        (8265, "/nodes?view=summary"),
        (6384, "/api/job_agent/jobs/"),
        (6382, "/x"),
    ):
        url = f"http://{head}:{port}{path}"
        assert http(stranger, url) == 401, url
        assert http(stranger, url, "-H", wrong) == 403, url
    assert http(stranger, f"{cluster.jobs}/api/jobs/", *job) == 401
    assert http(stranger, f"{cluster.jobs}/api/jobs/", *job, "-H", wrong) == 403
    assert http(stranger, f"{cluster.jobs}/api/jobs/", "-H", right) == 200


WRONG = ("RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={'0' * 64}")


@pytest.mark.parametrize(("verb", "variables"), [("search", ()), ("search", WRONG), ("submit", WRONG)])
def test_a_driver_without_the_token_is_turned_away_within_seconds(
    cluster: Cluster, verb: str, variables: tuple[str, ...]
) -> None:
    stranger = ("env", "-u", "RAY_TOKEN_FILE", f"HOME={cluster.head.folder}", *variables)
    address = cluster.address if verb == "search" else cluster.jobs
    began = time.monotonic()
    done = cluster.head.run(*stranger, "ssl-tune", verb, "--address", address, "--name", "no", check=False)
    assert done.returncode == Exit.UNREACHABLE, done
    assert "refuses the token" in done.stderr and "RAY_AUTH_TOKEN_PATH" in done.stderr
    assert time.monotonic() - began < 60  # a few seconds, but for a busy machine
    assert not (cluster.home / "studies" / "no").exists()


def test_mlflow_and_its_database_open_with_the_password_alone(cluster: Cluster) -> None:
    stranger = cluster.workers["one"]
    password = (cluster.secrets / "mlflow_password").read_text()
    for path in (
        "/",
        "/api/2.0/mlflow/experiments/search?max_results=1",
        "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow-artifacts/artifacts",
    ):
        assert http(stranger, cluster.mlflow + path) == 401, path
        assert http(stranger, cluster.mlflow + path, "-u", "ssl-tune:password1234") == 401, path
        assert http(stranger, cluster.mlflow + path, "-u", f"ssl-tune:{password}") == 200, path
    code = "import psycopg, sys; psycopg.connect(sys.argv[1], connect_timeout=10)"
    for login in ("ssl_tune", "ssl_tune:guess", "postgres"):
        uri = f"postgresql://{login}@{cluster.tracking.address}/mlflow"
        assert cluster.head.run("python", "-c", code, uri, check=False).returncode != 0
    secret = (cluster.secrets / "postgres_password").read_text()
    cluster.head.run(
        "python", "-c", code, f"postgresql://ssl_tune:{secret}@{cluster.tracking.address}/mlflow"
    )


def test_doctor_looks_at_every_machine(cluster: Cluster) -> None:
    findings = json.loads(cluster.ssl_tune("doctor", "--address", cluster.address, "--json").stdout)
    by_name = {f["what"]: f for f in findings}
    assert {f["verdict"] for f in findings} == {"good"}, findings
    assert by_name["cluster"]["found"].endswith("2 machines, 2 processors, 0 GPUs")
    assert "refused" in by_name["authentication"]["found"]
    for machine in ("one", "two"):
        for what in ("storage", "versions", "GPUs", "MLflow"):
            assert f"{machine}: {what}" in by_name
    done = cluster.ssl_tune(
        "search", "--address", cluster.address, "--gpus-per-trial", "1", "--name", "g", check=False
    )
    assert done.returncode == Exit.USAGE and "no machine of the cluster has so many GPUs" in done.stderr
    assert not (cluster.home / "studies" / "g").exists()


# Studies sent from a machine outside


def test_a_study_is_sent_stopped_and_carried_on_from_elsewhere(cluster: Cluster) -> None:
    outside, folder = cluster.tracking, cluster.home / "studies" / "sent"
    token = ("env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={cluster.secrets / 'ray_token'}")
    at = ("--address", cluster.jobs)

    def ssl_tune(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return outside.run(*token, "ssl-tune", *words, *at, check=check, timeout=300)

    space = folder.parent.parent.parent / "space.yaml"
    space.write_text((Path(__file__).parent / "space.yaml").read_text())
    long = ("--trials", "2", "--epochs", "900", "--time-budget", "30s", "--space", str(space))
    ssl_tune("submit", "--name", "sent", *long, *TINY)
    wait_for(lambda: count(folder) >= 2, "the sent study's first epochs", 300, cluster.logs)
    ssl_tune("stop", "sent")
    wait_for(lambda: state(folder) == "interrupted", "the stop", 200, cluster.logs)
    before = reports(folder)
    wait_for(lambda: "STOPPED" in ssl_tune("logs", "sent").stderr, "the job's end", 200, cluster.logs)
    ssl_tune("submit", "--resume", "sent")
    again = ssl_tune("submit", "--name", "sent", *TINY, check=False)
    assert again.returncode == Exit.IN_USE and "driven by the job" in again.stderr
    printed = ssl_tune("logs", "sent", "--follow")
    assert "the job is SUCCEEDED" in printed.stderr, printed
    assert state(folder) == "finished"
    after = reports(folder)
    assert all(after[run][: len(epochs)] == epochs for run, epochs in before.items())
    trials = json.loads(cluster.ssl_tune("trials", "sent", "--json").stdout)
    assert len(trials) == 2
    check_tracking(cluster, "sent", trials)


# A home in an object store: no machine sees another's files


@pytest.mark.long
def test_a_study_in_an_object_store_survives_the_driver_s_machine(cluster: Cluster) -> None:
    make = "import boto3; boto3.client('s3').create_bucket(Bucket='studies')"
    cluster.head.run("python", "-c", make)
    at = ("--home", "s3://studies/home")
    # Long enough not to end between the look at it and the kill.
    budget = ("--trials", "4", "--epochs", "40", "--address", cluster.address)
    driver = threading.Thread(
        target=lambda: cluster.ssl_tune("search", "--name", "stored", *budget, *at, *TINY, check=False)
    )
    driver.start()

    def status() -> dict[str, Any]:  # each time from a machine that has no copy yet
        done = cluster.ssl_tune("status", "stored", "--json", *at, check=False)
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    wait_for(lambda: status().get("best") is not None, "the first epoch", 200, cluster.logs)
    before = status()
    assert before["state"] == "running"
    for process in psutil.process_iter(["cmdline"]):
        if "search" in (words := process.info["cmdline"] or []) and "stored" in words:
            process.kill()
    driver.join()

    refused = cluster.ssl_tune("resume", "stored", *at, check=False)
    assert refused.returncode == Exit.IN_USE and "last heard of" in refused.stderr, refused
    carried_on: list[subprocess.CompletedProcess[str]] = []

    def goes_on() -> bool:
        carried_on.append(cluster.ssl_tune("resume", "stored", *at, check=False, timeout=400))
        return carried_on[-1].returncode != Exit.IN_USE

    wait_for(goes_on, "the end of the lost driver's lease", 120, cluster.logs)
    assert carried_on[-1].returncode == 0, carried_on[-1]
    trials = json.loads(cluster.ssl_tune("trials", "stored", "--json", *at).stdout)
    assert [t["trial"] for t in trials] == [str(n) for n in range(4)]
    assert {t["state"] for t in trials} <= {"completed", "stopped_early"}, trials
    check_tracking(cluster, "stored", trials)


# Machines that come and go


@pytest.mark.long
def test_a_study_survives_a_machine_that_dies_and_one_that_is_cut_off(cluster: Cluster) -> None:
    folder = cluster.home / "studies" / "across"
    done: list[subprocess.CompletedProcess[str]] = []

    def search() -> None:
        words = (
            "search",
            "--name",
            "across",
            "--address",
            cluster.address,
            "--trials",
            str(TRIALS),
            "--epochs",
            "12",
            *TINY,
        )
        done.append(cluster.ssl_tune(*words, check=False, timeout=400))

    driver = threading.Thread(target=search)
    driver.start()

    def epochs() -> int:
        assert driver.is_alive() or done == [], done
        return count(folder)

    try:
        wait_for(lambda: epochs() >= 4, "the first epochs", 120, cluster.logs)
        cluster.workers["two"].kill()
        cluster.worker("three", cpus=1)
        cluster.wait_for_ray(cluster.workers["three"])
        before = epochs()
        wait_for(lambda: epochs() >= before + 2, "epochs after the loss", 60, cluster.logs)
        cluster.workers["one"].cut_off()
    finally:
        driver.join(400)
    assert done and done[0].returncode == 0, f"{done}\n{cluster.logs()}"
    trials = json.loads(cluster.ssl_tune("trials", "across", "--json").stdout)
    assert [t["trial"] for t in trials] == [str(n) for n in range(TRIALS)]
    assert {t["state"] for t in trials} <= {"completed", "stopped_early"}, trials
    check_tracking(cluster, "across", trials)


def check_tracking(cluster: Cluster, study: str, trials: list[dict[str, Any]]) -> None:
    """Each trial is one run of the server, with every epoch once."""
    code = """
import json, sys
from mlflow.tracking import MlflowClient
from tune.tracking.uri import take_login
take_login()
client = MlflowClient()
runs = client.search_runs([e.experiment_id for e in client.search_experiments()],
                          f"tags.`ssl.study` = '{sys.argv[1]}'")
print(json.dumps([[r.info.run_name, r.info.status, r.data.tags.get("ssl.stop_reason"),
                   [m.step for m in client.get_metric_history(r.info.run_id, "val/error")],
                   [f.path for f in client.list_artifacts(r.info.run_id)]] for r in runs]))
"""
    rows = json.loads(cluster.head.run("python", "-c", code, study).stdout)
    assert sorted(r[0] for r in rows) == sorted([study, *(f"trial {t['trial']}" for t in trials)])
    by_name = {name: rest for name, *rest in rows}
    for trial in trials:
        status, reason, steps, artifacts = by_name[f"trial {trial['trial']}"]
        stopped = trial["state"] == "stopped_early"
        assert (status, reason) == ("KILLED" if stopped else "FINISHED", trial["stop_reason"])
        assert sorted(steps) == list(range(1, trial["epoch"] + 1))
        assert "config.yaml" in artifacts


# Machines that do not fit, and secrets: last, since a machine that does not fit spoils the cluster


@pytest.mark.long
def test_a_machine_that_does_not_fit_is_found_before_the_first_trial(
    cluster: Cluster, tmp_path: Path
) -> None:
    apart = cluster.home / "studies"
    other = cluster.net.folder / "home-two"
    fake = cluster.net.folder / "fake" / "torch-0.0.1.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.0.1\n")
    odd = cluster.worker("odd", cpus=1, hidden=apart, pythonpath=fake.parent)
    cluster.wait_for_ray(odd)

    for home, code, says in (
        (cluster.home, Exit.STORAGE, "storage is not shared: odd does not see"),
        (other, Exit.USAGE, "odd has torch 0.0.1, the driver"),
    ):
        done = cluster.ssl_tune(
            "search", "--address", cluster.address, "--home", str(home), "--name", "bad", *TINY, check=False
        )
        assert done.returncode == code and says in done.stderr, done
        assert not (home / "studies" / "bad").exists()


def test_no_secret_is_in_a_log_a_study_mlflow_or_a_command_line(cluster: Cluster) -> None:
    secrets = {p.name: p.read_text().encode() for p in cluster.secrets.iterdir()}
    assert len(secrets) == 4
    searched = 0
    for path in cluster.net.folder.rglob("*"):
        if path.parent == cluster.secrets or not path.is_file():
            continue
        content = path.read_bytes()
        searched += 1
        for name, secret in secrets.items():
            assert secret not in content, (name, path)
    assert searched > 100
    lines = b"".join(p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
    assert b"mlflow" in lines and not [name for name, secret in secrets.items() if secret in lines]
