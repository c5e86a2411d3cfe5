"""Large databases in an object store: what has changed is written in parts, and put together elsewhere."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.tune.store.test_remote import Machine, ask, begin, machine, seen, url  # noqa: F401 - fixtures
from tune.store import snapshot
from tune.store.changes import chain as module
from tune.store.changes.chain import Chain, is_part, name_of_part
from tune.store.changes.patch import BLOCK, cut, put_together
from tune.store.events import NewEvent
from tune.store.object_store import ObjectStore, StoreError
from tune.store.remote_study import RemoteStudy
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small studies are written as large ones are."""
    monkeypatch.setattr(snapshot, "WHOLE", 0)


def test_files_are_put_together_as_they_were_after_each_change(tmp_path: Path) -> None:
    chance, path = random.Random(0), tmp_path / "events.db"
    digests: dict[str, Any] = {}
    parts: list[bytes] = []
    for round_ in range(12):
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, x BLOB)")
            rows = [(chance.randbytes(chance.randint(1, 9000)),) for _ in range(20)]
            database.executemany("INSERT INTO t (x) VALUES (?)", rows)
            database.execute("UPDATE t SET x = ? WHERE id % 7 = ?", (b"short", round_ % 7))
            if round_ == 6:
                database.execute("DELETE FROM t WHERE id > 30")
        if round_ == 6:
            database.execute("VACUUM")  # the file gets shorter
        database.close()
        other = tmp_path / "optuna.db"
        other.write_bytes(chance.randbytes(3 * BLOCK + round_))  # ends within a block
        part, digests = cut({"events.db": path, "optuna.db": other}, digests)
        parts.append(part)
        there = tmp_path / f"there-{round_}"
        there.mkdir()
        put_together(parts, there, ("events.db", "optuna.db"))
        assert (there / "events.db").read_bytes() == path.read_bytes()
        assert (there / "optuna.db").read_bytes() == other.read_bytes()
    nothing, _ = cut({"events.db": path, "optuna.db": other}, digests)
    assert len(nothing) < 150 and [*map(len, parts)] > [10_000]


def part_of(head: dict[str, Any], blocks: bytes = b"") -> bytes:
    return gzip.compress(json.dumps({"files": [head]}).encode() + b"\n" + blocks, mtime=0)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (part_of({"name": "../x", "size": 0, "places": []}), r"'\.\./x' is no file"),
        (part_of({"name": "study.yaml", "size": 0, "places": []}), "'study.yaml' is no file"),
        (part_of({"name": "events.db", "size": 2**40, "places": []}), "are no size of events.db"),
        (part_of({"name": "events.db", "size": "9", "places": []}), "are no size of events.db"),
        (part_of({"name": "events.db", "size": 9, "places": [1]}, b"123456789"), "1 is no block"),
        (part_of({"name": "events.db", "size": 9, "places": [-1]}, b"123456789"), "-1 is no block"),
        (part_of({"name": "events.db", "size": 9, "places": [0]}, b"1234"), "events.db is cut off"),
        (gzip.compress(b"[]\n"), "no part of a study"),
        (gzip.compress(b"{}\n"), "no part of a study"),
        (b"no gzip", "no part of a study"),
        (gzip.compress(b"x" * 100)[:-4], "no part of a study"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, part: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        put_together([part], tmp_path, ("events.db", "optuna.db"))


def test_a_part_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.store.changes import patch

    monkeypatch.setattr(patch, "FEW", 2**10)
    with pytest.raises(ValueError, match="more than 200 times its size"):
        put_together([gzip.compress(bytes(2**22))], tmp_path, ("events.db",))


def parts_in(store: ObjectStore) -> list[str]:
    return store.names("studies/s/parts")


def commit_trials(folder: StudyFolder, rounds: int) -> None:
    for _ in range(rounds):
        ask(folder)
        folder.commit()


@pytest.mark.usefixtures("in_parts")
def test_a_study_in_parts_is_seen_elsewhere_and_goes_on_there(
    machine: Machine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LONGEST", 4)
    folder = begin(machine("one"))
    store = ObjectStore(str(machine("one").url))
    for round_ in range(11):
        commit_trials(folder, 1)
        states = RemoteStudy(store, folder.path).states()
        assert states[-1].endswith(".parts.tar.gz") and len(states) == min(2, round_ + 2)
        assert len(seen(machine("two")).records()) == round_ + 1
        assert len(parts_in(store)) <= 4 + 2  # those of a chain that came to its end go soon
    folder.unlock()
    elsewhere = StudyFolder(seen(machine("two")).folder.path)
    elsewhere.lock()  # another driver: it knows of no block, and begins a chain of its own
    commit_trials(elsewhere, 3)
    elsewhere.unlock()
    assert len(seen(machine("three")).records()) == len(seen(machine("one")).records()) == 14
    assert {name[:10] > "0000000012" for name in parts_in(store)} == {True}


@pytest.mark.usefixtures("in_parts")
def test_of_a_state_with_a_damaged_part_the_one_before_is_taken(machine: Machine) -> None:  # noqa: F811
    folder = begin(machine("one"))
    commit_trials(folder, 2)
    store, remote = ObjectStore(str(machine("one").url)), folder.remote
    assert remote is not None
    old = remote.states()
    first, *_, newest = parts_in(store)
    kept = store.get(f"studies/s/parts/{newest}")
    store.put(f"studies/s/parts/{newest}", b"half of")
    assert len(seen(machine("two")).records()) == 1
    store.put(f"studies/s/parts/{newest}", kept or b"")
    commit_trials(folder, 2)
    there = RemoteStudy(store, machine("three").study_folder("s"))
    there.folder.mkdir(parents=True)
    there._unpack_newest(old)  # a driver went on since the states were listed, and removed them
    assert there.known() == remote.states()[-1]
    folder.unlock()
    store.remove(f"studies/s/parts/{first}")
    with pytest.raises(StoreError, match="no whole state of the study 's'"):
        machine("four").has_study("s")


@pytest.mark.usefixtures("in_parts")
def test_a_commit_writes_what_has_changed(machine: Machine) -> None:  # noqa: F811
    """With an event log of some megabytes an ask writes a fiftieth of it."""
    folder, chance = begin(machine("one")), random.Random(0)
    ask(folder, 30)
    with open_log(folder) as log:
        texts = [{"file": f"{n}.txt", "text": chance.randbytes(4000).hex()} for n in range(900)]
        log.append_many(NewEvent("text", f"s/{n % 30}", text, None, n) for n, text in enumerate(texts))
    folder.commit()
    store = ObjectStore(str(machine("one").url))
    whole = len(store.get(f"studies/s/parts/{parts_in(store)[-1]}") or b"")
    commit_trials(folder, 3)
    sizes = [len(store.get(f"studies/s/parts/{name}") or b"") for name in parts_in(store)[-3:]]
    assert whole > 3_000_000 and max(sizes) < whole / 50
    states = [len(store.get(f"studies/s/state/{name}") or b"") for name in store.names("studies/s/state")]
    assert max(states) < 20_000
    folder.unlock()


def test_a_small_study_is_one_object_as_before(machine: Machine) -> None:  # noqa: F811
    folder = begin(machine("one"))
    commit_trials(folder, 2)
    store = ObjectStore(str(machine("one").url))
    assert parts_in(store) == [] and all(".parts." not in name for name in store.names("studies/s/state"))
    folder.unlock()


def test_a_chain_leaves_other_drivers_parts_alone(tmp_path: Path) -> None:
    """A driver that was thought dead may go on for a moment: of the one that took over it removes nothing."""
    path, chain = tmp_path / "events.db", Chain()
    for number in (7, 8):
        path.write_bytes(b"x" * number)
        chain.adopt(chain.part(number, {"events.db": shutil.copy(path, tmp_path / "copy.db")}))
    assert chain.may_clean
    names = [name_of_part(number, b"") for number in (3, 6, 7, 9)]
    assert chain.left_behind([*names, "0000000001-strange"]) == names[:2]
    chain.cleaned()
    assert not chain.may_clean
    assert is_part(names[0], b"") and not is_part(names[0], b"x") and not is_part("../x") and not is_part(3)
