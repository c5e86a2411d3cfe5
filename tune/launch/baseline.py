"""The tuned supervised baseline: a study of its own, of the same setting and with as many trials.

A method that was tuned is not compared with a baseline that was not. The baseline's study searches what its
own space holds (learning rate and weight decay); whatever else is common to all methods is the method's
study's own. It is called ``<dataset>@<labels>-supervised``, and one that is there is used again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ssl_core.config import common_fields
from ssl_core.system.errors import ConfigError
from tune.definition.spec import StudySpec
from tune.engine.outcome import Outcome
from tune.engine.progress import Progress
from tune.findings.study import Study
from tune.launch.request import SearchRequest, resolve_request
from tune.launch.start import carry_on, start
from tune.store.home import Home

METHOD = "supervised"
_OWN_OPTION = {"dataset", "labels", "network", "epochs", "seed", "warmup_epochs", "stop_after_epoch"}
_MACHINE = {"threads", "eval_batch_size"}  # another number of trials side by side is no other setting


def baseline_request(spec: StudySpec) -> SearchRequest:
    """The search of the supervised baseline of a study."""
    settings = {name: _value(spec.config, name) for name in common_fields() - _OWN_OPTION - {"method"}}
    searched = {"lr", "weight_decay"} - set(spec.space.fixed_by_set)
    return SearchRequest(
        method=METHOD,
        dataset=spec.config["dataset"],
        labels=spec.config["labels"],
        network=spec.config["network"],
        epochs=spec.config["epochs"],
        trials=spec.trials,
        settings={k: v for k, v in settings.items() if v is not None and k not in searched},
        concurrent=spec.concurrent,
        gpus_per_trial=spec.gpus_per_trial,
        seed=spec.seed,
        sampler=spec.sampler,
        startup_trials=spec.startup_trials,
        storage=spec.storage,
        max_failures=spec.max_failures,
        tracking_uri=spec.tracking_uri,
        tracking_timeout=spec.tracking_timeout,
        system_metrics=spec.system_metrics,
        data_root=spec.data_root,
    )


def _value(config: Mapping[str, Any], name: str) -> Any:
    section, dot, key = name.partition(".")
    return config[section][key] if dot else config.get(name)


def check_can_be_tuned(request: SearchRequest, home: Home) -> None:
    """Refuse, before anything runs, a search whose baseline could not be tuned.

    Raises:
        ConfigError: a supervised search, or one that fixes learning rate and weight decay.
    """
    spec = resolve_request(request, home)
    _refuse_supervised(spec)
    _wanted(spec, home)


def _refuse_supervised(spec: StudySpec) -> None:
    if spec.config["method"] == METHOD:
        raise ConfigError(
            f"{spec.name} is supervised itself: it needs no baseline. Leave --with-baseline out."
        )


def find(spec: StudySpec, home: Home) -> Study | None:
    """A study that is, or will be once it has run, the tuned baseline of another; None where there is none.

    The same setting, the same space, at least as many trials; of several the one with most.
    """
    wanted = _wanted(spec, home)
    found = []
    for name in home.study_names():
        study = Study(home.study_folder(name))
        if study.spec.config["method"] == METHOD and not differences(study.spec, wanted, spec.split_hash):
            found.append(study)
    return max(found, key=lambda s: (s.spec.trials, s.name), default=None)


def differences(candidate: StudySpec, wanted: StudySpec, split_hash: str | None) -> list[str]:
    """In what a supervised study is not the baseline that is wanted."""
    searched = {p.name for p in wanted.search_space().parameters}
    ignored = searched | _MACHINE | {"warmup_epochs"}
    mine, theirs = candidate.config, wanted.config
    words = [k for k in mine.keys() | theirs.keys() if k not in ignored and mine.get(k) != theirs.get(k)]
    if candidate.space.digest != wanted.space.digest:
        words.append("space")
    if candidate.trials < wanted.trials:
        words.append("trials")
    if None not in (candidate.split_hash, split_hash) and candidate.split_hash != split_hash:
        words.append("split")
    return sorted(words)


def _wanted(spec: StudySpec, home: Home) -> StudySpec:
    """The specification of the baseline's study, under a name that is free."""
    try:
        return resolve_request(baseline_request(spec), home)
    except ConfigError as error:
        raise ConfigError(f"the tuned baseline of {spec.name}: {error}") from None


def tune_baseline(study: Study, home: Home, progress: Progress) -> Outcome:
    """Find the tuned baseline of a study and run what is left of it, or make it.

    Raises:
        ConfigError: nothing is left to tune (learning rate and weight decay are fixed).
        ServiceError: another driver has it.
    """
    _refuse_supervised(study.spec)
    found = find(study.spec, home)
    if found is not None:
        if found.folder.state() != "finished":
            progress.say(f"the tuned baseline is the study {found.name}, which is carried on")
        return carry_on(found.name, home, progress)
    name = _wanted(study.spec, home).name
    progress.say(f"the tuned baseline is made: study {name}, {study.spec.trials} trials")
    return start(replace(baseline_request(study.spec), name=name), home, progress)
