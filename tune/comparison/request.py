"""What a person can ask of a comparison: methods, and the options of a search that all of its studies take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from search_spaces import load_yaml
from ssl_core import method_file
from ssl_core.config import parameter_names
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError, unknown
from tune.definition.objective import BOTH, told
from tune.definition.option import Option, key_of
from tune.definition.request import SearchRequest

BASELINE = "supervised"
LEFT_OUT = ("method", "preset", "points", "warm_start", "with_baseline")
"""Options of a search that a comparison does not take: they are of one method, or ask for what it is."""


def _listed(value: object) -> object:
    """Methods of ``a,b,c``, or of a list."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ConfigError(
            f"methods = {value!r}: names with commas between them are expected, such as pseudo_label,vat."
        )
    return tuple(word.strip() for word in words if word.strip())


class CompareRequest(SearchRequest):
    """What `ssl-tune compare` takes: the options of a search, each for all of the methods.

    `trials` is the number of each method. With `epochs_budget` the methods share so many epochs of training, and
    `trials`, where it is given too, bounds each. With `race` those that cannot win any more get no more of them; the
    studies go by an error then.

    Raises:
        ConfigError: a value that cannot be; says which, and what is accepted.
    """

    methods: Annotated[
        tuple[str, ...],
        BeforeValidator(_listed),
        Option(baseline="it is one of them", metavar="A,B,...", typed=str),
    ] = Field((), description="The methods to compare; supervised always takes part", strict=False)
    confirm_seeds: Annotated[int | None, Option(baseline="it takes part", metavar="N")] = Field(
        5,
        ge=0,
        description="Then train the best of each method on N fresh seeds, and read the test set; 0: do not",
    )

    race: Annotated[bool, Option(baseline="it never leaves the race")] = Field(
        False,
        description="Hand the epochs of methods that cannot win any more to the others; needs --epochs-budget",
    )

    def __init__(self, **values: Any) -> None:
        for name in LEFT_OUT:
            if name in values:
                raise ConfigError(
                    f"{key_of(SearchRequest, name)} is no option of a comparison: it belongs to the search of one "
                    "method."
                )
        if values.get("race") and values.get("objective", BOTH) == BOTH:
            values["objective"] = told(BOTH)  # it is validation images that say how far apart two methods are
        super().__init__(**values)

    def check(self) -> None:
        """Refuse methods that cannot be compared, and settings and spaces that are none of theirs.

        Raises:
            ConfigError: names the value, and what is accepted.
        """
        _check_methods(self.methods)
        parse_shared_sets([f"{name}=0" for name in self.settings], self.all_methods())
        if self.space not in (None, "wide"):
            raise ConfigError(
                f"space = {self.space!r}: a comparison takes each method's own space, or with wide its wide one."
            )
        self._check_race()

    def _check_race(self) -> None:
        if self.epochs_budget is not None and self.epochs_budget < (count := len(self.all_methods())):
            raise ConfigError(
                f"epochs_budget = {self.epochs_budget}: {count} methods share it, supervised among them, and each "
                f"needs an epoch. Give at least {count}, better the epochs of some whole trials."
            )
        if self.race and self.epochs_budget is None:
            raise ConfigError(
                "race: what it shares out is a number of epochs. Give one for all methods together, such as "
                "--epochs-budget 600."
            )
        if self.race and self.objective == "val/loss":
            raise ConfigError(
                "race: it judges by errors on validation images, and objective = 'val/loss' is none. Take val/error "
                "or val/error_balanced."
            )

    @property
    def trials_each(self) -> int:
        """The most trials of a method: where only a number of epochs is given, as many, since a trial takes one."""
        if self.epochs_budget is not None and "trials" not in self.model_fields_set:
            return min(1_000_000, self.epochs_budget)
        return self.trials

    def all_methods(self) -> tuple[str, ...]:
        """The methods that take part, the baseline first."""
        others = [method for method in self.methods if method != BASELINE]
        return (BASELINE, *others)

    def of(self, method: str, name: str) -> SearchRequest:
        """The search of one of the methods, as the study `name`.

        Settings that the method does not have are left out of it: they belong to another.
        """
        known = parameter_names(get_method(method))
        left_out = {*LEFT_OUT, "confirm_seeds", "settings", "name", "trials"}
        values = {n: getattr(self, n) for n in SearchRequest.model_fields if n not in left_out}
        settings = {key: value for key, value in self.settings.items() if key in known}
        seeds = self.confirm_seeds or None
        values |= {"confirm_seeds": seeds, "trials": self.trials_each}
        return SearchRequest(method=method, name=name, settings=settings, **values)


def _check_methods(methods: Sequence[str]) -> None:
    if not methods:
        raise ConfigError(
            "methods is missing: name those to compare, such as --methods pseudo_label,vat,fixmatch."
        )
    if twice := sorted({method for method in methods if methods.count(method) > 1}):
        raise ConfigError(f"methods names {twice[0]!r} twice: each takes part once.")
    if set(methods) == {BASELINE}:
        raise ConfigError("methods names supervised alone: there is nothing to compare it with.")
    for method in methods:
        get_method(method)  # says which there are


def short_name(method: str) -> str:
    """A method's name as part of a study's: of ``file:my_method.py`` the name of the file."""
    return method_file.path_of(method).stem if method.startswith(method_file.PREFIX) else method


def parse_shared_sets(assignments: Sequence[str], methods: Iterable[str]) -> dict[str, Any]:
    """``["vat.eps=4", "lr=1e-2"]`` as dotted names and values, each known to one of the methods at least.

    Raises:
        ConfigError: an assignment without "=", or a name that none of the methods has.
    """
    known = set[str]().union(*(parameter_names(get_method(method)) for method in methods))
    result: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write it as name=value, for example --set lr=0.01.")
        if name not in known:
            raise unknown("parameter", name, known, where="--set")
        result[name] = load_yaml(text, f"--set {assignment!r}")
    return result
