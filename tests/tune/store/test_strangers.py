"""What comes from a stranger: a study in a shared home, a bucket's keys, an archive, a configuration by mail."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tune
from ssl_core import method_file, trusted
from ssl_core.system.errors import ConfigError
from tests.tiny import EXAMPLES
from tests.tune.helpers import SMALL, Done, make_study
from tune.findings.study import Study
from tune.store import snapshot
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.layout import stays_inside
from tune.store.object_store import ObjectStore, StoreError
from tune.store.study_folder import StudyFolder
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]
UDA: dict[str, Any] = {"labels": 20, "network": "wrn-10-1", "epochs": 2, "trials": 1, "concurrent": 1}


def with_canary(text: str, canary: Path) -> str:
    """A method file that makes a file where it is run."""
    return f"{text}\nopen({str(canary)!r}, 'w').close()\n"


@pytest.fixture
def strangers(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyFolder, Path]:
    """Somebody else's study in a shared home, with a method file that this process has not loaded; and the canary."""
    canary = tmp_path / "canary"
    place = tmp_path / "theirs"
    place.mkdir()
    shutil.copy(EXAMPLES / "my_uda.yaml", place)
    (place / "my_uda.py").write_text(with_canary((EXAMPLES / "my_uda.py").read_text(), canary))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "their config"))
    folder, spec = make_study(home, method=f"file:{place / 'my_uda.py'}", **UDA, settings=SMALL)
    records = StudyTrials(folder, spec)
    records.ask()
    last = {
        "epoch": 2,
        "ssl_epoch": 1,
        "val_error": 50.0,
        "val_loss": 1.0,
        "seconds": 1.0,
        "stop_reason": None,
    }
    records.report(0, last)
    records.end(0, "completed")
    records.close()
    with EventLog(folder.events_db) as log:
        log.append(
            "start", "s/0", {"name": "trial 0", "parent": "s", "tags": {"ssl.study": "s"}}, "s/0:start"
        )
        for epoch in (1, 2):
            metrics = {"val/error": 50.0, "val/loss": 1.0, "train/loss": 1.0}
            log.append("metrics", "s/0", {"epoch": epoch, "metrics": metrics}, f"s/0:epoch:{epoch}")
    shutil.rmtree(place)
    assert canary.exists()
    canary.unlink()
    method_file._loaded.clear()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return folder, canary


def test_16_no_verb_that_reads_runs_a_study_s_code(
    strangers: tuple[StudyFolder, Path], ssl_tune: Command, home: Home, tmp_path: Path
) -> None:
    _, canary = strangers
    assert ssl_tune("studies", "--json").document[0]["method"] == "my_uda"
    for words in (
        ("status", "s"),
        ("trials", "s"),
        ("figures", "s"),
        ("export", "s", "-o", tmp_path / "best.yaml"),
        ("export", "--all", tmp_path / "all"),
        ("export", "s", "--csv", tmp_path / "trials.csv"),
        ("sync", "s", "--timeout", "0"),
        ("report", "s"),
        ("stop", "s"),
        ("repair", "s"),
    ):
        done = ssl_tune(*words)
        assert done.code in (0, 5), (words, done)
        assert not canary.exists(), words
    assert (tmp_path / "best.my_uda.py").read_text() == (home.study_folder("s") / "method.py").read_text()
    assert ssl_tune("trials", "s", "--json").document[0]["params"] == {
        "my_uda.threshold": 0.8, "my_uda.temperature": 0.4,
    }  # fmt: skip
    assert not canary.exists()


def test_16_what_is_read_without_the_code_is_what_the_code_says(
    strangers: tuple[StudyFolder, Path], tmp_path: Path
) -> None:
    folder, canary = strangers
    without = Study(folder.path)
    record = without.records()[0]
    told = (without.spec, record, without.spec.trial_config(record.values).document())
    assert not canary.exists()
    with_code = Study(folder.path)
    with_code.load_method(trust_method=True)
    assert canary.exists()
    record = with_code.records()[0]
    assert told == (with_code.spec, record, with_code.spec.trial_config(record.values).document())
    whole = with_code.spec.trial_config({"my_uda.threshold": 1, "my_uda.temperature": 1}).document()["my_uda"]
    method_file._loaded.clear()
    described = (
        Study(folder.path)
        .spec.trial_config({"my_uda.threshold": 1, "my_uda.temperature": 1})
        .document()["my_uda"]
    )
    assert json.dumps(described) == json.dumps(whole)  # 1.0 where the file has a float


@pytest.mark.parametrize("verb", ["resume", "confirm"])
def test_16_resume_and_confirm_ask_once_for_trust(
    strangers: tuple[StudyFolder, Path], ssl_tune: Command, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    folder, canary = strangers
    done = ssl_tune(verb, "s")
    assert done.code == 2 and len(done.err.splitlines()) == 1, done
    assert (
        str(folder.path / "method.py") in done.err and "--trust-method" in done.err and "SHA-256" in done.err
    )
    assert not canary.exists() and not folder.is_locked()
    study = Study(folder.path)
    study.load_method(trust_method=True)
    assert canary.exists()
    study.load_method()  # it is on the list from now on
    text = (folder.path / "method.py").read_text()
    assert trusted.digest_of(text) in trusted.list_file().read_text()
    trusted.list_file().chmod(0o666)  # somebody else may have written it
    with pytest.raises(ConfigError, match="which you have not run before"):
        study.load_method()


def test_16_their_own_method_file_fills_the_list(home: Home, tmp_path: Path, ssl_tune: Command) -> None:
    for name in ("my_uda.py", "my_uda.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    assert not trusted.is_trusted((tmp_path / "my_uda.py").read_text())
    folder, _ = make_study(home, method=f"file:{tmp_path / 'my_uda.py'}", **UDA, settings=SMALL)
    assert trusted.is_trusted((tmp_path / "my_uda.py").read_text())
    Study(folder.path).load_method()
    assert trusted.list_file().stat().st_mode & 0o077 == 0


def test_26_a_configuration_that_names_a_method_file_asks_for_trust(
    ssl_tune: Command, tmp_path: Path, home: Home
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "my_uda.py").write_text(with_canary((EXAMPLES / "my_uda.py").read_text(), canary))
    (tmp_path / "config.yaml").write_text(
        "method: file:my_uda.py\nlabels: 20\nepochs: 1\nnetwork: wrn-10-1\n"
    )
    small = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    done = ssl_tune("train", "--config", tmp_path / "config.yaml", *small)
    assert done.code == 2 and "--trust-method" in done.err and "my_uda.py" in done.err, done
    assert not canary.exists() and len(done.err.splitlines()) == 1
    (tmp_path / "study.yaml").write_text(f"method: file:{tmp_path / 'my_uda.py'}\nlabels: 20\n")
    for verb in ("search", "plan"):
        done = ssl_tune(verb, "--study", tmp_path / "study.yaml")
        assert done.code == 2 and "--trust-method" in done.err, done
    assert not canary.exists() and not home.path.exists()

    words = ("train", "--config", tmp_path / "config.yaml", *small, "--out", tmp_path / "run", "--json")
    assert ssl_tune(*words, "--trust-method").code == 0 and canary.exists()
    canary.unlink()
    method_file._loaded.clear()
    done = ssl_tune("train", "--config", tmp_path / "config.yaml", *small, "--out", tmp_path / "again")
    assert done.code == 0 and canary.exists()

    # The folder of somebody's run is carried on likewise.
    trusted.list_file().unlink()
    canary.unlink()
    method_file._loaded.clear()
    done = ssl_tune("train", "--resume", "--out", tmp_path / "run")
    assert done.code == 2 and "--trust-method" in done.err and not canary.exists(), done
    assert ssl_tune("train", "--resume", "--out", tmp_path / "run", "--trust-method").code == 0


def test_26_a_folder_of_configurations_asks_for_trust(ssl_tune: Command, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "my_uda.py").write_text(with_canary((EXAMPLES / "my_uda.py").read_text(), canary))
    (folder / "one.yaml").write_text("method: file:my_uda.py\nlabels: 250\nepochs: 1\nnetwork: wrn-10-1\n")
    words = ("reproduce", "table1", "--cell", "cifar10@250", "--data", "cifar10=digits", "--configs", folder)
    done = ssl_tune(*words)
    assert done.code == 2 and "--trust-method" in done.err and not canary.exists(), done
    done = ssl_tune(*words, "--trust-method")
    assert (
        done.code == 2 and "no configuration that `ssl-tune export` wrote" in done.err and canary.exists()
    ), done


# Names


@pytest.mark.parametrize("name", ["", ".", "..", "/x", "a/../b", "a//b", "a/", "a\\b", "a\0", "../x"])
def test_17_names_that_lead_out(name: str) -> None:
    assert not stays_inside(name)
    with pytest.raises(StoreError):
        ObjectStore("memory://strange").put(name, b"")


def test_17_keys_of_a_bucket_that_lead_out_write_nothing_outside(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssl_tune: Command
) -> None:
    import boto3

    monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / "one"))
    home = Home(f"{s3}/home")
    options = {"tracking_uri": "sqlite:////nowhere/mlflow.db"}
    make_study(home, **options)
    bucket = s3.removeprefix("s3://")
    client = boto3.client("s3")
    keys = (
        "trials/7/../../../escaped", "trials/7/..", "trials/../../escaped", "trials/7/a/escaped", "trials/\u00b2/x",
        "state/9999999999-x", "state/zzz",
    )  # fmt: skip
    for key in keys:
        client.put_object(Bucket=bucket, Key=f"home/studies/s/{key}", Body=b"escaped")
    client.put_object(Bucket=bucket, Key="home/studies/a b/state/x", Body=b"")
    client.put_object(Bucket=bucket, Key="home/studies/s/driver.json", Body=b"[1, 2")
    monkeypatch.setenv("SSL_TUNE_WORK", str(tmp_path / "two"))
    done = ssl_tune("status", "s", "--home", f"{s3}/home", "--json")
    assert done.code == 0 and done.document["state"] == "interrupted", done
    assert [d["study"] for d in ssl_tune("studies", "--home", f"{s3}/home", "--json").document] == ["s"]
    found = [p for p in tmp_path.rglob("*") if p.is_file() and p.read_bytes() == b"escaped"]
    assert found == []


def archive_with(add: Callable[[tarfile.TarFile], object]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        add(archive)
    return buffer.getvalue()


def link(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("report.html")
    member.type, member.linkname = tarfile.SYMTYPE, "study.yaml"
    archive.addfile(member)


def device(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("events.db")
    member.type = tarfile.FIFOTYPE
    archive.addfile(member)


def bomb(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("events.db")
    member.size = 600 * 2**20
    with Path("/dev/zero").open("rb") as zeros:
        archive.addfile(member, zeros)


@pytest.mark.parametrize(
    "add",
    [lambda a: a.addfile(tarfile.TarInfo("../escaped")), link, device],
    ids=["outside", "link", "device"],
)
def test_17_an_archive_holds_files_with_names_inside_alone(
    tmp_path: Path, add: Callable[[tarfile.TarFile], object]
) -> None:
    folder = tmp_path / "studies" / "s"
    folder.mkdir(parents=True)
    with pytest.raises(tarfile.TarError, match="is neither a file nor a folder of a study"):
        snapshot.unpack(archive_with(add), folder)
    assert list(folder.iterdir()) == [] and not list(tmp_path.rglob("escaped"))


def test_22_an_archive_that_expands_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "studies" / "s"
    folder.mkdir(parents=True)
    monkeypatch.setattr(snapshot, "FEW", 2**20)
    with pytest.raises(tarfile.TarError, match="more than 200 times"):
        snapshot.unpack(archive_with(bomb), folder)
    assert list(folder.iterdir()) == []


def test_17_the_event_log_of_a_stranger_sends_no_file_from_outside(
    ready_home: Home, ssl_tune: Command, tmp_path: Path
) -> None:
    folder, spec = make_study(ready_home)
    (tmp_path / "secret").write_text("my own")
    from tune.tracking.opening import open_log, open_tracker

    with open_log(folder) as log:
        tracker = open_tracker(log, spec, ready_home)
        tracker.study_started({}, "name: s\n")
        for path in (str(tmp_path / "secret"), "../../../../secret"):
            log.append("artifact", "s", {"path": path, "artifact_path": None}, key=path)
    done = ssl_tune("sync", "s", "--timeout", "60s")
    assert done.code == 5 and done.out.count("is no file of the study") == 2, done
    assert not list(ready_home.path.rglob("secret*"))


def test_17_names_in_a_specification_stay_inside(home: Home) -> None:
    folder, _ = make_study(home)
    text = (folder.path / "study.yaml").read_text()
    for old, new in (
        ("name: s\n", "name: ../../evil\n"),
        ("warm_start: null", "warm_start: ../../evil"),
        (
            "  method: pseudo_label\n",
            "  method: ../../evil\n  method_digest: 0123456789abcdef\n  ../../evil: {}\n",
        ),
    ):
        assert old in text, old
        (folder.path / "study.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(tune.errors.DamagedError):
            tune.load_study("s", home=home.path)
