"""One model of a request: what the command line, a study's file, its schema, Python and the baseline take from it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import jsonschema
import pytest
import typer
from pydantic import Field

import tune
from search_spaces import load_yaml
from ssl_core.system.errors import ConfigError
from tests.tiny import EXAMPLES
from tests.tune.helpers import Done, make_spec, make_study
from tune.cli.options import request_of, takes_request
from tune.definition.option import INHERITED, Option, help_of, key_of, option_of
from tune.definition.request import KeptOptions, SearchRequest
from tune.definition.request_options import RequestOptions
from tune.definition.signature import FILE, POSITIONAL, signature_source
from tune.definition.spec import StudySpec
from tune.definition.study_file import study_schema
from tune.errors import DamagedError
from tune.launch.baseline import baseline_request
from tune.launch.request import resolve_request
from tune.launch.sending import afterwards_words, request_words
from tune.store.home import Home
from tune.store.specification import read_spec

Command = Callable[..., Done]
ROOT = Path(__file__).resolve().parents[3]
FIELDS = list(SearchRequest.model_fields)
EXAMPLE = EXAMPLES / "study.yaml"


class Wider(SearchRequest):
    """A request with an option more."""

    stamina: Annotated[int | None, Option(baseline=INHERITED, otherwise="for ever", metavar="N")] = Field(
        None, ge=2, le=50, description="Trials without progress after which the search ends"
    )


def typed(words: list[str], model: type[SearchRequest] = SearchRequest) -> SearchRequest:
    """The request that a command gets from words."""
    got: list[SearchRequest] = []

    def command(request: SearchRequest) -> None:
        got.append(request)

    app = typer.Typer()
    app.command()(takes_request(command, model))
    app(words, standalone_mode=False)
    return got[0]


def flags(info: Any) -> list[str]:
    """The spellings of a Typer option; the first is where Typer keeps a default otherwise."""
    return [info.default, *info.param_decls]


# One place for an option


def test_an_option_more_is_a_field_more(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("stamina: 7\n")
    assert typed(["--stamina", "5"], Wider) == Wider(stamina=5)
    assert typed(["--study", str(path)], Wider) == Wider(stamina=7)
    with pytest.raises(ConfigError, match=r"stamina = 1: must be between 2 and 50\."):
        typed(["--stamina", "1"], Wider)
    assert request_words(Wider(stamina=5)) == ["--stamina", "5"]
    assert study_schema(Wider)["properties"]["stamina"] == {
        "description": "Trials without progress after which the search ends [for ever; 2 to 50]",
        "anyOf": [{"type": "integer", "minimum": 2, "maximum": 50}, {"type": "null"}],
        "default": None,
    }
    added = signature_source(Wider).removeprefix(signature_source())
    assert added.split("\n")[1] == "    stamina: int | None" and "[for ever; 2 to 50]" in added


def test_its_help_is_on_the_command_line() -> None:
    def command(request: SearchRequest) -> None:
        """Nothing."""

    parameters = inspect.signature(takes_request(command, Wider)).parameters
    assert [name for name in parameters if name not in ("study", "trust_method")] == list(Wider.model_fields)
    info = parameters["stamina"].annotation.__metadata__[0]
    assert flags(info) == ["--stamina"] and info.metavar == "N"
    assert info.help == help_of(Wider, "stamina")


def test_a_field_without_an_option_is_an_error_of_the_programmer() -> None:
    class Careless(SearchRequest):
        stamina: int = 3

    with pytest.raises(TypeError, match=r"'stamina' of Careless needs an Option\(baseline=\.\.\.\)"):
        option_of(Careless, "stamina")


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_described_and_typed(name: str) -> None:
    words = help_of(SearchRequest, name)
    assert 10 < len(words) < 160 and "\n" not in words
    annotation = inspect.signature(takes_request(lambda request: None)).parameters[name].annotation
    assert flags(annotation.__metadata__[0]) == [f"--{key_of(SearchRequest, name)}"]


def test_defaults_and_ranges_stand_in_the_help(ssl_tune: Command) -> None:
    shown = " ".join(ssl_tune("search", "--help").out.split())
    for words in (
        "[pseudo_label]",
        "[16; at least 1]",
        "auto (default), tpe, random, gp or grid",
        "[1; 0 to 1000]",
        "or a fraction to share one [1 where there are GPUs; 0 to 1]",
        "such as 90s or 15m [300s]",
    ):
        assert words in shown, words


# The signature in Python


def test_the_written_signature_is_current() -> None:
    assert FILE.read_text() == signature_source(), "run: python -m tune.definition.signature"


def test_python_takes_every_option_by_keyword() -> None:
    hints = get_type_hints(RequestOptions)
    assert set(hints) | set(POSITIONAL) == set(FIELDS)
    parameters = inspect.signature(tune.search).parameters
    assert set(POSITIONAL) <= set(parameters) and "RequestOptions" in str(parameters["options"].annotation)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trails": 3}, r"unknown option 'trails'\. Did you mean 'trials'\?"),
        ({"trials": 0}, r"^trials = 0: must be between 1 and 1000000\.$"),
        ({"trials": "3"}, r"^trials = '3': a valid integer is expected\.$"),
        ({"seed": 2**31}, r"^seed = 2147483648: must be less than 2147483648\.$"),
        ({"sampler": "tpee"}, r"unknown sampler 'tpee'\. Did you mean 'tpe'\?"),
        ({"time_budget": 0}, "--time-budget 0: no trial fits into it"),
        ({"time_budget": "soon"}, "--time-budget 'soon': write a time such as 90s"),
        ({"gpus_per_trial": float("nan")}, "gpus_per_trial = nan"),
        ({"points": 3}, "points = 3: text or a list is expected"),
        ({"settings": [1]}, r"settings = \[1\]: a mapping of names to values is expected"),
        ({"confirm_seeds": 0}, r"confirm_seeds = 0: must be greater than or equal to 1"),
    ],
)
def test_a_value_that_cannot_be_is_refused_where_the_request_is_made(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchRequest(**options)


def test_a_path_and_a_duration_are_taken_as_people_give_them() -> None:
    request = SearchRequest(data_root=Path("there"), time_budget="1h30m", tracking_timeout=5)
    assert (request.data_root, request.time_budget, request.tracking_timeout) == ("there", 5400.0, 5.0)


def test_a_request_needs_no_command_line() -> None:
    script = (
        "import sys, tune.definition.request, tune.definition.study_file\n"
        "print([m for m in ('typer', 'click', 'torch', 'ray', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# A study's file and its schema


def test_the_documented_example_fits_the_schema_and_the_request() -> None:
    document = load_yaml(EXAMPLE.read_text(), str(EXAMPLE))
    jsonschema.Draft202012Validator.check_schema(study_schema())
    jsonschema.validate(document, study_schema())
    request = request_of({"study": EXAMPLE, "settings": None})
    assert request.settings == {"steps_per_epoch": 12, "data.valid": 100}
    assert request.time_budget == 1800 and request.with_baseline and request.confirm_seeds == 3


@pytest.mark.parametrize(
    ("document", "fits"),
    [
        ({"max-failures": 2}, True),
        ({"max_failures": 2}, True),
        ({"max_failures": -1}, False),
        ({"time-budget": "1h30m"}, True),
        ({"time-budget": 90}, True),
        ({"time-budget": 0}, False),
        ({"time-budget": "soon"}, False),
        ({"trials": "many"}, False),
        ({"labels": 0}, False),
        ({"labels": None}, True),
        ({"epochs": 100_001}, False),
        ({"sampler": "tpee"}, False),
        ({"set": {"lr": 0.01}}, True),
        ({"settings": {"lr": 0.01}}, False),
        ({"points": [{"lr": 0.1}]}, True),
        ({"trails": 5}, False),
    ],
)
def test_the_schema_accepts_what_the_command_accepts(
    ssl_tune: Command, tmp_path: Path, home: Home, document: dict[str, Any], fits: bool
) -> None:
    assert jsonschema.Draft202012Validator(study_schema()).is_valid(document) == fits
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(document))
    try:
        request = request_of({"study": path, "settings": None})
        resolve_request(request.model_copy(update={"points": None}), home)
    except ConfigError:
        assert not fits
    else:
        assert fits


def test_the_schema_is_printed(ssl_tune: Command) -> None:
    assert json.loads(ssl_tune("schema").out) == study_schema()


def test_none_in_a_file_is_none_and_text_is_read_as_it_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("set: {threads: null, lr: '0.02', vat.use_entmin: false}\nmethod: vat\n")
    settings = request_of({"study": path, "settings": ["lr=0.03"]}).settings
    assert settings == {"threads": None, "lr": 0.03, "vat.use_entmin": False}
    assert request_of({"study": path, "settings": None}).settings["lr"] == 0.02


def test_a_plan_takes_a_file_that_asks_for_more_afterwards(ssl_tune: Command, home: Home) -> None:
    planned = ssl_tune("plan", "--study", EXAMPLE, "--json")
    assert planned.code == 0 and planned.document["trials"] == 12
    assert not home.path.exists()


# What comes afterwards


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: supervised\nwith-baseline: true\n", "is supervised itself: it needs no baseline"),
        ("space: wide\nset: {lr: 0.01, weight_decay: 0}\nwith-baseline: true\n", "nothing is left to search"),
        ("labels: 1410\nset: {data.valid: 30}\nconfirm-seeds: 5\n", "ask for 1440"),
        ("confirm-seeds: 0\n", "confirm-seeds = 0"),
    ],
)
def test_what_cannot_be_done_afterwards_is_refused_before_anything_is_made(
    ssl_tune: Command, home: Home, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    done = ssl_tune("search", "--study", path)
    assert done.code == 2 and says in done.err and not home.path.exists(), done


# What is sent


def test_flags_and_what_comes_afterwards_are_sent_as_they_are_typed() -> None:
    request = SearchRequest(
        name="s", require_tracking=True, system_metrics=True, with_baseline=True, confirm_seeds=4
    )
    words = request_words(request)
    assert "True" not in words and typed(words) == request
    assert afterwards_words(request) == ["--with-baseline", "--confirm-seeds", "4"]


def test_values_that_are_no_words_are_sent_whole() -> None:
    request = SearchRequest(
        settings={"threads": None, "precision": "auto", "data.valid": 20}, time_budget=1e6
    )
    assert typed(request_words(request)) == request


# What the tuned baseline inherits


@pytest.mark.parametrize("name", FIELDS)
def test_each_option_is_inherited_or_says_why_not(name: str) -> None:
    reason = option_of(SearchRequest, name).baseline
    inherited = {
        *("dataset", "labels", "network", "epochs", "seed", "trials", "sampler"),
        *("objective", "startup_trials"),
        *("concurrent", "gpus_per_trial", "storage", "max_failures", "tracking_uri", "tracking_timeout"),
        *("repeats", "folds", "scheduler", "eta", "grace", "brackets"),
        *("system_metrics", "data_root", "address", "warmup_cache"),
    }
    assert (reason == INHERITED) == (name in inherited)
    assert reason == INHERITED or len(reason.split()) >= 3


def test_the_baseline_runs_where_the_study_runs(home: Home) -> None:
    study = make_spec(home, concurrent=2).model_copy(
        update={
            "address": "head:6379",
            "gpus_per_trial": 0.5,
            "data_root": "/data",
            "system_metrics": True,
            "storage": "sqlite:///trials.db",
            "max_failures": 0,
            "time_budget": 60.0,
            "seed": 3,
        }
    )
    asked = baseline_request(study)
    assert asked.address == "head:6379" and asked.concurrent == 2
    for name in ("gpus_per_trial", "data_root", "system_metrics", "storage", "max_failures"):
        assert getattr(asked, name) == getattr(study, name), name
    assert (asked.method, asked.name, asked.time_budget) == ("supervised", None, None)


def test_the_baseline_of_an_elastic_study_is_elastic(home: Home) -> None:
    study = make_spec(home).model_copy(update={"address": "head:6379", "elastic": True})
    assert baseline_request(study).concurrent is None


def test_the_baseline_of_a_clusters_study_needs_no_gpu_here(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.launch.baseline import find_baseline

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study = make_spec(home).model_copy(update={"address": "head:6379", "gpus_per_trial": 1.0})
    assert find_baseline(study, home) is None


# What a study keeps


def test_a_study_keeps_its_options_and_lacks_none(home: Home) -> None:
    assert set(KeptOptions.model_fields) <= set(StudySpec.model_fields)
    folder, spec = make_study(home, sampler="random", startup_trials=3, max_failures=2, time_budget="2h")
    path = folder.path / "study.yaml"
    assert path.read_text().startswith("name: ")
    assert (read_spec(folder.path), spec.max_failures, spec.time_budget) == (spec, 2, 7200)
    path.write_text("".join(line for line in path.open() if not line.startswith("trials:")))
    with pytest.raises(DamagedError, match=r"is damaged: .*trials"):
        read_spec(folder.path)


def test_the_page_on_python_lists_every_option() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    listed = page[page.index("The keywords are the options") : page.index("An\neditor completes them")]
    assert set(re.findall(r"`(\w+)`", listed)) - {"_"} == set(FIELDS) - set(POSITIONAL)
