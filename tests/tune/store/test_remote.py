"""A home in an object store: what another machine sees of a study, who may drive it, and what a lost machine loses."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from ssl_core.system.errors import ConfigError
from ssl_core.training import checkpoint
from tests.tune.engine.test_interrupt import check_whole, kept_histories
from tests.tune.helpers import (
    Done,
    carry_on_words,
    driver,
    make_spec,
    reports,
    shapes_options,
    told,
    wait_until,
    when,
    words_of,
)
from tune.definition.objective import BOTH
from tune.errors import Exit, ServiceError
from tune.findings.study import Study, load_study
from tune.store import lease, mirror, snapshot
from tune.store import remote_study as remote
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.layout import LIMIT_FILE
from tune.store.object_store import ObjectStore, StoreError
from tune.store.remote_study import RemoteStudy
from tune.store.study_folder import StudyFolder
from tune.tracking.opening import open_log
from tune.trials.study_trials import StudyTrials
from tune.worker.trial_files import RemoteTrial, checkpoints_kept

Command = Callable[..., Done]
Machine = Callable[[str], Home]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place for a home, which machines have no working copy of yet."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Be on the machine of that name; returns the home as it is seen there. Nobody contends for a study."""
    monkeypatch.setattr(lease, "SETTLE", 0.0)

    def be_on(name: str) -> Home:
        monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / name))
        return Home(url)

    return be_on


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers look around within hundredths of a second."""
    monkeypatch.setattr(lease, "LOOK", 0.02)
    for name, seconds in (("LOOK", 0.02), ("BEAT", 0.1), ("COMMIT", 0.05)):
        monkeypatch.setattr(mirror, name, seconds)


def begin(home: Home, name: str = "s", **options: Any) -> StudyFolder:
    """A study as its driver has it that has just begun: locked."""
    spec = make_spec(home, name=name, tracking_uri="sqlite:////nowhere/mlflow.db", **options)
    folder = StudyFolder(home.study_folder(name))
    folder.create(spec)
    return folder


def ask(folder: StudyFolder, trials: int = 1) -> None:
    """Ask for some trials."""
    records = StudyTrials(folder, load_study(folder.path.name, home=folder.path.parent.parent).spec)
    for _ in range(trials):
        records.ask()
    records.close()


def seen(home: Home) -> Study:
    """The study `s` as a command of that machine sees it."""
    return Study(home.existing_study_folder("s"))


def soon(condition: Callable[[], object]) -> None:
    """Wait for what a thread does."""
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What another machine sees


def test_a_study_is_seen_elsewhere_as_it_was_last_committed(machine: Machine) -> None:
    folder = begin(machine("one"))
    ask(folder, 2)
    folder.commit()
    ask(folder)
    mine = load_study("s", home=folder.path.parent.parent)
    assert len(mine.records()) == 3

    there = seen(machine("two"))
    assert there.folder.path != mine.folder.path
    assert [r.params for r in there.records()] == [r.params for r in mine.records()[:2]]
    assert there.spec == mine.spec and there.status()["state"] == "running"
    folder.unlock()
    assert len(seen(machine("two")).records()) == 3
    assert there.status()["state"] == "interrupted"


def test_homes_list_the_studies_of_the_store_and_of_no_copy(machine: Machine) -> None:
    begin(machine("one"), "a").unlock()
    begin(machine("one"), "b").unlock()
    assert set(machine("two").study_names()) == {"a", "b"}
    assert machine("two").free_name("a") == "a-2"
    ObjectStore(str(machine("two").url)).remove_all("studies/a")
    assert machine("two").study_names() == ["b"] and not machine("one").has_study("a")
    with pytest.raises(ConfigError, match=r"no study 'c' in file://.*Studies there: b\."):
        machine("two").existing_study_folder("c")


def test_nothing_is_written_where_nothing_has_changed_and_two_snapshots_are_kept(machine: Machine) -> None:
    folder = begin(machine("one"))
    there = folder.remote
    assert there is not None
    folder.commit()
    before = there.states()
    folder.commit()
    assert there.states() == before
    for _ in range(3):
        ask(folder)
        folder.commit()
    first, second = there.states()
    assert first < second and second.startswith("0000000004-") and before[-1] not in (first, second)
    folder.unlock()


def test_of_damaged_snapshots_the_one_before_is_taken_and_none_is_an_error(machine: Machine) -> None:
    folder = begin(machine("one"))
    folder.commit()
    ask(folder)
    folder.unlock()
    store = ObjectStore(str(machine("one").url))
    before, newest = RemoteStudy(store, folder.path).states()
    store.put(f"studies/s/state/{newest}", b"half of")
    assert len(seen(machine("two")).records()) == 0
    assert len(seen(machine("one")).records()) == 1  # its own copy is that very state
    store.put(f"studies/s/state/{before}", b"")
    with pytest.raises(StoreError, match="no whole state of the study 's'"):
        machine("three").has_study("s")


def test_a_snapshot_cannot_write_outside_the_working_copy(machine: Machine, tmp_path: Path) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../escaped"))
    store = ObjectStore(str(machine("one").url))
    store.put(f"studies/s/state/{snapshot.name_of(1, buffer.getvalue())}", buffer.getvalue())
    with pytest.raises(StoreError, match=r"cannot be unpacked: '\.\./\.\./escaped' is neither"):
        machine("one").has_study("s")
    assert not list(tmp_path.rglob("escaped"))


def test_a_study_of_the_same_name_begun_elsewhere_replaces_the_copy_of_an_older_one(machine: Machine) -> None:
    folder = begin(machine("one"))
    (folder.trials / "0").mkdir(parents=True)
    (folder.trials / "0" / "error.txt").write_text("of the first")
    folder.unlock()
    ObjectStore(str(machine("one").url)).remove_all("studies/s")
    begin(machine("two"), trials=3).unlock()
    study = seen(machine("one"))
    assert study.spec.trials == 3 and not (study.folder.trials / "0").exists()
    ObjectStore(str(machine("one").url)).remove_all("studies/s")
    begin(machine("one"), trials=2).unlock()  # over its own copy of what is not there any more
    assert seen(machine("two")).spec.trials == 2


def test_a_name_that_is_taken_in_the_store_is_refused_and_nothing_is_left(machine: Machine) -> None:
    begin(machine("one")).unlock()
    machine("two").has_study("s")
    with pytest.raises(ConfigError, match=r"'s' exists already.*ssl-tune resume s"):
        begin(machine("two"))


def test_a_study_that_comes_to_nothing_leaves_nothing_in_the_store(machine: Machine) -> None:
    folder = begin(machine("one"))
    folder.remove()
    assert ObjectStore(str(machine("one").url)).all_below("studies") == [] and not folder.path.exists()


# Who may drive it


def test_a_study_that_is_deleted_is_gone_for_every_machine(
    machine: Machine, url: str, ssl_tune: Command
) -> None:
    folder = begin(machine("one"))
    ask(folder, 2)
    begin(machine("one"), "other").unlock()
    machine("two")
    done = ssl_tune("delete", "s", "--yes", "--home", url)
    assert done.code == Exit.IN_USE and "in use" in done.err  # its driver lives
    folder.unlock()
    assert ssl_tune("delete", "s", "--yes", "--home", url).code == 0
    assert not any("studies/s/" in name for name in ObjectStore(url).all_below(""))
    assert not machine("one").has_study("s") and machine("one").study_names() == ["other"]
    begin(machine("one")).unlock()  # the name is free
    assert seen(machine("two")).records() == []


def test_a_second_driver_is_refused_and_told_who_the_first_one_is(machine: Machine) -> None:
    first = begin(machine("one"))
    study = seen(machine("two"))
    with pytest.raises(ServiceError, match=rf"in use by a driver on .* \(process {os.getpid()}\)") as refused:
        study.folder.lock()
    assert refused.value.code == Exit.IN_USE and "the study is free in" in str(refused.value)
    with pytest.raises(ServiceError, match="in use by another driver"):  # of this machine: the lock tells
        seen(machine("one")).folder.lock()
    first.unlock()


def test_a_silent_driver_loses_the_study_and_can_write_nothing_more(
    machine: Machine, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(machine("one"))
    assert folder._mirror is not None
    folder._mirror._end.set()  # it is not heard of any more
    folder._mirror._thread.join()
    for module in (remote, lease, mirror):
        monkeypatch.setattr(module, "LEASE", 0.3)
    time.sleep(0.4)
    other = seen(machine("two")).folder
    other.lock()
    ask(other)
    ask(folder)
    with pytest.raises(StoreError, match=r"another driver, on .*, has taken the study over"):
        folder.commit()
    assert "taken the study over" in str(folder.trouble())
    with pytest.raises(ServiceError, match="is on this machine alone") as lost:
        folder.unlock()
    assert lost.value.code == Exit.STORAGE
    other.unlock()
    assert len(seen(machine("three")).records()) == 1
    assert seen(machine("three")).folder.is_locked() is False


def test_of_two_drivers_that_begin_at_once_one_gives_way(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(machine("one")).unlock()
    first, second = (seen(machine(name)).folder for name in ("one", "two"))
    monkeypatch.setattr(lease, "SETTLE", 0.5)
    monkeypatch.setattr(RemoteStudy, "driver", lambda _: None)  # neither has seen the other yet
    refused: list[Exit] = []

    def take(folder: StudyFolder) -> None:
        try:
            folder.lock()
        except ServiceError as error:
            refused.append(error.code)

    takers = [threading.Thread(target=take, args=[folder]) for folder in (first, second)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert refused == [Exit.IN_USE]
    (holder,) = (folder for folder in (first, second) if folder._mirror is not None)
    holder.unlock()


def test_a_driver_that_comes_with_an_old_copy_is_turned_away(machine: Machine) -> None:
    begin(machine("one")).unlock()
    old = seen(machine("two")).folder
    newer = seen(machine("one")).folder
    newer.lock()
    ask(newer)
    newer.unlock()
    with pytest.raises(ServiceError, match="carried on by another driver a moment ago") as refused:
        old.lock()
    assert refused.value.code == Exit.IN_USE and not newer.is_locked()
    seen(machine("two")).folder.lock()
    assert len(seen(machine("two")).records()) == 1


def test_the_copy_of_a_driver_that_died_is_ahead_until_somebody_else_has_carried_on(machine: Machine) -> None:
    folder = begin(machine("one"))
    ask(folder)
    assert folder._mirror is not None and folder._lock is not None
    folder._mirror._end.set()
    folder._mirror._thread.join()
    folder._lock.close()  # as when the process is killed
    mine = seen(machine("one"))
    assert len(mine.records()) == 1 and len(seen(machine("two")).records()) == 0
    mine.folder.lock()  # at once: nobody else can hold the lock of this copy
    mine.folder.unlock()
    assert len(seen(machine("two")).records()) == 1


def test_a_driver_hears_from_another_machine_that_it_is_to_stop(machine: Machine, quick: None) -> None:
    folder = begin(machine("one"))
    seen(machine("two")).folder.request_stop()
    soon(folder.stop_requested)
    folder.unlock()
    again = seen(machine("two")).folder
    again.lock()
    time.sleep(0.1)
    assert not again.stop_requested()  # meant for the driver before
    again.unlock()


def test_changes_are_committed_by_themselves_and_a_store_that_stays_away_is_told_of(
    machine: Machine, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(machine("one"))
    there = folder.remote
    assert there is not None
    soon(lambda: there.states())
    before = there.states()[-1]
    ask(folder)
    soon(lambda: there.states()[-1] != before)

    def away(*_: object) -> None:
        raise StoreError("it does not answer")

    for module in (remote, lease, mirror):
        monkeypatch.setattr(module, "LEASE", 0.3)
    with monkeypatch.context() as during:
        during.setattr(ObjectStore, "put", away)
        ask(folder)
        soon(folder.trouble)
    assert folder.trouble() == "it does not answer"
    folder.unlock()
    assert len(seen(machine("two")).records()) == 2


# What MLflow may hear of


def test_what_is_not_in_the_store_yet_is_not_delivered(machine: Machine) -> None:
    folder = begin(machine("one"))
    with open_log(folder) as log:
        log.append("text", "s/0", {"file": "a", "text": "1"})
        folder.commit()
        log.append("text", "s/0", {"file": "b", "text": "2"})
        log.append("figure", "s/0", {"figure": "c", "file": "c"})
        assert [e.payload["file"] for e in log.next_owed(10)] == ["a"] and log.owed_figures(10) == []
        assert log.held_back() and log.pending() == 3
        folder.commit()
        assert [e.payload["file"] for e in log.next_owed(10)] == ["a", "b"]
        assert len(log.owed_figures(10)) == 1 and not log.held_back()
    folder.unlock()
    there = seen(machine("two")).folder
    assert not (there.path / LIMIT_FILE).exists()  # all that it has is in the store
    with EventLog(there.events_db) as log:
        assert len(log.next_owed(10)) == 2 and not log.held_back()


# Trials


def write_epoch(trial: RemoteTrial, epoch: int, last_epoch: int = 99) -> None:
    """A checkpoint, as a worker writes one."""
    kept = checkpoints_kept(epoch, last_epoch)
    checkpoint.save(trial.folder, epoch, {"epoch": epoch}, keep=kept)
    trial.keep_checkpoint(epoch, kept)


def test_a_trial_goes_on_elsewhere_from_its_newest_checkpoint(machine: Machine) -> None:
    folder = begin(machine("one"))
    there = folder.remote
    assert there is not None
    here = RemoteTrial(there.place(), 4)
    here.fetch()
    for epoch in range(1, 5):
        write_epoch(here, epoch)
    (here.folder / "failures").write_bytes(b"1")
    here.keep("failures")
    here.keep("picture.npz")  # of a method that has none
    names = ["epoch-000003.ckpt", "epoch-000004.ckpt", "failures"]
    assert there.store.names("studies/s/trials/4") == names

    machine("two")
    elsewhere = RemoteTrial(there.place(), 4)
    elsewhere.fetch()
    assert elsewhere.folder != here.folder and elsewhere.cache != here.cache
    assert checkpoint.load_newest(elsewhere.folder) == {"epoch": 4}
    assert (elsewhere.folder / "failures").read_bytes() == b"1"
    write_epoch(elsewhere, 5)
    assert there.store.names("studies/s/trials/4")[:2] == ["epoch-000004.ckpt", "epoch-000005.ckpt"]
    write_epoch(elsewhere, 6, last_epoch=6)
    assert there.store.names("studies/s/trials/4") == ["epoch-000006.ckpt", "failures"]
    assert checkpoint.epochs_in(elsewhere.folder) == [6]

    other_study = RemoteTrial({**there.place(), "incarnation": uuid.uuid4().hex}, 5)
    other_study.fetch()
    assert not elsewhere.folder.exists()  # what is left of another study of that name is nobody's
    folder.unlock()


def test_checkpoints_go_only_when_the_trial_s_end_is_in_the_store(machine: Machine) -> None:
    folder = begin(machine("one"))
    there = folder.remote
    assert there is not None
    trial = RemoteTrial(there.place(), 0)
    trial.fetch()
    write_epoch(trial, 1)
    folder.commit()
    folder.drop_trial(0)
    assert not trial.folder.exists() and there.store.names("studies/s/trials") == ["0"]
    folder.commit()
    assert there.store.names("studies/s/trials") == []
    folder.unlock()


def test_a_worker_s_notes_are_brought_to_the_driver_and_its_own_to_the_worker(machine: Machine) -> None:
    folder = begin(machine("one"))
    there = folder.remote
    assert there is not None
    machine("two")
    worker = RemoteTrial(there.place(), 1)
    worker.fetch()
    (worker.folder / "error.txt").write_text("a traceback")
    worker.keep("error.txt")
    folder.bring(1, "error.txt")
    folder.bring(1, "picture.npz")
    assert (folder.trials / "1" / "error.txt").read_text() == "a traceback"
    (folder.trials / "1" / "killed-for-memory.txt").write_text("so it was")
    folder.keep(1, "killed-for-memory.txt")
    worker.fetch()
    assert (worker.folder / "killed-for-memory.txt").read_text() == "so it was"
    folder.unlock()
    copy = seen(machine("three")).folder
    assert (copy.trials / "1" / "error.txt").read_text() == "a traceback"


# Whole studies


def silence(url: str, study: str) -> None:
    """Let it be as long ago as it takes that the study's driver was last heard of."""
    store = ObjectStore(url)
    text = store.get(f"studies/{study}/driver.json")
    assert text is not None
    document = json.loads(text)
    store.put(
        f"studies/{study}/driver.json",
        json.dumps(document | {"beat": document["beat"] - remote.LEASE}).encode(),
    )


@pytest.mark.long
def test_a_study_whose_machine_is_lost_goes_on_elsewhere_and_equals_one_that_was_not(
    finished: Home, ready_home: Home, pictures: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server that speaks S3, each sitting on a machine with a working copy of its own."""
    home = f"{s3}/home"
    tracking = ready_home.default_tracking_uri
    words = ["search", *words_of(shapes_options(ready_home, pictures)), "--home", home]

    def on(name: str) -> Path:
        monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / name))
        return Home(home).studies / "shapes"

    folder = on("one")
    with driver(*words, "--tracking-uri", tracking) as process:
        wait_until(lambda: reports(folder) >= 8, process)
        process.kill()
        process.wait()
    lost = kept_histories(load_study("shapes", home=folder.parent.parent))

    on("two")
    with driver("resume", "shapes", "--home", home) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == Exit.IN_USE and "last heard of" in errors, (output, errors)
    silence(home, "shapes")
    with driver("resume", "shapes", "--home", home) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors

    study = load_study("shapes", home=home)
    assert told(Home(home)) == told(finished)
    check_whole(ready_home, study, 6)
    with EventLog(study.folder.events_db, read_only=True) as log:
        for trial, history in lost.items():
            known = {report.epoch: report.metrics for report in log.reports(f"shapes/{trial}")}
            for epoch in history[:-1]:  # the last one may not have reached the store
                # a checkpoint does not have what is made from the reports of several epochs
                reported = {k: v for k, v in known[epoch["epoch"]].items() if k != BOTH}
                assert reported == epoch["metrics"], trial  # the time that it took among them
    names = ObjectStore(home).all_below("studies/shapes")
    assert "driver.json" not in names and len([n for n in names if n.startswith("state/")]) == 2
    kept = {n.split("/")[1] for n in names if n.startswith("trials/")}
    assert kept == {r.trial for r in study.records() if r.state == "completed"}


@pytest.mark.usefixtures("local_ray", "readable")
def test_a_study_is_confirmed_exported_and_reported_wherever_its_store_is_seen(
    machine: Machine, ready_home: Home, pictures: Path, ssl_tune: Command, url: str, tmp_path: Path
) -> None:
    machine("one")
    options = shapes_options(ready_home, pictures) | {"trials": 2}
    tune.search(**options, tracking_uri=ready_home.default_tracking_uri, home=url, quiet=True)
    machine("two")
    at = ("--home", url)
    done = ssl_tune("confirm", "shapes", "--top", "1", "--seeds", "1", "--baseline", "plain", *at)
    assert done.code == 0, done
    (readings,) = ObjectStore(url).all_below("test-readings")
    assert len((ObjectStore(url).get(f"test-readings/{readings}") or b"").splitlines()) == 2
    machine("three")
    done = ssl_tune("export", "shapes", "-o", tmp_path / "best.yaml", *at)
    assert done.code == 0 and "confirmed" in (tmp_path / "best.yaml").read_text(), done
    assert ssl_tune("report", "shapes", "-o", tmp_path / "page.html", *at).code == 0
    assert ssl_tune("sync", "shapes", *at).code == 0
    assert [d["study"] for d in ssl_tune("studies", "--json", *at).document] == ["shapes"]
    again = ssl_tune("resume", "shapes", *at)
    assert again.code == 0 and "finished" in again.out + again.err


@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
def test_a_store_that_goes_away_ends_the_sitting_which_is_carried_on_later(
    machine: Machine,
    ready_home: Home,
    pictures: Path,
    ssl_tune: Command,
    url: str,
    finished: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = machine("one")
    folder = home.studies / "shapes"
    words = words_of(shapes_options(ready_home, pictures))
    put, gone = ObjectStore.put, [False]

    def sometimes(store: ObjectStore, name: str, data: bytes) -> None:
        if gone[0]:
            raise StoreError(f"{store.url} cannot write {name}: connection refused")
        put(store, name, data)

    monkeypatch.setattr(ObjectStore, "put", sometimes)
    with when(lambda: reports(folder) >= 8, lambda: gone.__setitem__(0, True)):
        done = ssl_tune("search", *words, "--home", url, "--tracking-uri", ready_home.default_tracking_uri)
    assert done.code == Exit.STORAGE, done
    assert "cannot write" in done.err
    words = carry_on_words(done.err + done.out)
    assert words == ["resume", "shapes", "--home", url]
    gone[0] = False
    done = ssl_tune(*words)
    assert done.code == 0, done
    assert told(home) == told(finished)
    check_whole(ready_home, load_study("shapes", home=url), 6)


# Bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["search"], "no place for MLflow's SQLite file: name a server with --tracking-uri"),
        (["train", "--method", "supervised"], "train keeps its files in a folder: name one with --home"),
        (["reproduce", "table1"], "reproduce keeps its files in a folder"),
        (["ui"], "ui keeps its files in a folder"),
        (["compare", "--methods", "vat"], "compare keeps its files in a folder"),
        (["status", "nothing"], "no study 'nothing' in file://"),
    ],
)
def test_what_a_store_is_no_place_for_is_refused_in_words(
    url: str, machine: Machine, words: list[str], says: str, ssl_tune: Command
) -> None:
    machine("one")
    done = ssl_tune(*words, "--home", url)
    assert (done.code, done.out) == (Exit.USAGE, "") and says in done.err
    assert not ObjectStore(url).all_below("")


def test_a_store_that_cannot_be_written_is_found_before_anything_starts(s3: str, ssl_tune: Command) -> None:
    done = ssl_tune("search", "--home", "s3://not-there/home", "--tracking-uri", "http://127.0.0.1:9")
    assert done.code == Exit.USAGE and "bucket does not exist" in done.err
    findings = {f["what"]: f for f in ssl_tune("doctor", "--home", "s3://not-there/home", "--json").document}
    assert findings["home"]["verdict"] == "bad" and "not-there" in findings["home"]["found"]
