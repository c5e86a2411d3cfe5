"""The image, Compose, Kubernetes and `ray up` files: against published schemas, a linter, and what they name."""

from __future__ import annotations

import functools
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing
import yaml

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
ENTRY = DOCKER / "entry"
SCRIPTS = {path.stem: path.read_text() for path in ENTRY.glob("*.sh")}
ROLES = ("mlflow", "ray-head", "ray-worker", "driver")
OFFICIAL = {"PGDATA"}  # of PostgreSQL itself
OWN = re.compile(r"\b(?:RAY|MLFLOW|POSTGRES|SSL_TUNE)_[A-Z_]+\b")


def read(name: str) -> Any:
    return yaml.safe_load((DOCKER / name).read_text())


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text()))


# Published schemas and linters


@pytest.mark.parametrize("name", ["compose.yaml", "compose.dashboard.yaml"])
def test_compose_follows_the_compose_specification(name: str) -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = jsonschema.Draft202012Validator(json.loads(schema.read_text()))
    document = read(name)
    assert not list(validator.iter_errors(document))
    document["services"]["ray-head"]["prots"] = []  # the schema looks closely
    assert list(validator.iter_errors(document))


def kubernetes() -> dict[str, Any]:
    """Kubernetes' own definitions, without fields that it does not have."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema"
    versions = (p.name for p in folder.iterdir() if p.name.endswith("-local-strict"))
    newest = max(versions, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    definitions: dict[str, Any] = json.loads((folder / newest / "_definitions.json").read_text())
    return definitions


@functools.cache
def validators() -> dict[str, jsonschema.Draft202012Validator]:
    definitions, ray = kubernetes(), json.loads((Path(__file__).parent / "kuberay.json").read_text())
    draft = referencing.jsonschema.DRAFT202012
    registry = referencing.Registry().with_resources(
        [
            ("kubernetes", draft.create_resource(definitions)),
            ("kuberay", draft.create_resource(ray)),
        ]
    )
    kinds: dict[str, dict[str, Any]] = {k: {"$ref": f"kuberay#/{k}"} for k in ("RayCluster", "RayJob")}
    for name in definitions["$defs"]:
        if re.fullmatch(r"io\.k8s\.api\.(core|apps|networking)\.v1\.[A-Z]\w+", name):
            kinds.setdefault(name.rpartition(".")[2], {"$ref": f"kubernetes#/$defs/{name}"})
    return {k: jsonschema.Draft202012Validator(schema, registry=registry) for k, schema in kinds.items()}


def test_every_manifest_has_only_fields_that_kubernetes_and_kuberay_know() -> None:
    by_kind = validators()
    seen = set()
    for document in manifests():
        seen.add(document["kind"])
        found = [f"{e.json_path}: {e.message[:200]}" for e in by_kind[document["kind"]].iter_errors(document)]
        assert not found, (document["kind"], found)
    assert {"RayCluster", "RayJob", "Deployment", "StatefulSet", "Service", "NetworkPolicy"} <= seen


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", ["spec", "headGroup"], {}),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "replicas"], "two"),
        ("RayCluster", ["spec", "headGroupSpec", "template", "spec", "container"], []),
        ("RayJob", ["spec", "submissionMode"], "ByHand"),
        ("Deployment", ["spec", "template", "spec", "containers", 0, "imagePolicy"], "Always"),
    ],
)
def test_a_wrong_field_in_a_manifest_is_noticed(kind: str, path: list[Any], value: object) -> None:
    document = next(d for d in manifests() if d["kind"] == kind)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not validators()[kind].is_valid(document)


def test_ray_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    document = read("cluster.yaml")
    validate_config(prepare_config(document))
    del document["provider"]["head_ip"]
    with pytest.raises(Exception, match="head_ip"):
        validate_config(prepare_config(document))


def test_no_machine_that_only_trains_gets_a_login_of_mlflow() -> None:
    cluster = next(d for d in manifests() if d["kind"] == "RayCluster")["spec"]
    for group in cluster["workerGroupSpecs"]:
        assert "secret" not in json.dumps(group).lower() and "MLFLOW" not in json.dumps(group), group[
            "groupName"
        ]
        assert {v["name"] for v in group["template"]["spec"]["volumes"]} == {"state", "shm"}
    assert "mlflow_password" in json.dumps(cluster["headGroupSpec"])
    docker = read("cluster.yaml")["docker"]
    assert [o for o in docker["run_options"] if "secrets" in o] == [
        "--volume=/srv/ssl-tune/secrets/ray_token:/run/secrets/ray_token:ro",
        "--env=RAY_TOKEN_FILE=/run/secrets/ray_token",
    ]
    assert any("mlflow_password" in option for option in docker["head_run_options"])
    services = read("compose.yaml")["services"]
    assert services["ray-worker"]["secrets"] == services["ray-worker-gpu"]["secrets"] == ["ray_token"]


def test_the_cluster_on_kubernetes_grows_with_what_waits() -> None:
    cluster = next(d for d in manifests() if d["kind"] == "RayCluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["minReplicas"] == 0 < group["maxReplicas"] for group in cluster["workerGroupSpecs"])


def test_the_dockerfile_passes_hadolint(tmp_path: Path) -> None:
    hadolint = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run(
        [hadolint, "--no-color", str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
    assert subprocess.run([hadolint, str(bad)], capture_output=True, check=False).returncode != 0


def test_the_image_is_pinned_has_no_secret_and_is_not_run_by_root() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-", text, re.MULTILINE)
    assert "--constraint constraints.txt" in text
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER \$\{UID\}$", final, re.MULTILINE) and "ARG UID=1000" in final
    assert "HEALTHCHECK" in final
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
        *("ssl_core", "search_spaces", "tune", "docker/entry"),
    }
    assert all((ROOT / name).exists() for name in names)
    assert "docker/secrets" in (ROOT / ".dockerignore").read_text().split()
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().split()


# What the files name exists


def variables_of(environment: Any) -> set[str]:
    return set(environment) if isinstance(environment, dict) else {item["name"] for item in environment}


def pods() -> Iterator[dict[str, Any]]:
    for document in manifests():
        spec = document.get("spec", {})
        templates = [
            spec.get("template"),
            spec.get("submitterPodTemplate"),
            spec.get("headGroupSpec", {}).get("template"),
        ]
        templates += [group["template"] for group in spec.get("workerGroupSpecs", [])]
        yield from (t["spec"] for t in templates if t)


def test_every_variable_is_read_by_the_entry_points_or_the_command() -> None:
    known = set(OWN.findall("\n".join(SCRIPTS.values()))) | OFFICIAL
    for path in (ROOT / "tune").rglob("*.py"):
        known |= set(OWN.findall(path.read_text()))
    known |= {"MLFLOW_TRACKING_USERNAME", "RAY_API_SERVER_ADDRESS"}  # MLflow's and Ray's own
    named = set()
    for service in read("compose.yaml")["services"].values():
        named |= variables_of(service.get("environment", {}))
    for pod in pods():
        for container in pod["containers"]:
            named |= variables_of(container.get("env", []))
    named |= set(re.findall(r"--env=([A-Z_]+)=", (DOCKER / "cluster.yaml").read_text()))
    assert len(named) > 15
    assert named <= known, named - known


def test_every_variable_that_an_entry_point_reads_is_explained_at_its_head() -> None:
    for name in ("mlflow", "postgres", "ray-head", "ray-worker", "driver"):
        text = SCRIPTS[name]
        head = text.partition("set -euo pipefail")[0]
        exported = set(re.findall(r"\b([A-Z_]+)=", text))
        read_there = {v for v in OWN.findall(text.partition("set -euo pipefail")[2]) if f"${{{v}:" in text}
        missing = {v for v in read_there if v not in head} - exported - {"RAY_NODE_IP", "SSL_TUNE_ROLE_FILE"}
        assert not missing, (name, missing)


def test_every_command_and_path_exists() -> None:
    compose = read("compose.yaml")["services"]
    for name, service in compose.items():
        if name == "postgres":
            assert (ENTRY / Path(service["entrypoint"][0]).name).is_file()
            continue
        assert service.get("command", ["driver"])[0] in ROLES
        assert f"{service.get('command', ['driver'])[0]}" in SCRIPTS
    for role in ROLES:
        assert re.search(rf"(^|\| ){role}\b", SCRIPTS["entry"], re.MULTILINE), role
    for text in ((DOCKER / n).read_text() for n in ("kuberay.yaml", "cluster.yaml", "Dockerfile")):
        for path in re.findall(r"/opt/ssl-tune/entry/([\w.-]+)", text) + re.findall(
            r"/entry/([\w-]+\.sh)", text
        ):
            assert (ENTRY / path).is_file(), path
    for path in [*ENTRY.glob("*.sh"), DOCKER / "make-secrets.sh"]:
        assert path.name == "common.sh" or path.stat().st_mode & stat.S_IXUSR, path
        subprocess.run(["bash", "-n", path], check=True)


def test_secrets_are_files_without_a_default_and_each_is_made_by_the_script(tmp_path: Path) -> None:
    subprocess.run([DOCKER / "make-secrets.sh", tmp_path / "s"], check=True, capture_output=True)
    made = {path.name for path in (tmp_path / "s").iterdir()}
    compose = read("compose.yaml")
    assert {Path(s["file"]).name for s in compose["secrets"].values()} == made == set(compose["secrets"])
    assert all(set(s) == {"file"} for s in compose["secrets"].values())
    for service in compose["services"].values():
        for name, value in (service.get("environment") or {}).items():
            if "/run/secrets/" in str(value):
                assert Path(value).name in service["secrets"], name
            assert not re.search(r"(PASSWORD|TOKEN|KEY)$", name), name  # only files of them are named
    for pod in pods():
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if "secrets" in variable.get("value", ""):
                    assert Path(variable["value"]).name in made
    words = [(tmp_path / "s" / name).read_text() for name in made]
    assert len(set(words)) == 4 and all(len(word) == 64 for word in words)
    assert all((tmp_path / "s" / name).stat().st_mode & 0o077 == 0 for name in made)
    before = dict(zip(made, words, strict=True))
    subprocess.run([DOCKER / "make-secrets.sh", tmp_path / "s"], check=True, capture_output=True)
    assert {name: (tmp_path / "s" / name).read_text() for name in made} == before


def test_only_mlflow_is_published_and_on_loopback() -> None:
    services = read("compose.yaml")["services"]
    published = {name: s["ports"] for name, s in services.items() if s.get("ports")}
    assert published == {"mlflow": ["${SSL_TUNE_BIND:-127.0.0.1}:${MLFLOW_PUBLISHED_PORT:-5000}:5000"]}
    dashboard = read("compose.dashboard.yaml")["services"]
    assert dashboard == {
        "ray-head": {"ports": ["${SSL_TUNE_BIND:-127.0.0.1}:${RAY_PUBLISHED_PORT:-8265}:8265"]}
    }
    for document in manifests():
        if document["kind"] == "Service":
            assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
    assert read("compose.yaml")["networks"]["database"] == {"internal": True}


def test_ports_are_those_that_the_entry_points_listen_on() -> None:
    listened = {int(n) for n in re.findall(r"(?:-port |:-)(\d{4,5})\b", "\n".join(SCRIPTS.values()))}
    named = set()
    for service in read("compose.yaml")["services"].values():
        named |= {int(p.rpartition(":")[2]) for p in service.get("ports", [])}
    for name in ("compose.yaml", "cluster.yaml", "kuberay.yaml"):
        text = (DOCKER / name).read_text()
        named |= {int(n) for n in re.findall(r"(?:[a-z]|\d|IP):(\d{4,5})\b", text)}
        named |= {int(n) for n in re.findall(r"[pP]ort: (\d+)", text)}
    assert {5000, 5432, 6379, 8265} <= named
    assert named <= listened, named - listened


# The entry points without their services


def run_entry(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [ENTRY / f"{name}.sh", *words],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "variable", "what"),
    [
        ("ray-head", "RAY_TOKEN_FILE", "Ray's token"),
        ("ray-worker", "RAY_TOKEN_FILE", "Ray's token"),
        ("mlflow", "MLFLOW_ADMIN_PASSWORD_FILE", "MLflow's password"),
    ],
)
def test_without_its_secret_a_service_does_not_start(
    tmp_path: Path, name: str, variable: str, what: str
) -> None:
    role = {"SSL_TUNE_ROLE_FILE": str(tmp_path / "role")}
    empty = tmp_path / "empty"
    empty.touch()
    for place in (tmp_path / "none", empty):
        done = run_entry(name, **role, **{variable: str(place)})
        assert done.returncode == 1
        assert f"{what} is missing" in done.stderr and "make-secrets.sh" in done.stderr
    assert not (tmp_path / "role").exists()
