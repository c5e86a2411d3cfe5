"""`ssl-tune plan`: what it says, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ssl_core.system.peak import Peak
from tests.tune.helpers import Done
from tune.definition.request import SearchRequest
from tune.launch.plan import keep_expectation, looked_at
from tune.launch.pricing.price import _memory
from tune.launch.request import resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder

KEYS = {
    "study",
    "method",
    "dataset",
    "protocol",
    "classes",
    "notes",
    "warnings",
    "labels",
    "network",
    "trials",
    "concurrent",
    "threads_per_trial",
    "gpus_per_trial",
    "epochs",
    "steps_per_epoch",
    "images",
    "space",
    "rungs",
    "expected_epochs",
    "expected_warmup_epochs",
    "expected_shared_epochs",
    "epochs_without_stopping",
    "seconds_per_epoch",
    "seconds_per_warmup_epoch",
    "expected_seconds",
    "disk_bytes",
    "memory_bytes",
    "device_bytes",
    "memory_available",
    "resolution_points",
}
OPTIONS = [
    "--epochs",
    "18",
    "--trials",
    "9",
    "--concurrent",
    "2",
    "--set",
    "batch_size=4",
    "--set",
    "mu=1",
    "--set",
    "steps_per_epoch=5",
]


def test_a_plan_says_what_would_run_and_leaves_nothing(ssl_tune: Callable[..., Done], home: Home) -> None:
    done = ssl_tune("plan", *OPTIONS, "--set", "warmup_epochs=2", "--warmup-cache", "0", "--json")
    assert done.code == 0
    plan = done.document
    assert set(plan) == KEYS and plan["expected_shared_epochs"] == 0
    assert plan["study"] == "digits@100-pseudo_label" and plan["network"] == "wrn-10-1"
    assert plan["images"] == {"labelled": 100, "valid": 100, "unlabelled": 1338}
    assert len(plan["classes"]) == 10 and plan["notes"] == []
    assert plan["classes"][3] == {"class": "3", "labelled": 10, "valid": 10}  # test images are not opened
    assert plan["rungs"] == {"scheduler": "asha", "after_ssl_epochs": [2, 6], "kept": "best 1/3"}
    assert plan["expected_epochs"] == 9 * 4 + 3 * 4 + 1 * 10
    assert plan["epochs_without_stopping"] == 9 * 18
    assert [p["name"] for p in plan["space"]] == ["pseudo_label.threshold"]
    assert plan["space"][0]["range"] == "0.5 to 0.995" and plan["space"][0]["role"] == "scientific"
    assert plan["expected_warmup_epochs"] == 9 * 2
    assert plan["seconds_per_epoch"] > 0 and plan["seconds_per_warmup_epoch"] > 0
    after = plan["expected_epochs"] - 9 * 2
    seconds = 9 * 2 * plan["seconds_per_warmup_epoch"] + after * plan["seconds_per_epoch"]
    assert plan["expected_seconds"] == pytest.approx(seconds / plan["concurrent"])
    assert plan["resolution_points"] == pytest.approx({"5 %": 2.179, "20 %": 4.0, "50 %": 5.0}, abs=1e-3)
    # parameters, average and momentum in two checkpoints of each of the 2 trials that run, one of that which completes
    assert plan["disk_bytes"] == pytest.approx(3 * 4 * 77_850 * (2 * 2 + 1), rel=0.02)
    assert not home.path.exists()


def test_a_plan_takes_off_the_warm_ups_that_are_trained_once(
    ssl_tune: Callable[..., Done], home: Home
) -> None:
    plan = ssl_tune("plan", *OPTIONS, "--set", "warmup_epochs=2", "--json").document
    # Two trials side by side train it; the other seven take it over.
    assert plan["expected_warmup_epochs"] == 9 * 2 and plan["expected_shared_epochs"] == 7 * 2
    after = plan["expected_epochs"] - 9 * 2
    seconds = 2 * 2 * plan["seconds_per_warmup_epoch"] + after * plan["seconds_per_epoch"]
    assert plan["expected_seconds"] == pytest.approx(seconds / 2)
    done = ssl_tune("plan", *OPTIONS, "--set", "warmup_epochs=2")
    assert "14 of 18 epochs of warm-up" in done.out


def test_a_plan_of_three_folds_has_the_price_of_all(ssl_tune: Callable[..., Done], home: Home) -> None:
    words = ("plan", *OPTIONS, "--set", "warmup_epochs=2", "--folds", "3")
    plan = ssl_tune(*words, "--json").document
    assert set(plan) == KEYS | {"folds"} and plan["folds"] == 3
    assert plan["rungs"]["after_folds"] == [1, 2] and plan["epochs_without_stopping"] == 9 * 3 * 18
    # One of the nine finishes the first fold; it is given the others.
    assert plan["expected_epochs"] == 9 * 4 + 3 * 4 + 1 * 10 + 18 + 18
    assert plan["expected_warmup_epochs"] == (9 + 1 + 1) * 2 and plan["expected_shared_epochs"] == 7 * 2
    after = plan["expected_epochs"] - 11 * 2
    seconds = (11 - 7) * 2 * plan["seconds_per_warmup_epoch"] + after * plan["seconds_per_epoch"]
    assert plan["expected_seconds"] == pytest.approx(seconds / 2)
    # Three checkpoints at most of a finished trial, and one more of each of two that run.
    assert plan["disk_bytes"] == pytest.approx(3 * 4 * 77_850 * (2 * 4 + 3), rel=0.02)
    out = ssl_tune(*words).out
    assert "3 folds of 18 epochs" in out and "of those that finish fold 1, 2, too" in out


def test_a_plan_for_people_names_the_same_things(ssl_tune: Callable[..., Done], home: Home) -> None:
    done = ssl_tune("plan", *OPTIONS)
    assert done.code == 0 and done.err == ""
    for words in (
        "digits@100-pseudo_label",
        "after 2, 6 epochs past the warm-up",
        "warmup_share",
        "0.5 to 0.995",
    ):
        assert words in done.out
    assert "at an error of 20 %" in done.out and "4.00 points" in done.out
    assert not home.path.exists()


def test_a_plan_uses_the_images_that_a_home_has_decoded(ssl_tune: Callable[..., Done], home: Home) -> None:
    home.path.mkdir()
    assert ssl_tune("plan", *OPTIONS).code == 0
    assert {p.name for p in home.path.iterdir()} == {"cache"}
    assert home.study_names() == []


def test_a_validation_set_larger_than_the_labelled_one_is_warned_about(
    ssl_tune: Callable[..., Done], home: Home
) -> None:
    done = ssl_tune("plan", *OPTIONS, "--set", "data.valid=200")
    assert done.code == 0
    assert "warning: the validation set (200 images) is larger than the labelled set (100)" in done.err
    assert "Traceback" not in done.err and "request.py" not in done.err


def test_a_method_without_warmup_is_planned_without_one(ssl_tune: Callable[..., Done], home: Home) -> None:
    plan = ssl_tune("plan", "--method", "supervised", *OPTIONS, "--json").document
    assert plan["expected_epochs"] == 9 * 2 + 3 * 4 + 1 * 12
    assert [p["name"] for p in plan["space"]] == ["lr", "weight_decay"]


def test_a_price_knows_the_passes_that_a_method_makes_and_the_warmup_s_are_cheap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from ssl_core.price import measure
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run

    def operations(run: Run, action: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            action()
        return float(counter.get_total_flops())

    # In place of seconds, which another process on the machine changes.
    monkeypatch.setattr("ssl_core.price._seconds", operations)

    def price(method: str, **section: object) -> tuple[float, float]:
        common = {"method": method, "batch_size": 16, "mu": 3, "steps_per_epoch": 10, "threads": 1}
        config, data, split = prepare(common | {"epochs": 4} | ({method: section} if section else {}))
        found = measure(Run(config, data, split))
        return found.warmup_epoch, found.epoch

    warmup, one = price("vat", iterations=1)
    _, five = price("vat", iterations=5)
    # Forward and backward for the loss and for each iteration: (1 + 5) / (1 + 1) times as much, and the labelled.
    assert 1.5 * one < five and 2 * warmup < one
    _, pseudo_label = price("pseudo_label", threshold=0.99)  # every image is taken for accepted
    assert warmup < pseudo_label < five


def test_a_plan_repeats_itself_and_a_search_takes_what_it_measured(
    ssl_tune: Callable[..., Done], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.path.mkdir()
    first = ssl_tune("plan", *OPTIONS, "--json").document
    assert home.measured is not None and home.measured.exists()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr("ssl_core.price.measure", refuse)
        again = ssl_tune("plan", *OPTIONS, "--seed", "3", "--set", "lr=0.01", "--json")
        names = ("seconds_per_epoch", "seconds_per_warmup_epoch", "memory_bytes", "device_bytes")
        assert {n: again.document[n] for n in names} == {n: first[n] for n in names}
        request = {"epochs": 18, "trials": 9, "concurrent": 2, "name": "s"}
        settings = {"batch_size": 4, "mu": 1, "steps_per_epoch": 5}
        spec = resolve_request(SearchRequest(**request, settings=settings), home)
        config, data, split, _, _ = looked_at(spec, home, home.cache)
        folder = StudyFolder(home.study_folder("s"))
        folder.create(spec)
        expected = keep_expectation(folder, spec, config, data, split, home)
        folder.unlock()
        assert expected.seconds_per_epoch == first["seconds_per_epoch"]
    other = ssl_tune("plan", *OPTIONS, "--set", "mu=2", "--json").document
    assert other["seconds_per_epoch"] != first["seconds_per_epoch"]
    home.measured.write_text("damaged")
    assert ssl_tune("plan", *OPTIONS, "--json").document["seconds_per_epoch"] > 0


def test_a_large_batch_is_measured_with_a_quarter_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from ssl_core.price import measure
    from ssl_core.training.result import prepare
    from ssl_core.training.run import Run
    from tune.launch.pricing.price import _at

    def operations(run: Run, action: Callable[[], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            action()
        return float(counter.get_total_flops())

    monkeypatch.setattr("ssl_core.price._seconds", operations)  # every step is slow
    common = {
        "method": "fixmatch",
        "network": "wrn-10-1",
        "mu": 2,
        "steps_per_epoch": 10,
        "threads": 1,
        "epochs": 4,
    }
    for batch, images in ((64, 4.0), (8, 1.0)):
        config, data, split = prepare(common | {"batch_size": batch})
        whole = measure(Run(config, data, split))
        price, run, times = _at(config, data, split)
        assert times == images and run.config.batch_size == batch / images
        assert price.step == pytest.approx(whole.step, rel=0.01)
        assert price.warmup_step == pytest.approx(whole.warmup_step, rel=0.01)
        assert price.epoch == pytest.approx(whole.epoch, rel=0.01)


def test_memory_of_a_quarter_is_scaled_but_for_what_does_not_go_with_the_images() -> None:
    assert _memory(Peak(host=900, device=0), parameters=20, images=4.0) == (900 + 3 * 800, 0)
    assert _memory(Peak(host=None, device=500), parameters=20, images=4.0) == (None, 500 + 3 * 400)
    assert _memory(Peak(host=900, device=500), parameters=20, images=1.0) == (900, 500)
