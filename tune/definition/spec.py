"""What a study is asked to do, as its ``study.yaml`` keeps it. Loads neither torch, Ray nor MLflow."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ssl_core.config import RunConfig, Section, from_document
from ssl_core.system.errors import ConfigError
from tune.definition.inputs import place_of, with_overrides
from tune.definition.objective import DEFAULT
from tune.definition.request import KeptOptions

if TYPE_CHECKING:
    from search_spaces import SearchSpace

_ALWAYS_KEPT = (
    "trials",
    "sampler",
    "seed",
    "max_failures",
    "time_budget",
    "tracking_timeout",
    "data_root",
)  # options that every study was created with, also in the first version
REDUCTION_FACTOR = (
    3  # ASHA's eta where nothing is said: a third of a rung goes on (Li et al. 2020 take 3 or 4)
)


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
    from search_spaces import parse_space  # loads Optuna

    return without(parse_space(text, where=where, method=method, digest=digest, variant=variant), fixed)


class _Head(Section):
    """What stands first in ``study.yaml``."""

    name: str
    config: dict[str, Any]
    method_path: str | None = None
    space: SpaceSource


_EARLIER = {"objective": DEFAULT}
"""What studies had that were made before one could choose, where new studies have another default."""


class StudySpec(KeptOptions, _Head):
    """A study as it was resolved when it was created; `resume` goes on with exactly this.

    `KeptOptions` are the options that the study keeps as they were asked for.
    `address` is the Ray cluster that it runs on, None for the machine that it is started on; with `elastic`, as many
    trials run side by side as the cluster can hold at the time.
    `protocol` says what plays the unlabelled images: images without a label, or images whose labels are hidden.
    `label` names the data set in MLflow; None in studies made before folders of one name were told apart.
    `grid_levels` are those of each range of ``--sampler grid``; None in studies made before they were kept.
    `no_work_twice`: a configuration whose bits are known is not trained again; studies made before that go on as they
    were.
    `split_hash` is that of the study's split, and `fold_hashes` are those of its further divisions (`--folds`); empty
    until the data have been read.
    `method_path` is where the file of a user's own method lay; the study goes on with the copy in its own folder.
    """

    concurrent: int = Field(ge=1, le=10_000)
    gpus_per_trial: float = Field(ge=0, le=64)
    tracking_uri: str
    elastic: bool = False
    created: str
    uid: str = ""
    points: tuple[dict[str, Any], ...] = Field((), strict=False)
    grid_levels: int | None = None
    no_work_twice: bool = False
    split_hash: str | None = None
    fold_hashes: tuple[str, ...] = Field((), strict=False)
    fingerprint: dict[str, str] | None = None
    protocol: Literal["real", "simulated"] = "simulated"
    label: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_whole(cls, document: object) -> object:
        """A study that lacks one of these is damaged: the default of a new study is not what it was created with."""
        if isinstance(document, Mapping):
            for name in _ALWAYS_KEPT:
                if name not in document:
                    raise ValueError(f"{name} is missing")
            return {**_EARLIER, **document}
        return document

    @property
    def ends_by_epochs(self) -> bool:
        """Whether its budget of epochs ends the study, not its number of trials: a trial takes an epoch at least."""
        return self.epochs_budget is not None and self.trials >= self.epochs_budget

    @property
    def out_of(self) -> str:
        """What is written behind a number of trials: ``/16``; nothing where their number does not end the study."""
        return "" if self.ends_by_epochs else f"/{self.trials}"

    @property
    def full_epochs(self) -> int:
        """Epochs of a trial that trains all of its folds."""
        return self.folds * int(self.config["epochs"])

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
        """The data set's short name: of a folder, its last part and some digits that tell it from others."""
        return self.label or dataset_tag(self.config["dataset"])

    @property
    def experiment(self) -> str:
        """The MLflow experiment: one for each data set and label setting, such as ``cifar10@4000``."""
        return f"{self.dataset_tag}@{self.config['labels']}"


def dataset_tag(dataset: str) -> str:
    """``cifar10`` of ``cifar10``, ``folder:/data/cifar10`` and ``table:/data/cifar10.csv``; fit to begin a name.

    Accents are left out, other letters outside ASCII become "-"; where nothing is left, ``data``.
    """
    plain = unicodedata.normalize("NFKD", _last_part(dataset))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._+-]", "-", plain).lstrip("._+-")[:40] or "data"


def dataset_label(dataset: str) -> str:
    """A data set's name in MLflow: ``cifar10``, of ``folder:/data/pets`` ``pets-`` and four digits of its place.

    Two folders of one name differ in the digits. Letters of any script stay.

    Args:
        dataset: its place is absolute.
    """
    place = place_of(dataset)
    if place is None:
        return dataset_tag(dataset)
    name = unicodedata.normalize("NFC", _last_part(dataset))
    name = re.sub(r"[^\w.+-]", "-", name).strip("._+-")[:40] or "data"
    digits = hashlib.sha256(str(place).encode("utf-8", "surrogateescape")).hexdigest()[:4]
    return f"{name}-{digits}"


def _last_part(dataset: str) -> str:
    place = place_of(dataset) or Path(dataset)
    return place.stem if dataset.startswith("table:") else place.name


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


def generator_seed(spec: StudySpec, purpose: str, number: int) -> int:
    """The seed of one ask (or of another purpose), from the study's seed and the trial's number alone.

    So a study that was interrupted asks on as if it had not been, and start-up points do not repeat.
    """
    digest = hashlib.blake2b(f"{spec.seed}/{purpose}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
