"""`--preset`: a set of a method's parameters by name, below `--set`, for a study and for one training."""

from __future__ import annotations

import pytest

from ssl_core.registry import get_method, method_names
from ssl_core.system.errors import ConfigError
from tune.api.single import _configuration
from tune.cli.options import request_of
from tune.definition.request import SearchRequest
from tune.launch.request import resolve_request
from tune.launch.sending import request_words
from tune.store.home import Home

REPORT = {"vat.xi": 10.0, "vat.eps": 10.0, "vat.iterations": 5}


def test_every_preset_is_a_configuration_of_its_method() -> None:
    presets = {name: dict(get_method(name).presets) for name in method_names() if get_method(name).presets}
    assert presets.keys() == {"vat", "attention_fixmatch"}
    for name, sets in presets.items():
        for values in sets.values():
            config = get_method(name).Config(**values)
            assert config.model_dump() | dict(values) == config.model_dump()
            assert config != get_method(name).Config()


def test_a_study_takes_it_as_if_its_values_had_been_set(home: Home) -> None:
    request = SearchRequest(method="vat", preset="report", labels=50, concurrent=1)
    assert request.settings == REPORT
    spec = resolve_request(request, home)
    assert {f"vat.{name}": spec.config["vat"][name] for name in ("xi", "eps", "iterations")} == REPORT
    assert set(spec.space.fixed_by_set) == set(REPORT)
    words = request_words(request)
    assert words[words.index("--preset") + 1] == "report"


def test_what_is_set_goes_before_it() -> None:
    request = SearchRequest(method="vat", preset="report", settings={"vat.eps": 3.0, "lr": 0.1})
    assert request.settings == {**REPORT, "vat.eps": 3.0, "lr": 0.1}
    options = {"study": None, "settings": ["vat.iterations=2"], "method": "vat", "preset": "report"}
    assert request_of(options).settings == {**REPORT, "vat.iterations": 2}


def test_one_training_takes_it_too() -> None:
    chosen, document = _configuration("vat", {"labels": 50}, "report", ["vat.eps=4.0"], None, None, False)
    assert chosen.document()["vat"] | {"eps": 10.0} == chosen.document()["vat"] | {"eps": 10.0, "xi": 10.0}
    assert (chosen.document()["vat"]["eps"], chosen.document()["vat"]["iterations"]) == (4.0, 5)
    assert document == {}


def test_one_that_the_method_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--preset paper: the method 'vat' has no preset.*it has: report"):
        SearchRequest(method="vat", preset="paper")
    with pytest.raises(ConfigError, match=r"--preset report: the method 'fixmatch'.*it has: none"):
        _configuration("fixmatch", {}, "report", {}, None, None, False)
