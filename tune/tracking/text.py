"""What tracking writes about a run, as text: parameters, the headline of a failure, the data set."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping

from tune.definition.inputs import place_of
from tune.definition.spec import StudySpec

MAX_PARAM_LENGTH = 6000
SHORTENED = "… [shortened, whole in config.yaml]"
_CIFAR = "https://www.cs.toronto.edu/~kriz/{}-python.tar.gz"


def flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as dotted names, in order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def parameter_text(value: object) -> str:
    """A parameter as MLflow takes it."""
    text = json.dumps(value, default=str) if isinstance(value, (list, tuple)) else str(value)
    if len(text) <= MAX_PARAM_LENGTH:
        return text
    return text[: MAX_PARAM_LENGTH - len(SHORTENED)] + SHORTENED


def headline(traceback: str) -> str:
    """The line of a traceback that says what happened: its last one."""
    lines = traceback.strip().splitlines()
    return lines[-1].strip()[:500] if lines else ""


def user() -> str:
    """Who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def dataset_input(tag: str, dataset: str, *, labelled: int, valid: int) -> dict[str, str]:
    """A data set as MLflow's dataset input, less its digest: that is the run's split hash.

    Args:
        tag: its short name, such as "cifar10".
        dataset: as configured: digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE.
        labelled, valid: images of the split.

    Returns:
        name, source_type and source in the forms that `mlflow.data.get_source` reads, and the profile.
    """
    source_type: str
    source: dict[str, object]
    place = place_of(dataset)
    if place is not None:
        source_type, source = "local", {"uri": str(place)}
    elif dataset.startswith("cifar"):
        archive = {"cifar10": "cifar-10", "cifar100": "cifar-100"}[dataset]
        source_type, source = "http", {"url": _CIFAR.format(archive)}
    elif dataset in ("svhn", "stl10"):
        name = f"torchvision.datasets.{dataset.upper()}"
        source_type, source = "code", {"tags": {"mlflow.source.name": name}}
    else:
        source_type, source = "code", {"tags": {"mlflow.source.name": "sklearn.datasets.load_digits"}}
    profile = {"labelled images": labelled, "validation images": valid}
    return {
        "name": tag,
        "source_type": source_type,
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def study_parameters(spec: StudySpec) -> dict[str, object]:
    """What all trials share: the searched parameters are the trials' own."""
    names = ["trials", "concurrent", "sampler", "objective", "seed", "max_failures"]
    names += ["folds"] if spec.folds > 1 else []
    document = spec.model_dump(mode="json")
    searched = {p.name for p in spec.search_space().parameters} | {"warmup_epochs"}
    method = spec.config["method"]
    own = {f"{method}.{k}": v for k, v in spec.config.get(method, {}).items()}
    fixed = {
        k: v for k, v in {**spec.config, **own}.items() if k not in searched | {method, "method", "seed"}
    }
    return {
        **{name: document[name] for name in names},
        "space": spec.space.source,
        **fixed,
    }
