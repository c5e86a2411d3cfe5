"""Studies in an object store: writes that come late, drivers that begin at once, a heartbeat that meets an error."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tune.errors import ServiceError
from tune.store import lease as lease_module
from tune.store import mirror as mirror_module
from tune.store.layout import DRIVER, prefix_of
from tune.store.lease import Lease
from tune.store.mirror import Mirror
from tune.store.object_store import ObjectStore, StoreError
from tune.store.remote_study import RemoteStudy
from tune.store.snapshot import number_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lease_module, mirror_module):
        monkeypatch.setattr(module, "LOOK", 0.0 if module is lease_module else 0.05)
        monkeypatch.setattr(module, "BEAT", 0.2)
    monkeypatch.setattr(lease_module, "SETTLE", 0.0)
    monkeypatch.setattr(mirror_module, "COMMIT", 0.1)


@pytest.fixture
def machines(s3: str, tmp_path: Path) -> Callable[[str], RemoteStudy]:
    """Working copies of one study, each on a machine of its own."""

    def machine(name: str) -> RemoteStudy:
        folder = tmp_path / name / "studies" / "s"
        folder.mkdir(parents=True, exist_ok=True)
        return RemoteStudy(ObjectStore(s3), folder)

    return machine


def test_of_two_that_create_an_object_one_succeeds(s3: str) -> None:
    store, wins = ObjectStore(s3), list[bytes]()

    def create(word: bytes) -> None:
        if ObjectStore(s3).create("a", word):
            wins.append(word)

    threads = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1 and store.get("a") == wins[0]
    assert store.create("a", wins[0]) and not store.create("a", b"other")


def test_a_state_that_an_earlier_driver_writes_late_does_not_win(
    machines: Callable[[str], RemoteStudy],
) -> None:
    here, there = machines("one"), machines("two")
    (here.folder / "study.yaml").write_text("old")
    old = Mirror(here)
    old._end.set()  # its machine is suspended from here on
    old._thread.join()
    there.store.remove(f"{prefix_of('s')}/{DRIVER}")  # silent for so long that it is taken for gone
    assert there.fetch()
    new = Mirror(there)
    (there.folder / "study.yaml").write_text("new")
    new.commit()
    (here.folder / "study.yaml").write_text("late")
    old._lease.check = lambda: None  # type: ignore[method-assign]  # it had looked just before it was suspended
    with pytest.raises(StoreError, match="wrote the next state first"):
        old.commit()
    new.close()
    reader = machines("three")
    assert reader.fetch() and (reader.folder / "study.yaml").read_text() == "new"


def test_a_number_that_was_taken_and_never_written_is_left_out(
    machines: Callable[[str], RemoteStudy],
) -> None:
    here = machines("one")
    (here.folder / "study.yaml").write_text("a")
    first = Mirror(here)
    first.close()
    last = number_of(here.states()[-1])
    here.store.create(f"{prefix_of('s')}/numbers/{last + 1:010d}", b"a driver that died just then")
    (here.folder / "study.yaml").write_text("b")
    second = Mirror(here)
    second.close()
    assert number_of(here.states()[-1]) == last + 2


def test_an_earlier_driver_s_name_that_comes_late_takes_nothing_from_the_one_that_has_the_study(
    machines: Callable[[str], RemoteStudy],
) -> None:
    old = Lease(machines("one"))
    old._store.remove(f"{prefix_of('s')}/{DRIVER}")
    new = Lease(machines("two"))
    old.renew()  # had looked just before
    new.check()
    assert json.loads(new._store.get(f"{prefix_of('s')}/{DRIVER}") or b"")["driver"] == new.me
    with pytest.raises(StoreError, match="has taken the study over"):
        old.check()


def test_of_two_drivers_that_begin_at_once_one_has_the_study(machines: Callable[[str], RemoteStudy]) -> None:
    got, refused = list[Lease](), list[ServiceError]()
    ready = threading.Barrier(4)

    def take(name: str) -> None:
        remote = machines(name)
        ready.wait()
        try:
            got.append(Lease(remote))
        except ServiceError as error:
            refused.append(error)

    threads = [threading.Thread(target=take, args=(f"m{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3


def test_the_heartbeat_outlives_an_error_of_sqlite(
    machines: Callable[[str], RemoteStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machines("one")
    (here.folder / "study.yaml").write_text("a")
    mirror = Mirror(here)
    real, failed = mirror_module.pack, list[int]()

    def pack(*what: Any) -> Any:
        if len(failed) < 3:
            failed.append(1)
            raise sqlite3.OperationalError("database is locked")
        return real(*what)

    monkeypatch.setattr(mirror_module, "pack", pack)
    (here.folder / "study.yaml").write_text("b")
    deadline = time.monotonic() + 240
    while len(here.states()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(failed) == 3 and len(here.states()) == 2 and mirror._thread.is_alive()
    assert mirror.trouble is None
    mirror.close()
