"""Keeping house: a study deleted, a home cleaned, a study packed and unpacked; each killed in the middle."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import SSL_TUNE, Done, make_study, mlflow_runs, told
from tune.errors import ServiceError
from tune.findings.study import load_study
from tune.launch.keeping.packing import FORMAT, MANIFEST
from tune.store.home import Home
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]


def killed_at(point: str, *words: object) -> None:
    """The command, which kills itself at a point."""
    done = subprocess.run(
        [SSL_TUNE, *map(str, words)],
        env={**os.environ, "SSL_TUNE_FAULT": point},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)


# delete


def test_a_deleted_study_is_gone_and_its_runs_stay_unless_asked(ssl_tune: Command, copied: Home) -> None:
    readings = "one reading\n"
    copied.test_readings.write_text(readings)
    done = ssl_tune("delete", "shapes", "--yes", "--home", copied.path)
    assert done.code == 0 and "deleted: shapes" in done.out
    assert copied.study_names() == [] and list(copied.studies.iterdir()) == []
    assert len(mlflow_runs(copied, "shapes")) == 7
    assert copied.test_readings.read_text() == readings


def test_runs_in_mlflow_are_deleted_with_tracking(copied: Home) -> None:
    assert tune.delete("shapes", tracking=True, home=copied.path).runs == 7
    assert mlflow_runs(copied, "shapes") == {}


def test_trials_in_a_database_of_storage_go_with_their_study_and_no_other_s(
    home: Home, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/trials.db"
    for name in ("one", "two"):
        folder, spec = make_study(home, name=name, storage=storage)
        records = StudyTrials(folder, spec)
        records.ask()
        records.close()
    tune.delete("one", home=home.path)
    assert home.study_names() == ["two"] and len(load_study("two", home=home.path).records()) == 1
    folder, spec = make_study(home, name="one", storage=storage)  # the name is free, in the database, too
    records = StudyTrials(folder, spec)
    assert records.all() == []
    records.close()


def test_a_copy_of_a_home_deletes_its_own_runs_and_not_those_of_the_other(
    copied: Home, tmp_path: Path
) -> None:
    other = Home(tmp_path / "other")
    shutil.copytree(copied.path, other.path)  # as `cp -r` does: the event log still names the first home
    assert tune.delete("shapes", tracking=True, home=other.path).runs == 7
    assert mlflow_runs(other) == {} and len(mlflow_runs(copied)) == 7


def test_delete_asks_and_takes_no_answer_for_no(ssl_tune: Command, copied: Home) -> None:
    done = ssl_tune("delete", "shapes", "--home", copied.path)
    assert done.code == 2 and "--yes" in done.err and copied.has_study("shapes")
    assert ssl_tune("delete", "shapse", "--yes", "--home", copied.path).code == 2


def test_a_study_that_is_driven_is_not_deleted(ssl_tune: Command, home: Home) -> None:
    folder, spec = make_study(home)
    folder.lock()
    for words in (("delete", spec.name, "--yes"), ("pack", spec.name, "-o", home.path / "s.tar.gz")):
        done = ssl_tune(*words)
        assert done.code == 8 and "in use" in done.err
    folder.unlock()
    assert home.has_study(spec.name)


def test_a_study_that_lost_its_specification_can_be_deleted(ssl_tune: Command, copied: Home) -> None:
    (copied.study_folder("shapes") / "study.yaml").unlink()
    assert ssl_tune("delete", "shapes", "--yes", "--home", copied.path).code == 0
    assert list(copied.studies.iterdir()) == []


def test_a_deletion_that_is_killed_leaves_all_or_nothing(ssl_tune: Command, copied: Home) -> None:
    before = told(copied)
    killed_at("delete:run:3", "delete", "shapes", "--yes", "--tracking", "--home", copied.path)
    assert told(copied) == before and load_study("shapes", home=copied.path).folder.state() == "finished"
    killed_at("delete:before", "delete", "shapes", "--yes", "--home", copied.path)
    assert told(copied) == before
    killed_at("delete:renamed", "delete", "shapes", "--yes", "--home", copied.path)
    assert copied.study_names() == [] and ssl_tune("studies", "--home", copied.path, "--json").document == []
    (left,) = copied.studies.iterdir()
    assert left.name.startswith(".deleted-")
    assert ssl_tune("clean", "--home", copied.path).code == 0
    assert list(copied.studies.iterdir()) == []


def test_a_deletion_goes_on_where_it_was_killed(copied: Home) -> None:
    killed_at("delete:run:3", "delete", "shapes", "--yes", "--tracking", "--home", copied.path)
    assert len(mlflow_runs(copied, "shapes")) == 4
    assert tune.delete("shapes", tracking=True, home=copied.path).runs == 4
    assert mlflow_runs(copied, "shapes") == {} and copied.study_names() == []


# clean


def old(path: Path, days: float) -> None:
    """Let a folder's files look as if nobody had touched them for some days."""
    moment = time.time() - 86_400 * days
    for file in (*path.iterdir(), path):
        os.utime(file, (moment, moment))


def make_cache(home: Home, name: str, size: int, days: float) -> Path:
    entry = home.cache / name
    entry.mkdir(parents=True)
    (entry / "train_images.npy").write_bytes(b"0" * size)
    old(entry, days)
    return entry


def test_clean_removes_old_caches_checkpoints_of_ended_trials_and_logs(
    ssl_tune: Command, copied: Home
) -> None:
    study = copied.study_folder("shapes")
    stale, fresh = make_cache(copied, "stale", 1000, 40), make_cache(copied, "fresh", 1000, 1)
    kept = study / "trials" / "0" / "picture.npz"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b"1")
    checkpoint = study / "trials" / "0" / "checkpoints" / "epoch-6.ckpt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_bytes(b"2" * 5000)
    before, runs = told(copied), len(mlflow_runs(copied, "shapes"))
    dry = ssl_tune("clean", "--dry-run", "--home", copied.path, "--json").document
    assert {"decoded images", "checkpoints"} <= {item["kind"] for item in dry["items"]}
    assert checkpoint.exists() and stale.exists()
    done = ssl_tune("clean", "--home", copied.path)
    assert done.code == 0 and "freed" in done.out
    assert not checkpoint.exists() and not stale.exists() and fresh.exists() and kept.exists()
    assert told(copied) == before and len(mlflow_runs(copied, "shapes")) == runs
    assert ssl_tune("clean", "--dry-run", "--home", copied.path, "--json").document["items"] == []


def test_clean_by_size_keeps_what_was_read_last(ssl_tune: Command, home: Home) -> None:
    entries = [make_cache(home, f"c{days}", 600, days) for days in (1, 2, 3)]
    assert ssl_tune("clean", "--cache-size", "1.3k").code == 0
    assert [entry.exists() for entry in entries] == [True, True, False]
    refused = ssl_tune("clean", "--cache-size", "much")
    assert refused.code == 2 and "500M" in refused.err


def test_clean_leaves_a_running_study_and_running_trials_alone(ssl_tune: Command, home: Home) -> None:
    folder, spec = make_study(home)
    (folder.path / "sender.log").write_text("words")
    folder.lock()
    done = ssl_tune("clean")
    assert done.code == 0 and f"left alone: {spec.name}: a driver runs it" in done.out
    assert (folder.path / "sender.log").exists()


def test_a_cleaning_that_is_killed_harms_nothing(ssl_tune: Command, copied: Home) -> None:
    entry = make_cache(copied, "stale", 1000, 40)
    before = told(copied)
    killed_at("clean:renamed", "clean", "--home", copied.path)
    assert not entry.exists() and len(list(copied.cache.glob(".stale*"))) == 1
    assert told(copied) == before
    killed_at("clean:item", "clean", "--home", copied.path)  # after the first thing that goes
    assert told(copied) == before
    assert ssl_tune("clean", "--home", copied.path).code == 0
    assert list(copied.cache.glob(".stale*")) == [] and told(copied) == before


# pack and unpack


@pytest.fixture(scope="module")
def packed(finished: Home, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study as a file."""
    path = tmp_path_factory.mktemp("packs") / "shapes.tar.gz"
    assert tune.pack("shapes", path, home=finished.path).size == path.stat().st_size
    return path


def test_an_unpacked_study_is_the_one_that_was_packed(
    ssl_tune: Command, finished: Home, packed: Path, ready_home: Home
) -> None:
    done = ssl_tune("unpack", packed, "--home", ready_home.path)
    assert done.code == 0 and "shapes: finished" in done.out and "ssl-tune sync shapes" in done.out
    assert told(ready_home) == told(finished)
    there, here = (load_study("shapes", home=home.path) for home in (ready_home, finished))
    assert there.curves().equals(here.curves())
    assert tune.sync("shapes", home=ready_home.path).pending == 0
    assert len(mlflow_runs(ready_home, "shapes")) == 7
    again = ssl_tune("unpack", packed, "--home", ready_home.path)
    assert again.code == 2 and "already" in again.err


def test_a_pack_holds_nothing_of_this_machine(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    assert names[0] == MANIFEST and {"study.yaml", "optuna.db", "events.db"} <= set(names)
    assert not {"lock", "sender.lock", "sender.log", "stop"} & set(names)
    assert not [name for name in names if name.startswith("ray/") or name.endswith(("-wal", "-shm"))]


Changed = Callable[[dict[str, Any], dict[str, bytes]], list[tarfile.TarInfo] | None]


def repacked(source: Path, target: Path, change: Changed) -> Path:
    """A pack with another manifest, other files, or members of any kind at its end."""
    with tarfile.open(source) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.name != MANIFEST}  # type: ignore[union-attr]
    with tarfile.open(source) as archive:
        manifest = json.load(archive.extractfile(MANIFEST))  # type: ignore[arg-type]
    more = change(manifest, files) or []
    with gzip.open(target, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, data in {MANIFEST: json.dumps(manifest).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in more:
            archive.addfile(member)
    return target


def entry_of(data: bytes) -> dict[str, Any]:
    import hashlib

    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def named(name: str) -> Changed:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        files[name] = b"x"
        manifest["files"][name] = entry_of(b"x")

    return change


def linked(kind: bytes) -> Changed:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> list[tarfile.TarInfo]:
        member = tarfile.TarInfo("models")
        member.type, member.linkname = kind, "/etc"
        return [member]

    return change


def unknown_file(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["more"] = b"x"


def damaged_file(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["study.yaml"] = files["study.yaml"].replace(b"a", b"b")


def lacking_file(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    del files["events.db"]


def longer_file(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["events.db"] += b"more"


def other_study(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["study"] = "other"


def hostile_name(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["study"] = "../other"


def newer(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["format"], manifest["ssl_tune"] = FORMAT + 1, "9.0"


def newer_specification(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    files["study.yaml"] += b"a_field_of_a_later_version: 1\n"
    manifest["files"]["study.yaml"] = entry_of(files["study.yaml"])


def enormous(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    manifest["files"]["events.db"]["bytes"] = 10**18


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (named("../../escaped"), "leaves the study's folder"),
        (named("/tmp/ssl-tune-escaped"), "leaves the study's folder"),
        (named("models/../../../escaped"), "leaves the study's folder"),
        (named("lock"), "none of a study's files"),
        (named(".hidden"), "none of a study's files"),
        (linked(tarfile.SYMTYPE), "a link"),
        (linked(tarfile.LNKTYPE), "a link"),
        (linked(tarfile.FIFOTYPE), "a device"),
        (unknown_file, "not in its manifest"),
        (damaged_file, "digest differs"),
        (longer_file, "not as long"),
        (lacking_file, "lacks 1 file"),
        (other_study, "cannot read the study"),
        (hostile_name, "cannot be a study's name"),
        (newer, "later version of ssl-tune (9.0, format 2"),
        (newer_specification, "cannot read the study"),
        (enormous, "GB left"),
    ],
)
def test_a_hostile_damaged_or_newer_pack_is_refused_and_nothing_is_left(
    ssl_tune: Command, home: Home, packed: Path, tmp_path: Path, change: Changed, said: str
) -> None:
    path = repacked(packed, tmp_path / "hostile.tar.gz", change)
    before = {p for p in tmp_path.rglob("*") if "studies" not in p.parts}
    done = ssl_tune("unpack", path)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err, done.err
    assert not home.studies.exists() or list(home.studies.iterdir()) == []
    after = {p for p in tmp_path.rglob("*") if "studies" not in p.parts}
    assert after - before <= {home.path} and not Path("/tmp/ssl-tune-escaped").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no archive", gzip.compress(b"no tar" * 1000)], ids=["empty", "other bytes", "gzip"]
)
def test_a_file_that_is_no_pack_is_refused(
    ssl_tune: Command, home: Home, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    done = ssl_tune("unpack", path)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert ssl_tune("unpack", tmp_path / "nothing").code == 2


def test_half_a_pack_is_refused(ssl_tune: Command, home: Home, packed: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.tar.gz"
    half.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    done = ssl_tune("unpack", half)
    assert done.code == 2 and "damaged" in done.err and list(home.studies.iterdir()) == []


def test_an_unpacking_that_is_killed_leaves_no_study(
    ssl_tune: Command, home: Home, packed: Path, finished: Home
) -> None:
    for point in ("unpack:file:2", "unpack:before"):
        killed_at(point, "unpack", packed, "--home", home.path)
        assert home.study_names() == [] and ssl_tune("studies", "--json").document == []
    killed_at("unpack:renamed", "unpack", packed, "--home", home.path)
    assert told(home) == told(finished)
    for left in home.studies.glob(".unpack-*"):
        old(left, 1)
    assert ssl_tune("clean").code == 0
    assert [p.name for p in home.studies.iterdir()] == ["shapes"]


def test_a_packing_that_is_killed_leaves_the_file_of_before(finished: Home, tmp_path: Path) -> None:
    path = tmp_path / "s.tar.gz"
    path.write_bytes(b"of before")
    killed_at("pack:file:2", "pack", "shapes", "-o", path, "--home", finished.path)
    assert path.read_bytes() == b"of before"
    tune.pack("shapes", path, home=finished.path)
    assert path.stat().st_size > 1000


def test_an_interrupted_study_goes_on_from_its_pack(home: Home, tmp_path: Path) -> None:
    make_study(home, name="half")
    path = tmp_path / "half.tar.gz"
    assert tune.pack("half", path, home=home.path).state == "interrupted"
    unpacked = tune.unpack(path, home=tmp_path / "there")
    assert unpacked.study.folder.state() == "interrupted" and unpacked.missing is None
    with pytest.raises(ConfigError, match="already"):
        tune.unpack(path, home=tmp_path / "there")


def test_a_place_that_cannot_be_written_is_told(home: Home, tmp_path: Path) -> None:
    make_study(home)
    with pytest.raises(ConfigError, match="is a folder"):
        tune.pack("s", tmp_path, home=home.path)
    with pytest.raises(ConfigError, match="does not exist"):
        tune.pack("s", tmp_path / "no" / "file", home=home.path)
    with pytest.raises((ConfigError, ServiceError), match="no study"):
        tune.pack("t", tmp_path / "t.tar.gz", home=home.path)
