"""What a study is asked to do, as its ``study.yaml`` keeps it. Loads neither torch, Ray nor MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from search_spaces import SearchSpace, load_yaml, parse_space
from ssl_core import method_file
from ssl_core.config import RunConfig, Section, from_document, parameter_names
from ssl_core.methods import get_method
from ssl_core.system.errors import ConfigError, unknown

STUDY_FILE = "study.yaml"
REDUCTION_FACTOR = 3  # ASHA's eta: a third of a rung goes on (Li et al. 2020 take 3 or 4)


class SpaceSource(Section):
    """A study's own copy of its search space."""

    source: str
    variant: str
    digest: str
    text: str
    fixed_by_set: tuple[str, ...] = Field((), strict=False)


@lru_cache(maxsize=8)
def _space(
    text: str, where: str, method: str, digest: str | None, variant: str, fixed: tuple[str, ...]
) -> SearchSpace:
    """Every trial asks for it, and YAML takes its time."""
    return without(parse_space(text, where=where, method=method, digest=digest, variant=variant), fixed)


class StudySpec(Section):
    """A study as it was resolved when it was created; `resume` goes on with exactly this.

    `address` is the Ray cluster that it runs on, None for the machine that it is started on; with `elastic`, as many
    trials run side by side as the cluster can hold at the time.
    `method_path` is where the file of a user's own method lay; the study goes on with the copy in its own folder.
    """

    name: str
    config: dict[str, Any]
    method_path: str | None = None
    space: SpaceSource
    trials: int = Field(ge=1, le=1_000_000)
    concurrent: int = Field(ge=1, le=10_000)
    gpus_per_trial: float = Field(ge=0, le=64)
    sampler: Literal["tpe", "random", "gp", "grid"]
    seed: int = Field(ge=0, lt=2**31)
    max_failures: int = Field(ge=0, le=1000)
    time_budget: float | None = Field(gt=0)
    tracking_uri: str
    tracking_timeout: float = Field(ge=0)
    require_tracking: bool = False
    system_metrics: bool = False
    data_root: str | None
    address: str | None = None
    elastic: bool = False
    created: str
    uid: str = ""
    startup_trials: int | None = Field(None, ge=0, le=1_000_000)
    points: tuple[dict[str, Any], ...] = Field((), strict=False)
    warm_start: str | None = None
    storage: str | None = None
    split_hash: str | None = None
    fingerprint: dict[str, str] | None = None

    def base_config(self) -> RunConfig:
        """The configuration that all trials share, before the searched values are filled in."""
        return from_document(self.config, where=f"study {self.name}")

    def search_space(self) -> SearchSpace:
        """The space, read from the study's own copy; parameters fixed by --set are left out of it."""
        return _space(
            self.space.text,
            f"study {self.name}",
            self.config["method"],
            self.config.get("method_digest"),
            self.space.variant,
            self.space.fixed_by_set,
        )

    def trial_config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial with these values of the searched parameters."""
        base = self.base_config()
        assert base.epochs is not None
        overrides = self.search_space().resolve(values, base.epochs)
        return from_document(with_overrides(self.config, overrides), where=f"study {self.name}")

    @property
    def dataset_tag(self) -> str:
        """The data set's short name: of a folder, its last part."""
        return dataset_tag(self.config["dataset"])

    @property
    def experiment(self) -> str:
        """The MLflow experiment: one for each data set and label setting, such as ``cifar10@4000``."""
        return f"{self.dataset_tag}@{self.config['labels']}"


def dataset_tag(dataset: str) -> str:
    """``cifar10`` of ``cifar10``, and of ``folder:/data/cifar10``; fit to begin a study's name."""
    tail = dataset.removeprefix("folder:").rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._+-]", "-", tail).lstrip("._+-")[:40] or "data"


def without(space: SearchSpace, names: Sequence[str]) -> SearchSpace:
    """A space less some parameters; fixing the warm-up's length removes it in either unit."""
    import dataclasses

    gone = set(names) | ({"warmup_share", "warmup_epochs"} if "warmup_epochs" in names else set())
    kept = tuple(p for p in space.parameters if p.name not in gone)
    if not kept:
        raise ConfigError(
            f"every parameter of the space {space.source} is fixed by --set: nothing is left to search."
        )
    baseline = {k: v for k, v in space.baseline.items() if k not in gone}
    return dataclasses.replace(space, parameters=kept, baseline=baseline)


def with_overrides(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration document with some dotted names set: ``{"vat.eps": 4}`` sets eps in the section vat."""
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    for name, value in overrides.items():
        place = result
        *sections, key = name.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return result


def parse_sets(assignments: Sequence[str], method: str, digest: str | None = None) -> dict[str, Any]:
    """``["vat.eps=4", "lr=1e-2"]`` as dotted names and values, for a method as `get_method` takes it.

    Raises:
        ConfigError: an assignment without "=", or a name that the method does not have.
    """
    known = parameter_names(get_method(method, digest))
    result = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write it as name=value, for example --set lr=0.01.")
        if name not in known:
            raise unknown("parameter", name, known, where="--set")
        result[name] = load_yaml(text, f"--set {assignment!r}")
    return result


def read_text(path: Path, option: str) -> str:
    """The text of a file that an option names.

    Raises:
        ConfigError: a file that is no text, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            f"{option} {path}: this is not a text file in UTF-8. A YAML file is expected."
        ) from None
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be read: {error.strerror}.") from None


def read_spec(folder: Path) -> StudySpec:
    """The specification in a study's folder; a method of the user's own is loaded from the folder's copy.

    Raises:
        ConfigError: if the file is damaged, or the method's copy.
    """
    path = folder / STUDY_FILE
    document = load_yaml(path.read_text(), str(path))
    try:
        spec = StudySpec.model_validate(document)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(
            f"{path} is damaged: {place}: {problem['msg']}. Restore it from a backup, or start a new study."
        ) from None
    if digest := spec.config.get("method_digest"):
        method_file.load_kept(folder, spec.config["method"], digest)
    return spec


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str, option: str) -> float:
    """Seconds of ``90``, ``90s``, ``15m``, ``2h`` or ``1h30m``.

    Raises:
        ConfigError: anything else.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        return sum(float(n) * _UNITS[u] for n, _, u in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    raise ConfigError(f"{option} {text!r}: write a time such as 90s, 15m, 2h or 1h30m.")
