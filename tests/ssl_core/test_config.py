"""Configurations: what is refused and how, defaults, and documents that come back as they went."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ssl_core.config import common_fields, from_document, parameter_names, resolve, warmup_from_share
from ssl_core.data.datasets import DatasetInfo, describe
from ssl_core.networks.registry import parse_network
from ssl_core.registry import get_method, method_names
from ssl_core.schema import RunConfig
from ssl_core.system.errors import ConfigError

DIGITS = describe("digits")
CIFAR10 = describe("cifar10")
CIFAR100 = describe("cifar100")


def config(**fields: Any) -> RunConfig:
    return from_document({"method": "supervised", **fields})


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epoch": 3}, ["unknown key 'epoch'", "Did you mean 'epochs'?", "batch_size"]),
        ({"data": {"split_sede": 1}}, ["'data.split_sede'", "Did you mean 'data.split_seed'?"]),
        (
            {"method": "pseudo_label", "pseudo_label": {"treshold": 0.9}},
            ["'pseudo_label.treshold'", "Did you mean 'pseudo_label.threshold'?"],
        ),
        ({"parameters": {}}, ["unknown key 'parameters'"]),
        ({"method": "pseudo_lable"}, ["unknown method 'pseudo_lable'", "Did you mean 'pseudo_label'?"]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    fields: dict[str, Any], said: list[str]
) -> None:
    message = refusal(**fields)
    assert all(part in message for part in said), message


def test_a_section_of_another_method_is_refused_and_says_which_method_it_belongs_to() -> None:
    message = refusal(pseudo_label={"threshold": 0.9})
    assert "'pseudo_label' holds parameters of the method 'pseudo_label'" in message
    assert "'supervised'" in message and "--method pseudo_label" in message


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"lr": 0.0}, "lr", "0.0"),
        ({"lr": 10.5}, "lr", "10.5"),
        ({"lr": math.nan}, "lr", "nan"),
        ({"lr": math.inf}, "lr", "inf"),
        ({"lr": "0.03"}, "lr", "'0.03'"),
        ({"lr": True}, "lr", "True"),
        ({"momentum": 1.0}, "momentum", "1.0"),
        ({"ema_decay": 1.0}, "ema_decay", "1.0"),
        ({"weight_decay": -1e-9}, "weight_decay", "-1e-09"),
        ({"bn_momentum": 0.0}, "bn_momentum", "0.0"),
        ({"epochs": 0}, "epochs", "0"),
        ({"epochs": 3.5}, "epochs", "3.5"),
        ({"epochs": True}, "epochs", "True"),
        ({"batch_size": 1}, "batch_size", "1"),
        ({"mu": 65}, "mu", "65"),
        ({"seed": -1}, "seed", "-1"),
        ({"seed": 2**31}, "seed", str(2**31)),
        ({"precision": "float8"}, "precision", "'float8'"),
        ({"network": "wrn-12-2"}, "network", "'wrn-12-2'"),
        ({"data": {"valid": 0}}, "data.valid", "0"),
        ({"data": {"image_size": 7}}, "data.image_size", "7"),
        ({"data": 3}, "data", "3"),
        ({"method": "pseudo_label", "pseudo_label": {"threshold": 0.0}}, "pseudo_label.threshold", "0.0"),
        ({"method": "pseudo_label", "pseudo_label": {"threshold": 1.1}}, "pseudo_label.threshold", "1.1"),
        (
            {"method": "pseudo_label", "pseudo_label": {"threshold": math.nan}},
            "pseudo_label.threshold",
            "nan",
        ),
        ({"method": "pseudo_label", "pseudo_label": {"accumulate": 1}}, "pseudo_label.accumulate", "1"),
        ({"method": "pseudo_label", "pseudo_label": 0.9}, "pseudo_label", "0.9"),
    ],
)
def test_a_wrong_value_is_refused_naming_field_and_value(
    fields: dict[str, Any], name: str, value: str
) -> None:
    assert refusal(**fields).startswith(f"{name} = {value}: ")


def test_the_accepted_range_is_in_the_message() -> None:
    assert "less than or equal to 10" in refusal(lr=11.0)
    assert "wrn-DEPTH-WIDTH" in refusal(network="resnet19")


def test_a_document_without_a_method_is_refused_and_lists_the_methods() -> None:
    with pytest.raises(ConfigError, match="method is missing") as caught:
        from_document({"epochs": 3}, where="study.yaml")
    assert str(caught.value).startswith("study.yaml: ")
    assert all(name in str(caught.value) for name in method_names())


@pytest.mark.parametrize("document", [{"epoch": 1}, {"lr": 0.0}, {"data": {"x": 1}}])
def test_messages_name_the_place_the_document_came_from(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_document({"method": "supervised", **document}, where="best.yaml")
    assert "best.yaml: " in str(caught.value)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().lr = 0.1  # type: ignore[misc]


def test_whole_numbers_are_accepted_where_a_number_is_expected() -> None:
    assert config(lr=1).lr == 1.0


@pytest.mark.parametrize("name", ["wrn-28-2", "wrn-10-1", "wrn-16-8", "wrn-100-10"])
def test_network_names_give_depth_and_width(name: str) -> None:
    depth, width = parse_network(name)
    assert name == f"wrn-{depth}-{width}"


@pytest.mark.parametrize("name", ["wrn-4-1", "wrn-28-0", "wrn-28", "wrn-28-2x", " wrn-28-2", "wrn-28-2\n"])
def test_other_network_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="wrn-DEPTH-WIDTH"):
        parse_network(name)


@pytest.mark.parametrize("method", method_names())
def test_a_document_comes_back_as_the_same_configuration(method: str) -> None:
    resolved = resolve(from_document({"method": method, "epochs": 7, "data": {"valid": 20}}), DIGITS, cores=2)
    assert from_document(resolved.document()) == resolved
    assert type(from_document(resolved.document()).parameters) is get_method(method).Config


def test_a_method_s_parameters_are_in_the_document_under_its_name() -> None:
    document = config(method="pseudo_label", pseudo_label={"threshold": 0.8}).document()
    assert document["pseudo_label"] == {
        "threshold": 0.8,
        "accumulate": False,
        "statistics": "all",
        "pool": "all",
    }
    assert "parameters" not in document
    assert "supervised" not in config().document()


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("info", [DIGITS, CIFAR10, CIFAR100], ids=lambda info: info.name)
def test_resolving_leaves_nothing_open(method: str, info: DatasetInfo) -> None:
    document = resolve(from_document({"method": method, "dataset": info.name}), info).document()
    data = document.pop("data")
    del data["image_size"], document["stop_after_epoch"]  # none is a value of these
    assert [name for name, value in {**document, **data}.items() if value is None] == []


def test_resolving_twice_changes_nothing() -> None:
    resolved = resolve(config(method="pseudo_label"), DIGITS, cores=2)
    assert resolve(resolved, DIGITS, cores=1) == resolved


def test_defaults_are_those_of_the_papers() -> None:
    ten = resolve(config(method="pseudo_label", dataset="cifar10"), CIFAR10)
    assert (ten.lr, ten.momentum, ten.weight_decay, ten.ema_decay) == (0.03, 0.9, 5e-4, 0.999)
    assert (ten.batch_size, ten.mu, ten.epochs, ten.labels, ten.data.valid) == (64, 7, 300, 4000, 4000)
    assert ten.network == "wrn-28-2" and ten.parameters.threshold == 0.95  # type: ignore[attr-defined]
    assert ten.steps_per_epoch == math.ceil(46_000 / 448) and ten.warmup_epochs == 10
    assert ten.bn_momentum == 0.001  # 30 / 30900 steps is below what the papers take
    hundred = resolve(config(dataset="cifar100"), CIFAR100)
    assert (hundred.weight_decay, hundred.labels) == (1e-3, 10_000)


def test_digits_have_defaults_of_their_own() -> None:
    resolved = resolve(config(method="pseudo_label"), DIGITS)
    assert (resolved.network, resolved.labels, resolved.batch_size, resolved.mu) == ("wrn-10-1", 100, 16, 3)
    assert resolved.steps_per_epoch == 32  # one pass over 1338 images at 48 a step is 28: less than 32


def test_what_was_asked_for_is_not_overwritten() -> None:
    asked: dict[str, Any] = {
        "labels": 50,
        "network": "wrn-16-1",
        "epochs": 5,
        "steps_per_epoch": 3,
        "batch_size": 8,
        "mu": 2,
        "weight_decay": 0.0,
        "bn_momentum": 0.5,
        "threads": 3,
        "data": {"valid": 30, "split_seed": 0, "label_seed": 0, "image_size": None, "balance_batches": False},
    }
    document = resolve(config(**asked), DIGITS, cores=9).document()
    assert {name: document[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("epochs", "steps", "expected"), [(1, 32, 0.1), (10, 60, 0.05), (100, 300, 0.001), (300, 300, 0.001)]
)
def test_batchnorm_s_momentum_fits_the_length_of_the_run(epochs: int, steps: int, expected: float) -> None:
    resolved = resolve(config(epochs=epochs, steps_per_epoch=steps), DIGITS)
    assert resolved.bn_momentum == pytest.approx(expected)


def test_threads_are_resolved_from_the_cores_given() -> None:
    assert resolve(config(), DIGITS, cores=5).threads == 5


@pytest.mark.parametrize("warmup", [4, 5])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup: int) -> None:
    asked = config(method="pseudo_label", epochs=4, warmup_epochs=warmup)
    with pytest.raises(ConfigError, match=rf"warmup_epochs = {warmup}: .* at most 3"):
        resolve(asked, DIGITS)


def test_a_warm_up_is_accepted_for_a_method_that_has_none() -> None:
    assert resolve(config(epochs=4, warmup_epochs=9), DIGITS).warmup_epochs == 9
    assert resolve(config(epochs=4), DIGITS).warmup_epochs == 0


def test_a_warm_up_of_zero_is_kept() -> None:
    assert resolve(config(method="pseudo_label", epochs=4, warmup_epochs=0), DIGITS).warmup_epochs == 0


@pytest.mark.parametrize("share", [1e-6, 10 / 300, 35 / 300, 0.5, 0.999])
def test_a_warm_up_from_a_share_is_shorter_than_the_run(share: float) -> None:
    for epochs in range(1, 400):
        warmup = warmup_from_share(share, epochs)
        assert 0 <= warmup < epochs
        assert warmup >= 1 or epochs == 1


def test_the_report_s_warm_ups_come_out_of_their_shares() -> None:
    assert [warmup_from_share(10 / 300, epochs) for epochs in (300, 90, 20)] == [10, 3, 1]
    assert [warmup_from_share(35 / 300, epochs) for epochs in (300, 90, 20)] == [35, 10, 2]
    assert warmup_from_share(0.0, 300) == 0


def test_a_run_cannot_stop_after_its_end() -> None:
    with pytest.raises(ConfigError, match="stop_after_epoch = 5: the run has only 4 epochs"):
        resolve(config(epochs=4, stop_after_epoch=5), DIGITS)


def test_stopping_early_does_not_change_the_schedule() -> None:
    stopped = resolve(config(epochs=4, steps_per_epoch=10, stop_after_epoch=2), DIGITS)
    assert (stopped.total_steps, stopped.last_epoch) == (40, 2)
    assert stopped.bn_momentum == resolve(config(epochs=4, steps_per_epoch=10), DIGITS).bn_momentum


def test_label_counts_the_data_cannot_give_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a multiple of the 10 classes"):
        resolve(config(labels=15), DIGITS)
    folder = DatasetInfo("folder:x", ("a", "b"), (9, 9), None, "wrn-28-2", None, True)
    with pytest.raises(ConfigError, match="labels is missing"):
        resolve(config(dataset="folder:x"), folder)


def test_a_validation_set_larger_than_the_labelled_one_is_allowed_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="larger than the labelled set"):
        assert resolve(config(labels=50, data={"valid": 100}), DIGITS).data.valid == 100


def test_common_fields_are_flat_and_dotted() -> None:
    fields = common_fields()
    assert {"lr", "epochs", "warmup_epochs", "network", "data.valid", "data.split_seed"} <= fields
    assert not {"parameters", "data", "data.data"} & fields


@pytest.mark.parametrize("name", method_names())
def test_a_method_s_parameter_names_are_those_its_documents_accept(name: str) -> None:
    method = get_method(name)
    own = parameter_names(method) - common_fields()
    assert own == {f"{name}.{field}" for field in method.Config.model_fields}
    assert "method" not in parameter_names(method)
    assert common_fields() - {"method"} <= parameter_names(method)


@pytest.mark.parametrize("name", method_names())
def test_every_field_is_documented(name: str) -> None:
    for model in (RunConfig, get_method(name).Config):
        undocumented = [f for f, info in model.model_fields.items() if f != "data" and not info.description]
        assert undocumented == [], model
