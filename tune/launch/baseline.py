"""The tuned supervised baseline: a study of its own, of the same setting and with as many trials.

A method that was tuned is not compared with a baseline that was not. The baseline's study searches what its
own space holds (learning rate and weight decay); whatever else is common to all methods is the method's
study's own. It is called ``<dataset>@<labels>-supervised``, and one that is there is used again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ssl_core.config import RunConfig, common_fields
from ssl_core.system.errors import ConfigError
from tune.definition.option import INHERITED, option_of
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec
from tune.findings.study import Study, studies_of
from tune.launch.request import Places, resolve_request
from tune.store.home import Home

METHOD = "supervised"
_OWN_OPTION = {*SearchRequest.model_fields, "warmup_epochs", "stop_after_epoch"}
_MACHINE = {"threads", "eval_batch_size"}  # another number of trials side by side is no other setting


def baseline_request(spec: StudySpec) -> SearchRequest:
    """The search of the supervised baseline of a study.

    Each field of the request says whether the study's value is taken over. A study that takes as many places as the
    cluster has at the time has a baseline that does so, too.
    """
    fields = SearchRequest.model_fields
    inherited = [name for name in fields if option_of(SearchRequest, name).baseline == INHERITED]
    values = {
        name: spec.config[name] if name in RunConfig.model_fields else getattr(spec, name)
        for name in inherited
    }
    if spec.elastic:
        values["concurrent"] = None
    fixed = {
        name: _value(spec.config, name)
        for name in common_fields() - _OWN_OPTION
        if _has(
            spec.config, name
        )  # a field at its default may be absent, as in studies from before it existed
    }
    searched = {"lr", "weight_decay"} - set(spec.space.fixed_by_set)
    settings = {k: v for k, v in fixed.items() if v is not None and k not in searched}
    return SearchRequest(method=METHOD, settings=settings, **values)


def _has(config: Mapping[str, Any], name: str) -> bool:
    section, dot, key = name.partition(".")
    return not dot or key in config.get(section, {})


def _value(config: Mapping[str, Any], name: str) -> Any:
    section, dot, key = name.partition(".")
    return config[section][key] if dot else config.get(name)


def check_can_be_tuned(spec: StudySpec, home: Home) -> None:
    """Refuse, before anything runs, a search whose baseline could not be tuned.

    Raises:
        ConfigError: a supervised search, or one that fixes learning rate and weight decay.
    """
    refuse_supervised(spec)
    wanted_baseline(spec, home)


def refuse_supervised(spec: StudySpec) -> None:
    """Raise a ConfigError where the study's own method is the baseline's."""
    if spec.config["method"] == METHOD:
        raise ConfigError(
            f"{spec.name} is supervised itself: it needs no baseline. Leave --with-baseline out."
        )


def find_baseline(spec: StudySpec, home: Home) -> Study | None:
    """A study that is, or will be once it has run, the tuned baseline of another; None where there is none.

    The same setting, the same space, at least as many trials; of several the one with most.
    """
    wanted = wanted_baseline(spec, home)
    studies, left_out = studies_of(home)
    for name, error in left_out.items():
        warnings.warn(f"{name} is left out of the search for a baseline: {error}", stacklevel=2)
    found = [
        study
        for study in studies
        if study.spec.config["method"] == METHOD and not differences(study.spec, wanted, spec.split_hash)
    ]
    return max(found, key=lambda s: (s.spec.trials, s.name), default=None)


def differences(candidate: StudySpec, wanted: StudySpec, split_hash: str | None) -> list[str]:
    """In what a supervised study is not the baseline that is wanted."""
    searched = {p.name for p in wanted.search_space().parameters}
    ignored = searched | _MACHINE | {"warmup_epochs"}
    mine, theirs = (
        s.base_config().document() for s in (candidate, wanted)
    )  # an earlier version knew fewer fields
    words = [k for k in mine.keys() | theirs.keys() if k not in ignored and mine.get(k) != theirs.get(k)]
    if candidate.space.digest != wanted.space.digest:
        words.append("space")
    words += [name for name in ("objective", "folds") if getattr(candidate, name) != getattr(wanted, name)]
    if candidate.trials < wanted.trials:
        words.append("trials")
    if None not in (candidate.split_hash, split_hash) and candidate.split_hash != split_hash:
        words.append("split")
    return sorted(words)


def wanted_baseline(spec: StudySpec, home: Home) -> StudySpec:
    """The specification of the baseline's study, under a name that is free; its trials take the same places."""
    places = Places(spec.concurrent, int(spec.config["threads"]), spec.gpus_per_trial)
    try:
        return resolve_request(baseline_request(spec), home, places=places)
    except ConfigError as error:
        raise ConfigError(f"the tuned baseline of {spec.name}: {error}") from None
