"""Warm-ups that are trained once: what the key holds, the same bits, and what harms no run."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search_spaces import load_space
from search_spaces.ranges import SHARE as SHARE_NAME
from search_spaces.reader import VARIANTS
from search_spaces.space import space_names
from ssl_core.config import from_document, warmup_from_share
from ssl_core.schema import RunConfig
from ssl_core.system import environment
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from ssl_core.training.loop import run_epochs
from ssl_core.training.result import CHECKPOINTS, train
from ssl_core.training.run import Report, Run
from ssl_core.training.warmups import key as keys
from ssl_core.training.warmups.key import WITHOUT, key_of, shared_part, warmup_length
from ssl_core.training.warmups.names import SAVED, SECONDS
from ssl_core.training.warmups.sharing import WarmupSharing, longest_shared
from ssl_core.training.warmups.store import SHARE, STALE_SECONDS, WarmupStore
from tests.tiny import (
    METHODS,
    assert_same_bits,
    everything,
    finish,
    make_config,
    make_data,
    make_run,
    method_named,
    trained,
)


def go(run: Run, store: WarmupStore | None, *, until: int | None = None) -> list[Report]:
    """Take over what there is, train the rest and keep it; the reports that were taken over."""
    sharing = WarmupSharing(run, store)
    taken = sharing.take()
    for report in run_epochs(run):
        sharing.keep()
        if report.epoch == until:
            break
    return taken


def compared(run: Run) -> dict[str, Any]:
    """The whole state but for the clock, and for the mark of what was taken over."""
    state = everything(run)
    for report in state["history"]:
        report["metrics"].pop(SAVED, None)
    return state


@pytest.fixture
def store(tmp_path: Path) -> WarmupStore:
    return WarmupStore(tmp_path / "warmups", 10**9)


# The key

OTHER: dict[str, Any] = {
    "method": "supervised",
    "method_digest": "0" * 64,
    "parameters": from_document({"method": "pseudo_label", "pseudo_label": {"threshold": 0.9}}).parameters,
    "dataset": "folder:/elsewhere",
    "labels": 9,
    "network": "wrn-16-1",
    "backbone": from_document({"method": "supervised", "backbone": {"lr_scale": 0.5}}).backbone,
    "augment": from_document({"method": "supervised", "augment": {"probability": 0.5}}).augment,
    "epochs": 5,
    "steps_per_epoch": 4,
    "warmup_epochs": 2,
    "stop_after_epoch": 3,
    "batch_size": 6,
    "mu": 3,
    "optimizer": "adamw",
    "lr": 0.07,
    "momentum": 0.8,
    "weight_decay": 0.001,
    "schedule": "cosine",
    "clip_norm": 1.0,
    "head_epochs": 1,
    "ema_decay": 0.9,
    "bn_momentum": 0.2,
    "eval_batch_size": 5,
    "precision": "bfloat16",
    "device": "cuda",
    "compile": True,
    "threads": 2,
    "seed": 4,
    "refit": True,
    "data": from_document({"method": "supervised", "data": {"label_seed": 1}}).data,
}
"""Another value for every field of a run."""


def test_every_field_of_a_run_is_in_the_key_or_changes_no_bit_of_a_warm_up() -> None:
    assert OTHER.keys() == RunConfig.model_fields.keys()
    config = make_config("pseudo_label", make_data())
    for name, value in OTHER.items():
        assert getattr(config, name) != value, name
        other = config.model_copy(update={name: value})
        is_free = name in WITHOUT | {"parameters"}
        assert (shared_part(other) == shared_part(config)) == is_free, name


@pytest.mark.parametrize(
    "fields",
    [{"mu": 3}, {"warmup_epochs": 3}, {"stop_after_epoch": 3}, {"parameters": {"threshold": 0.9}}],
)
def test_what_is_not_in_the_key_changes_no_bit(fields: dict[str, Any]) -> None:
    one, other = make_run("pseudo_label", warmup_epochs=2), make_run("pseudo_label", warmup_epochs=2)
    assert key_of(one) == key_of(make_run("pseudo_label", **{"warmup_epochs": 2, **fields}))
    other = make_run("pseudo_label", **{"warmup_epochs": 2, **fields})
    finish(one, until=2)
    finish(other, until=2)
    assert_same_bits(trained(one), trained(other))
    assert_same_bits(everything(one)["history"], everything(other)["history"])


@pytest.mark.parametrize("name", METHODS)
def test_all_methods_share_a_key_but_those_with_a_head(name: str) -> None:
    # Of a method that brings a limit of the gradient, with the supervised run that has the same.
    supervised = make_run("supervised", clip_norm=method_named(name).default_clip_norm)
    is_shared = key_of(make_run(name)) == key_of(supervised)
    assert is_shared == (name != "attention_fixmatch")


def test_a_head_s_warm_ups_are_its_own_and_depend_on_its_layers_alone() -> None:
    def made(**parameters: Any) -> str:
        return key_of(make_run("attention_fixmatch", parameters=parameters))

    assert made(threshold=0.7, lambda_att=3.0, diversity_weight=0.0) == made()
    assert made(maps=2) != made(maps=3)
    assert made(maps=0, lambda_att=0.0, diversity_weight=0.0) == key_of(make_run("supervised"))


def test_the_key_holds_the_images_and_how_they_are_seen() -> None:
    data, found = make_data(), [key_of(make_run())]
    found.append(key_of(make_run(data=replace(data, flip=not data.flip))))
    found.append(key_of(make_run(data=replace(data, mean=(0.1, 0.2, 0.3)))))
    found.append(key_of(make_run(data=replace(data, std=(0.1, 0.2, 0.3)))))
    found.append(key_of(make_run(data=make_data(seed=1))))
    run = make_run()
    run.split = replace(run.split, hash="another")
    found.append(key_of(run))
    run = make_run()
    run.split = replace(run.split, valid=run.split.valid[:-1])
    found.append(key_of(run))
    assert len(set(found)) == len(found)


def test_the_key_holds_the_machine_and_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    found = [key_of(run)]
    with monkeypatch.context() as patch:
        patch.setattr(environment, "_processor_name", lambda: "another processor")
        found.append(key_of(run))
    with monkeypatch.context() as patch:
        patch.setattr(environment, "versions", lambda: {"torch": "99.0"})
        found.append(key_of(run))
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        found.append(key_of(run))
    with monkeypatch.context() as patch:
        patch.setattr(keys, "code_digest", lambda: "other code")
        found.append(key_of(run))
    with torch.no_grad():
        next(run.network.parameters()).add_(1)
    found.append(key_of(run))
    assert len(set(found)) == len(found)
    assert key_of(make_run()) == found[0]


def test_the_digest_of_the_code_sees_every_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "a.py").write_text("a = 1\n")
    assert keys.PACKAGE.name == "ssl_core" and (keys.PACKAGE / "schema.py").is_file()
    monkeypatch.setattr(keys, "PACKAGE", package)
    digest = keys.code_digest.__wrapped__
    found = [digest()]
    (package / "room" / "a.py").write_text("a = 2\n")
    found.append(digest())
    (package / "room" / "a.py").rename(package / "room" / "b.py")
    found.append(digest())
    assert len(set(found)) == 3


# The same bits


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_takes_its_warm_up_over_has_the_bits_of_one_that_trains_it(
    name: str, store: WarmupStore
) -> None:
    alone = make_run(name, warmup_epochs=2)
    finish(alone)
    # With a head the warm-ups are its own; everybody else's are those of the supervised run.
    first = name if name == "attention_fixmatch" else "supervised"
    limit = method_named(name).default_clip_norm
    go(make_run(first, warmup_epochs=3, clip_norm=limit), store, until=3)
    run = make_run(name, warmup_epochs=2)
    taken = go(run, store)
    assert [report.epoch for report in taken] == ([1, 2, 3] if name == "supervised" else [1, 2])
    assert_same_bits(compared(run), compared(alone))
    stopped = make_run(name, warmup_epochs=2)
    go(stopped, store, until=3)
    resumed = make_run(name, warmup_epochs=2)
    resumed.load_state(stopped.state())
    finish(resumed)
    assert_same_bits(compared(resumed), compared(alone))


def test_a_method_s_own_state_starts_afresh_after_a_warm_up_that_was_taken_over(store: WarmupStore) -> None:
    go(make_run("flexmatch", warmup_epochs=2), store, until=2)
    run, fresh = make_run("freematch", warmup_epochs=2), make_run("freematch", warmup_epochs=2)
    assert len(WarmupSharing(run, store).take()) == 2
    assert type(run.method_state) is type(fresh.method_state)
    assert_same_bits(run.state()["method"], fresh.state()["method"])
    assert run.state()["config"] == fresh.state()["config"]


def test_the_longest_warm_up_that_fits_is_taken_and_what_is_trained_beyond_is_kept(
    store: WarmupStore,
) -> None:
    assert go(make_run("vat", epochs=8, warmup_epochs=2), store) == []
    key = key_of(make_run("vat", epochs=8))
    assert store.epochs(key) == [2, 1]
    assert len(go(make_run("pseudo_label", epochs=8, warmup_epochs=5), store)) == 2
    assert store.epochs(key) == [5, 4, 3, 2, 1]
    assert len(go(make_run("uda", epochs=8, warmup_epochs=1), store, until=1)) == 1
    assert go(make_run("uda", epochs=8, warmup_epochs=0), store, until=1) == []
    assert go(make_run("uda", epochs=9, warmup_epochs=4), store, until=1) == []  # another learning rate
    # Taken over twice, kept once: the seconds are still those of the run that trained it.
    first, last = (store.read(key, epoch)["reports"] for epoch in (2, 5))  # type: ignore[index]
    assert [r["metrics"][SECONDS] for r in last[:2]] == [r["metrics"][SECONDS] for r in first]
    assert all(SAVED not in r["metrics"] for r in last)


def test_a_supervised_run_is_a_warm_up_to_its_last_epoch_but_one(store: WarmupStore) -> None:
    alone = make_run(epochs=6)
    finish(alone)
    go(make_run(epochs=6), store)
    assert store.epochs(key_of(make_run(epochs=6))) == [5, 4, 3, 2, 1]
    run = make_run(epochs=6)
    taken = go(run, store)
    assert [(r.epoch, r.ssl_epoch) for r in taken] == [(n, n) for n in range(1, 6)]
    assert "confusion" in run.history[-1].classes
    assert_same_bits(compared(run), compared(alone))
    stopped, again = make_run(epochs=6, stop_after_epoch=3), make_run(epochs=6, stop_after_epoch=3)
    finish(again)
    assert len(go(stopped, store)) == 2
    assert_same_bits(compared(stopped), compared(again))


def test_a_run_that_stops_in_its_warm_up_trains_its_last_epoch(store: WarmupStore) -> None:
    go(make_run("vat", warmup_epochs=3), store)
    run = make_run("vat", warmup_epochs=3, stop_after_epoch=2)
    assert len(go(run, store)) == 1
    assert "confusion" in run.history[-1].classes
    other = WarmupStore(store.folder.with_name("other"), store.most)
    go(make_run("vat", warmup_epochs=3, stop_after_epoch=2), other)
    kept = other.read(key_of(make_run("vat")), 2)
    assert kept is not None and all("confusion" not in r["classes"] for r in kept["reports"])


@pytest.mark.parametrize("epochs", [4, 12, 30, 300])
def test_a_supervised_run_keeps_what_a_search_space_of_the_package_can_ask_for(epochs: int) -> None:
    asked = []
    for name in space_names():
        for variant in VARIANTS:
            try:
                found = load_space(name, variant).distributions(epochs)
            except ConfigError:  # a method without a wide space
                continue
            if SHARE_NAME in found:
                asked.append(warmup_from_share(found[SHARE_NAME].high, epochs))  # type: ignore[attr-defined]
            elif "warmup_epochs" in found:
                asked.append(found["warmup_epochs"].high)  # type: ignore[attr-defined]
    assert len(asked) > 10
    assert max(asked) == longest_shared(epochs)


def test_a_training_has_a_checkpoint_of_what_it_took_over_before_it_reports_it(
    store: WarmupStore, tmp_path: Path
) -> None:
    asked = {
        "dataset": "digits",
        "labels": 20,
        "network": "wrn-10-1",
        "epochs": 3,
        "steps_per_epoch": 2,
        "mu": 1,
    }
    config = from_document({**asked, "batch_size": 4, "method": "pseudo_label", "warmup_epochs": 2})
    train(config, warmups=store)

    def killed(report: Report) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, warmups=store, out=tmp_path / "run", on_report=killed)
    state = checkpoint.load_newest(tmp_path / "run" / CHECKPOINTS)
    assert state is not None and [SAVED in report["metrics"] for report in state["history"]] == [True, True]


def test_what_was_taken_over_is_marked_and_dated_by_the_taker(store: WarmupStore) -> None:
    first = make_run("vat", warmup_epochs=2)
    go(first, store, until=2)
    before = time.time_ns() // 1_000_000
    taken = go(make_run("vat", warmup_epochs=2), store)
    for report, original in zip(taken, first.history, strict=True):
        assert report.time_ms >= before
        assert report.metrics[SECONDS] == 0.0
        assert report.metrics[SAVED] == original.metrics[SECONDS] > 0
        rest = {k: v for k, v in report.metrics.items() if k not in (SECONDS, SAVED)}
        assert rest == {k: v for k, v in original.metrics.items() if k != SECONDS}
        assert report.classes == original.classes and report.ssl_epoch is None


def test_a_run_in_bfloat16_and_one_with_adamw_share_too(store: WarmupStore) -> None:
    for fields in ({"precision": "bfloat16"}, {"optimizer": "adamw", "lr": 1e-3}, {"head_epochs": 1}):
        alone = make_run("vat", warmup_epochs=2, **fields)
        finish(alone)
        go(make_run("vat", warmup_epochs=2, **fields), store, until=2)
        run = make_run("vat", warmup_epochs=2, **fields)
        assert len(go(run, store)) == 2
        assert_same_bits(compared(run), compared(alone))


def test_the_length_of_what_can_be_shared() -> None:
    data = make_data()
    assert warmup_length(make_config("vat", data, warmup_epochs=3)) == 3
    assert warmup_length(make_config("vat", data, warmup_epochs=3, stop_after_epoch=2)) == 2
    assert warmup_length(make_config("supervised", data)) == 4
    assert warmup_length(make_config("fixmatch", data, warmup_epochs=0)) == 0


# Damage


def damaged(path: Path, chance: random.Random) -> None:
    """Harm a file in one of many ways."""
    data = bytearray(path.read_bytes() or b"empty already")
    way = chance.choice(["cut", "flip", "empty", "text", "gone", "other", "half"])
    if way == "cut":
        data = data[: chance.randrange(len(data))]
    elif way == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "empty":
        data = bytearray()
    elif way == "text":
        data = bytearray(b"not a checkpoint")
    elif way == "other":  # whole, but of another make
        checkpoint.write(path, {"weights": torch.zeros(3)})
        return
    elif way == "half":
        part = chance.choice(["network", "ema", "optimizer", "reports", "key", "epoch"])
        with suppress(checkpoint.DamagedCheckpointError):  # harmed before, and not read since
            checkpoint.write(path, {k: v for k, v in checkpoint.read(path).items() if k != part})
        return
    if way == "gone":
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.filterwarnings("ignore:a stored warm-up is removed")
def test_entries_that_are_damaged_at_random_change_no_bit(store: WarmupStore) -> None:
    alone = make_run("vat", epochs=5, warmup_epochs=3)
    finish(alone)
    expected, chance, taken = compared(alone), random.Random(0), set()
    for _ in range(12):
        go(make_run("vat", epochs=5, warmup_epochs=3), store, until=3)
        for path in sorted(store.folder.rglob("*.ckpt")):
            if chance.random() < 0.7:
                damaged(path, chance)
        run = make_run("vat", epochs=5, warmup_epochs=3)
        taken.add(len(go(run, store)))
        assert_same_bits(compared(run), expected)
    assert len(taken) > 2  # the damage was sometimes at the end, sometimes everywhere


def forge(store: WarmupStore, key: str, epoch: int, parts: dict[str, Any]) -> None:
    """A file of the store with the right checksum, and other parts."""
    path = checkpoint.path_of(store.folder / key, epoch)
    state = checkpoint.read(path)
    checkpoint.write(path, state | parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"key": "f" * 32},
        {"epoch": 1},
        {"network": {}},
        {"ema": {"stem.weight": torch.zeros(1)}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": {"state": {}, "param_groups": [{"params": [0]}, {"params": []}]}},
        {"reports": []},
        {"reports": [{"epoch": 1}, {"epoch": 2}]},
        {"reports": "text"},
    ],
    ids=str,
)
def test_what_has_the_right_checksum_but_does_not_fit_is_removed_and_trained(
    store: WarmupStore, parts: dict[str, Any]
) -> None:
    alone = make_run("vat", warmup_epochs=2)
    finish(alone)
    go(make_run("vat", warmup_epochs=2), store, until=2)
    key = key_of(make_run("vat"))
    forge(store, key, 2, parts)
    run = make_run("vat", warmup_epochs=2)
    with pytest.warns(UserWarning, match="removed and trained again"):
        assert len(go(run, store)) == 1
    assert_same_bits(compared(run), compared(alone))
    assert store.epochs(key) == [2, 1]  # and kept again
    assert len(go(make_run("vat", warmup_epochs=2), store, until=3)) == 2


def test_a_store_that_cannot_be_used_is_in_nobody_s_way(tmp_path: Path) -> None:
    place = tmp_path / "a-file"
    place.write_text("no folder")
    run, alone = make_run("vat", warmup_epochs=2), make_run("vat", warmup_epochs=2)
    finish(alone)
    assert go(run, WarmupStore(place)) == []
    assert_same_bits(compared(run), compared(alone))
    assert place.read_text() == "no folder"


def test_a_store_of_size_zero_keeps_and_takes_nothing(tmp_path: Path) -> None:
    full, off = WarmupStore(tmp_path / "w", 10**9), WarmupStore(tmp_path / "w", 0)
    go(make_run("vat"), full)
    assert go(make_run("vat"), off) == []
    assert not off.epochs(key_of(make_run("vat")))
    off.folder = tmp_path / "other"
    go(make_run("vat"), off)
    assert not off.folder.exists()


# The bound


def entry(number: int) -> dict[str, Any]:
    return {"weights": torch.full((1000,), float(number))}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    size = len(checkpoint.packed(entry(0)))
    store = WarmupStore(tmp_path / "w", 3 * size)
    for number in range(3):
        assert store.write("a", number, entry(number))
        os.utime(checkpoint.path_of(store.folder / "a", number), (number, number))
    store.used("a", 0)
    assert store.write("b", 9, entry(9))
    assert store.epochs("a") == [2, 0] and store.epochs("b") == [9]
    for number in range(20):
        assert store.write("c", number, entry(number))
        assert sum(p.stat().st_size for p in store.folder.rglob("*.ckpt")) <= 3 * size
    assert store.epochs("c") == [19, 18, 17]
    assert not (store.folder / "a").exists()  # an empty folder goes with its last file


def test_what_is_larger_than_the_bound_is_not_kept_and_nothing_goes_for_it(tmp_path: Path) -> None:
    size = len(checkpoint.packed(entry(0)))
    store = WarmupStore(tmp_path / "w", size)
    assert store.write("a", 1, entry(1))
    assert not store.write("a", 2, {"weights": torch.zeros(100_000)})
    assert store.epochs("a") == [1]


def test_the_default_bound_is_a_share_of_the_disk_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, free = WarmupStore(tmp_path), 10**9
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    assert store.bound(0) == int(SHARE * free)
    assert store.bound(10**8) == int(SHARE * (free + 10**8))  # what the store itself takes counts as free


def test_what_killed_writers_left_goes_when_it_is_old(tmp_path: Path) -> None:
    store = WarmupStore(tmp_path / "w", 10**9)
    store.write("a", 1, entry(1))
    old, new = (store.folder / "a" / f".epoch-000002.ckpt.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * STALE_SECONDS,) * 2)
    store.write("a", 3, entry(3))
    assert not old.exists() and new.exists()
    assert store.epochs("a") == [3, 1]
