import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import SearchSpace, describe, load_space, load_yaml, parse_space, space_names
from search_spaces.reader import SEARCHABLE
from search_spaces.space import VARIANTS
from ssl_core.config import common_fields, from_document
from ssl_core.registry import method_names
from ssl_core.schema import RunConfig
from ssl_core.system.errors import ConfigError
from tune.definition.inputs import with_overrides

optuna.logging.set_verbosity(optuna.logging.ERROR)
EMBEDDED = [(name, variant) for name in space_names() for variant in VARIANTS]
VALID = """\
method: pseudo_label
default:
  pseudo_label.threshold:
    type: float
    low: 0.5
    high: 0.995
    role: scientific
    why: a reason
  warmup_epochs:
    type: int
    low: 1
    high: 35
    role: scientific
    why: a reason
  lr:
    type: float
    low: 1e-3
    high: 1e-1
    log: true
    role: nuisance
    why: a reason
wide:
  pseudo_label.accumulate:
    type: categorical
    choices: [false, true]
    role: scientific
    why: a reason
baseline:
  pseudo_label.threshold: 0.95
  warmup_epochs: 10
  lr: 0.03
  pseudo_label.accumulate: false
"""


def config_of(space: SearchSpace, values: dict[str, Any], epochs: int) -> RunConfig:
    document: dict[str, Any] = {"method": space.method, "epochs": epochs}
    for name, value in space.resolve(values, epochs).items():
        owner, _, rest = name.rpartition(".")
        (document.setdefault(owner, {}) if owner else document)[rest] = value
    return from_document(document)


def parse(text: str, variant: str = "default", method: str = "pseudo_label") -> SearchSpace:
    return parse_space(text, where="my.yaml", method=method, variant=variant)


def edited(old: str, new: str) -> str:
    assert VALID.count(old) >= 1, old
    return VALID.replace(old, new, 1)


def refusal(text: str, variant: str = "default") -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, variant)
    return str(caught.value)


@pytest.mark.parametrize(("name", "variant"), EMBEDDED)
@pytest.mark.parametrize("epochs", [2, 18, 300])
def test_every_sampled_point_is_a_configuration(name: str, variant: str, epochs: int) -> None:
    space = load_space(name, variant)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        trial = study.ask(space.distributions(epochs))
        config = config_of(space, trial.params, epochs)
        assert config.warmup_epochs is None or 0 <= config.warmup_epochs < epochs


@pytest.mark.parametrize(("name", "variant"), EMBEDDED)
def test_the_baseline_is_the_first_trial_as_it_is_written(name: str, variant: str) -> None:
    space = load_space(name, variant)
    for epochs in (2, 18, 300):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        study.enqueue_trial(space.baseline_for(epochs))
        trial = study.ask(space.distributions(epochs))
        assert trial.params == space.baseline_for(epochs) == space.baseline
        config_of(space, trial.params, epochs)


def test_baselines_are_those_of_the_report() -> None:
    pseudo_label = load_space("pseudo_label")
    assert pseudo_label.resolve(pseudo_label.baseline, 300) == {
        "pseudo_label.threshold": 0.95,
        "warmup_epochs": 10,
    }
    assert load_space("supervised").baseline == {"lr": 0.03, "weight_decay": 5e-4}


def test_wide_holds_default() -> None:
    for name in space_names():
        default, wide = load_space(name), load_space(name, "wide")
        assert wide.parameters[: len(default.parameters)] == default.parameters
        assert len(wide.parameters) > len(default.parameters)
        assert default.source == f"{name} (default)" and wide.source == f"{name} (wide)"
        assert all(p.why for p in wide.parameters)
    logs = {p.name: p.distribution for p in load_space("pseudo_label", "wide").parameters}
    for name in ("lr", "weight_decay"):
        distribution = logs[name]
        assert isinstance(distribution, FloatDistribution) and distribution.log


def test_embedded_spaces_are_of_known_methods_and_searchable_names_are_fields() -> None:
    assert {"pseudo_label", "supervised"} <= set(space_names()) <= set(method_names())
    assert common_fields() | {"warmup_share"} >= SEARCHABLE


@pytest.mark.parametrize("epochs", range(2, 41))
def test_the_warmup_is_always_shorter_than_the_run(epochs: int) -> None:
    share = load_space("pseudo_label")
    for value in (0.03, 0.0333, 0.25, 0.5, 0.999):
        resolved = share.resolve({"pseudo_label.threshold": 0.9, "warmup_share": value}, epochs)
        assert 1 <= resolved["warmup_epochs"] < epochs
        assert "warmup_share" not in resolved
    whole = parse(VALID)
    bound = whole.distributions(epochs)["warmup_epochs"]
    assert isinstance(bound, IntDistribution)
    assert (bound.low, bound.high) == (1, min(35, epochs - 1))
    assert whole.baseline_for(epochs)["warmup_epochs"] == min(10, epochs - 1)
    assert whole.resolve(whole.baseline_for(epochs), epochs)["warmup_epochs"] < epochs


def test_a_clipped_range_keeps_its_step_and_its_scale() -> None:
    stepped = parse(
        edited("high: 35", "high: 36\n    step: 5").replace("warmup_epochs: 10", "warmup_epochs: 11")
    )
    assert stepped.distributions(300)["warmup_epochs"] == IntDistribution(1, 36, step=5)
    assert stepped.distributions(15)["warmup_epochs"] == IntDistribution(1, 11, step=5)
    assert stepped.distributions(11)["warmup_epochs"] == IntDistribution(1, 6, step=5)
    assert stepped.baseline_for(11)["warmup_epochs"] == 6
    log = parse(edited("high: 35", "high: 35\n    log: true"))
    assert log.distributions(8)["warmup_epochs"] == IntDistribution(1, 7, log=True)


def test_warmup_choices_lose_those_as_long_as_the_run() -> None:
    block = "type: int\n    low: 1\n    high: 35"
    space = parse(edited(block, "type: categorical\n    choices: [3, 10, 35]"))
    assert space.distributions(35)["warmup_epochs"] == CategoricalDistribution([3, 10])
    assert space.baseline_for(10)["warmup_epochs"] == 3
    with pytest.raises(ConfigError, match=r"searched from 3 on.*run of 3 epochs"):
        space.distributions(3)


def test_a_warmup_that_cannot_be_shorter_than_the_run_is_refused() -> None:
    space = parse(edited("low: 1\n    high: 35", "low: 10\n    high: 35"))
    assert space.distributions(11)["warmup_epochs"] == IntDistribution(10, 10)
    with pytest.raises(ConfigError, match=r"my\.yaml: warmup_epochs is searched from 10 on.*10 epochs"):
        space.distributions(10)
    with pytest.raises(ConfigError, match="warmup_epochs = 10: must be shorter"):
        space.resolve(space.baseline, 10)


def test_no_warmup_at_all_can_be_searched() -> None:
    space = parse(edited("low: 1\n    high: 35", "low: 0\n    high: 35"))
    assert space.distributions(1)["warmup_epochs"] == IntDistribution(0, 0)
    assert space.resolve(space.baseline_for(1), 1)["warmup_epochs"] == 0


def test_resolve_wants_exactly_the_names_of_the_space() -> None:
    space = load_space("pseudo_label")
    with pytest.raises(ConfigError, match=r"warmup_share has no value"):
        space.resolve({"pseudo_label.threshold": 0.9}, 10)
    with pytest.raises(ConfigError, match=r"unknown searched parameter 'warmup_shar'.*'warmup_share'"):
        space.resolve({"pseudo_label.threshold": 0.9, "warmup_shar": 0.1}, 10)


def test_a_file_is_read_as_the_embedded_ones_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(VALID)
    space = load_space("pseudo_label", str(file))
    assert space.source == str(file) and space.variant == "default" and space.text == VALID
    assert space.distributions(300) == {
        "pseudo_label.threshold": FloatDistribution(0.5, 0.995),
        "warmup_epochs": IntDistribution(1, 35),
        "lr": FloatDistribution(1e-3, 1e-1, log=True),
    }
    assert "pseudo_label.accumulate" not in space.baseline
    assert [p.role for p in space.parameters] == ["scientific", "scientific", "nuisance"]


@pytest.mark.parametrize(("name", "variant"), EMBEDDED)
def test_a_studys_own_copy_reads_back_the_same(name: str, variant: str) -> None:
    space = load_space(name, variant)
    again = parse_space(space.text, where="space.yaml", method=name, variant=space.variant)
    assert again.parameters == space.parameters and again.baseline == space.baseline
    assert again.digest() == space.digest()
    assert pickle.loads(pickle.dumps(space)) == space


def test_wide_replaces_an_entry_in_its_place() -> None:
    entry = (
        "wide:\n  lr:\n    type: float\n    low: 0.01\n    high: 1\n    role: nuisance\n    why: a reason\n"
    )
    wide = parse(edited("wide:\n", entry), "wide")
    assert [p.name for p in wide.parameters][2:] == ["lr", "pseudo_label.accumulate"]
    assert wide.distributions(300)["lr"] == FloatDistribution(0.01, 1.0)
    assert parse(VALID).distributions(300)["lr"] == FloatDistribution(1e-3, 1e-1, log=True)


def test_the_digest_sees_ranges_and_baseline_only() -> None:
    digest = parse(VALID).digest()
    assert len(digest) == 16 and int(digest, 16) >= 0
    same = ("# a comment\n" + VALID).replace("a reason", "another").replace("1e-3", "0.001")
    assert parse(same.replace("role: nuisance", "role: scientific")).digest() == digest
    for old, new in [
        ("high: 35", "high: 36"),
        ("high: 0.995", "high: 0.9951"),
        ("    log: true\n", ""),
        ("threshold: 0.95", "threshold: 0.9"),
    ]:
        assert parse(edited(old, new)).digest() != digest
    assert parse(VALID, "wide").digest() != digest


def test_the_order_of_parameters_counts_for_the_digest() -> None:
    """Samplers draw in the order of the parameters."""
    data = load_yaml(VALID, "my.yaml")
    data["default"] = dict(reversed(data["default"].items()))
    from search_spaces import dump_yaml

    assert parse(dump_yaml(data)).digest() != parse(VALID).digest()


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("pseudo_label.threshold:", "pseudo_label.treshold:", 3, "Did you mean 'pseudo_label.threshold'"),
        ("  lr:", "  learning_rate:", 15, "unknown parameter 'learning_rate'"),
        ("pseudo_label.threshold:", "supervised.threshold:", 3, "a parameter of the method 'supervised'"),
        ("  lr:", "  seed:", 15, "seed cannot be searched"),
        ("  lr:", "  data.split_seed:", 15, "data.split_seed cannot be searched"),
        ("  lr:", "  network:", 15, "network cannot be searched"),
        ("low: 0.5", "lwo: 0.5", 5, "'lwo'. Did you mean 'low'"),
        ("low: 0.5", "low: 0.5\n    choices: [1]", 6, "unknown key"),
        ("    low: 0.5\n", "", 3, "pseudo_label.threshold.low is missing"),
        (
            "type: float",
            "type: flaot",
            4,
            "unknown pseudo_label.threshold.type 'flaot'. Did you mean 'float'",
        ),
        ("    type: float\n", "", 3, "pseudo_label.threshold.type is missing. Accepted: float, int"),
        ("role: scientific", "role: scientist", 7, "Did you mean 'scientific'"),
        ("    why: a reason\n", "", 3, "pseudo_label.threshold.why is missing"),
        ("low: 0.5", "low: 0.999", 5, "threshold.low = 0.999: must not be above high, which is 0.995"),
        ("low: 1e-3", "low: 0", 17, "lr.low = 0.0: must be above 0 on a log scale"),
        ("low: 1e-3", "low: -1", 17, "lr.low = -1.0: must be above 0 on a log scale"),
        ("high: 1e-1", "high: 11", 18, "lr = 11.0: input should be less than or equal to 10"),
        (
            "high: 0.995",
            "high: 1.5",
            6,
            "pseudo_label.threshold = 1.5: input should be less than or equal to 1",
        ),
        ("low: 0.5", "low: 0", 5, "pseudo_label.threshold = 0.0: input should be greater than 0"),
        ("low: 0.5", "low: half", 5, "low = 'half': a number is expected"),
        ("low: 0.5", "low: true", 5, "low = true: a number is expected"),
        ("low: 0.5", "low: .nan", 5, "low = nan: a number is expected"),
        ("high: 0.995", "high: .inf", 6, "high = inf: a number is expected"),
        ("type: int", "type: float", 11, "warmup_epochs = 1.0: input should be a valid integer"),
        ("low: 1\n", "low: 1.5\n", 11, "low = 1.5: a whole number is expected"),
        ("low: 1\n", "low: -1\n", 11, "warmup_epochs = -1"),
        ("log: true", "log: 10", 19, "lr.log = 10: true or false"),
        ("log: true", "log: true\n    step: 0.001", 20, "not together with `log: true`"),
        ("high: 35", "high: 35\n    step: 5", 13, "high = 35 is no whole number of steps above 1"),
        ("high: 35", "high: 35\n    step: 0", 13, "step = 0: must be above 0"),
        ("choices: [false, true]", "choices: []", 25, "a list of at least one value"),
        ("choices: [false, true]", "choices: false", 25, "choices = false: a list"),
        ("choices: [false, true]", "choices: [false, 1]", 25, "pseudo_label.accumulate = 1"),
        ("choices: [false, true]", "choices: [false, true, false]", 25, "false stands twice"),
        ("choices: [false, true]", "choices: [false, [true]]", 25, "neither text, number"),
        (
            "  lr: 0.03",
            "  lr: 0.5",
            31,
            "baseline.lr = 0.5: outside of the space, `default:` has 0.001 to 0.1, log",
        ),
        ("  lr: 0.03\n", "", 28, "baseline.lr is missing"),
        ("  lr: 0.03", "  lr: fast", 31, "baseline.lr = 'fast': outside"),
        ("warmup_epochs: 10", "warmup_epochs: 10.5", 30, "baseline.warmup_epochs = 10.5: outside"),
        ("accumulate: false", "accumulate: 0", 32, "baseline.pseudo_label.accumulate = 0: outside"),
        ("  lr: 0.03", "  lr: 0.03\n  mu: 7", 32, "unknown searched parameter 'mu'"),
        (
            "method: pseudo_label",
            "method: supervised",
            1,
            "method = 'supervised': the file is for this method",
        ),
        ("baseline:", "fixed: {momentun: 0.9}\nbaseline:", 28, "Did you mean 'momentum'"),
        ("baseline:", "basline:", 28, "unknown key 'basline'. Did you mean 'baseline'"),
        ("default:", "parameters:", 2, "unknown key 'parameters'"),
        ("  lr:", "  1:", 15, "the key 1 is not text"),
        ("  lr:", "  warmup_epochs:", 15, "stands twice (first in line 9)"),
        ("  lr:\n    type: float\n", "  lr: 0.03\n  mu:\n    type: int\n", 15, "lr = 0.03: a section"),
    ],
)
def test_mistakes_are_refused_with_their_line(old: str, new: str, line: int, says: str) -> None:
    message = refusal(edited(old, new))
    assert message.startswith(f"my.yaml, line {line}: "), message
    assert says in message


def test_share_and_epochs_together_are_refused() -> None:
    share = "  warmup_share: {type: float, low: 0.1, high: 0.5, role: scientific, why: a reason}\n"
    point = "baseline:\n  warmup_share: 0.1"
    both = edited("  lr:", share + "  lr:").replace("baseline:", point)
    assert "warmup_share and warmup_epochs are both searched" in refusal(both)
    mixed = edited("wide:\n", "wide:\n" + share).replace("baseline:", point)
    message = refusal(mixed, "wide")
    assert message.startswith("my.yaml, line 23: warmup_share and warmup_epochs are both searched")


@pytest.mark.parametrize("ends", [(0, 0.5), (0.1, 1), (-0.1, 0.5), (0.1, 10)])
def test_a_share_lies_between_0_and_1(ends: tuple[float, float]) -> None:
    entry = f"  warmup_share:\n    type: float\n    low: {ends[0]}\n    high: {ends[1]}\n"
    text = edited("  warmup_epochs:\n    type: int\n    low: 1\n    high: 35\n", entry)
    assert "a share of the run is expected" in refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "`method:` is missing"),
        ("method: pseudo_label\n", "names no parameter"),
        ("method: pseudo_label\ndefault: {}\n", "names no parameter"),
        ("- a\n- b\n", "a section of `name: value` pairs"),
        ("just text", "a section of `name: value` pairs"),
        (VALID[: VALID.index("baseline:")], "baseline.pseudo_label.threshold is missing"),
    ],
)
def test_incomplete_files_are_refused(text: str, says: str) -> None:
    message = refusal(text)
    assert message.startswith("my.yaml") and says in message


def test_a_section_that_is_not_there() -> None:
    text = VALID[: VALID.index("wide:")] + VALID[VALID.index("baseline:") :].replace(
        "  pseudo_label.accumulate: false\n", ""
    )
    assert parse(text).variant == "default"
    assert "there is no section `wide:`" in refusal(text, "wide")
    assert "unknown variant" in refusal(VALID, "wider")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file.*`wide`"):
        load_space("pseudo_label", "nowhere.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load_space("pseudo_label", str(tmp_path))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_space("pseudo_label", str(tmp_path / "bytes.yaml"))
    with pytest.raises(ConfigError, match="unknown method 'pseudolabel'"):
        load_space("pseudolabel")


def test_ranges_in_words() -> None:
    assert describe(FloatDistribution(0.5, 0.995)) == "0.5 to 0.995"
    assert describe(FloatDistribution(0.003, 0.3, log=True)) == "0.003 to 0.3, log"
    assert describe(FloatDistribution(0.0, 1.0, step=0.25)) == "0.0 to 1.0, in steps of 0.25"
    assert describe(IntDistribution(1, 9)) == "1 to 9"
    assert describe(IntDistribution(1, 9, step=2)) == "1 to 9, in steps of 2"
    assert describe(CategoricalDistribution([False, None, 3, "a"])) == "one of false, null, 3, a"


def test_importing_and_loading_is_light() -> None:
    code = (
        "import sys, search_spaces\n"
        "[search_spaces.load_space(n, 'wide') for n in search_spaces.space_names()]\n"
        "heavy = {'torch', 'torchvision', 'ray', 'mlflow', 'pandas', 'sklearn', 'tune'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


def test_the_example_on_the_page_of_networks_is_a_space() -> None:
    """It searches a parameter of a section, whose value reaches the section."""
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    space = parse_space(text, where="networks.md", method="fixmatch", variant="default")
    assert [p.name for p in space.parameters] == ["lr", "backbone.lr_scale"]
    overrides = space.resolve(space.baseline, 10)
    config = from_document(with_overrides({"method": "fixmatch"}, overrides))
    assert (config.lr, config.backbone.lr_scale) == (0.001, 0.1)
    wrong = text.replace("high: 1\n", "high: 11\n")
    with pytest.raises(ConfigError, match=r"backbone\.lr_scale = 11"):
        parse_space(wrong, where="networks.md", method="fixmatch", variant="default")
