"""A study's folder: what is on disk from the first moment, its lock and its state."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tune
from ssl_core import __version__
from ssl_core.system.errors import ConfigError
from tests.tune.helpers import Done, make_home, make_spec, make_study
from tune.errors import Exit, ServiceError
from tune.findings.study import Study, load_study
from tune.store.home import Home
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder

ROOT = Path(__file__).resolve().parents[3]

AT_THE_FIRST_IMPORT = """
import fcntl, json, os, signal, sys
from pathlib import Path

study, watched, number, told = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), Path(sys.argv[4])

def is_held(path):
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

class Watch:
    done = False
    def find_spec(self, name, path=None, target=None):
        if name in watched and not Watch.done:
            Watch.done = True
            spec = study / "study.yaml"
            told.write_text(json.dumps({
                "module": name,
                "loaded": [m for m in ("torch", "ray", "mlflow", "pandas") if m in sys.modules and m != name],
                "spec": spec.read_text() if spec.exists() else None,
                "locked": (study / "lock").exists() and is_held(study / "lock"),
            }))
            os.kill(os.getpid(), number)
        return None

sys.meta_path.insert(0, Watch())
sys.argv = ["ssl-tune", *sys.argv[5:]]
import tune.cli
tune.cli.main()
"""
OPTIONS = (
    "--name s --trials 2 --epochs 2 --concurrent 1 --set steps_per_epoch=2 --set batch_size=4 --set mu=1"
)


def search_until_import(
    home: Home, modules: str, number: int, told: Path
) -> subprocess.CompletedProcess[str]:
    """Search in a process that gets a signal when it first imports one of some modules."""
    words = [str(home.path / "studies" / "s"), modules, str(number), str(told)]
    words += ["search", "--home", str(home.path), *OPTIONS.split()]
    command = [sys.executable, "-c", AT_THE_FIRST_IMPORT, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.long
def test_folder_lock_and_specification_come_before_torch_and_a_kill_then_is_resumed(
    local_ray: None, ready_home: Home, tmp_path: Path
) -> None:
    told = tmp_path / "told.json"
    done = search_until_import(ready_home, "torch,ray,mlflow", signal.SIGKILL, told)
    assert done.returncode == -signal.SIGKILL
    seen = json.loads(told.read_text())
    assert seen["loaded"] == [] and seen["locked"] and "name: s" in seen["spec"]
    study = load_study("s", home=ready_home.path)
    assert study.status()["state"] == "interrupted" and study.trials().empty and study.best() is None

    study = tune.resume("s", home=ready_home.path, quiet=True)
    assert study.status()["state"] == "finished"
    assert [r.epoch for r in study.records()] == [2, 2]
    assert study.spec.split_hash is not None and read_spec(study.folder.path) == study.spec


@pytest.mark.parametrize("module", ["torch", "ray"])
def test_ctrl_c_in_the_first_seconds_is_130_and_says_how_to_carry_on(
    home: Home, tmp_path: Path, module: str
) -> None:
    done = search_until_import(home, module, signal.SIGINT, tmp_path / "told.json")
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if "Carry on with: " in line)
    command = shlex.split(line.partition("Carry on with: ")[2])
    assert command == ["ssl-tune", "resume", "s", "--home", str(home.path)]
    assert load_study("s", home=home.path).status()["state"] == "interrupted"


def test_a_second_driver_is_refused_and_told_who_the_first_is(
    home: Home, ssl_tune: Callable[..., Done]
) -> None:
    folder, _ = make_study(home)
    folder.lock()
    assert StudyFolder(folder.path).is_locked() and StudyFolder(folder.path).state() == "running"
    with pytest.raises(ServiceError, match=f"in use by another driver .process {os.getpid()}") as refused:
        StudyFolder(folder.path).lock()
    assert refused.value.code == Exit.IN_USE
    for verb in ("resume", "confirm"):
        done = ssl_tune(verb, "s")
        assert done.code == (8 if verb == "resume" else 2)  # nothing to confirm yet
    folder.unlock()
    assert not StudyFolder(folder.path).is_locked() and StudyFolder(folder.path).state() == "interrupted"


def test_looking_at_the_lock_does_not_take_it(home: Home) -> None:
    folder, _ = make_study(home)
    other = StudyFolder(folder.path)
    assert not other.is_locked()
    folder.lock()
    assert other.is_locked() and folder.is_locked()


def test_the_lock_of_a_process_that_died_is_free(home: Home) -> None:
    folder, _ = make_study(home)
    script = (
        "import os, signal, sys; from pathlib import Path; from tune.store.study_folder import StudyFolder\n"
        "folder = StudyFolder(Path(sys.argv[1])); folder.lock(); print(folder.is_locked(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True"
    folder.lock()
    assert (folder.path / "lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_an_end_state_is_kept_whoever_holds_the_lock(home: Home, state: str) -> None:
    folder, _ = make_study(home)
    folder.set_state(state)
    assert folder.state() == state
    folder.lock()
    assert folder.state() == state


def test_a_study_that_came_to_nothing_is_taken_away(home: Home) -> None:
    folder = StudyFolder(home.study_folder("s"))
    folder.create(make_spec(home))
    folder.remove()
    assert home.study_names() == [] and not folder.path.exists() and not folder.is_locked()


def test_a_study_is_not_made_twice(home: Home) -> None:
    folder, spec = make_study(home)
    with pytest.raises(ConfigError, match=r"exists already.*ssl-tune resume s"):
        StudyFolder(folder.path).create(spec)


def test_studies_are_listed_oldest_first_and_strays_are_not(home: Home) -> None:
    for place, name in enumerate(("c", "a", "b")):
        folder, _ = make_study(home, name=name)
        os.utime(folder.path / "study.yaml", (1e9 + place, 1e9 + place))
    (home.studies / "stray").mkdir()
    (home.studies / "file").write_text("")
    assert home.study_names() == ["c", "a", "b"]
    with pytest.raises(ConfigError, match="no study 'stray'"):
        home.existing_study_folder("stray")


def test_a_young_study_can_be_looked_at(home: Home) -> None:
    folder, _ = make_study(home, trials=9)
    study = Study(folder.path)
    assert study.records() == [] and study.best() is None
    assert study.trials().empty and study.curves().empty
    status = study.status()
    assert status["trials"] == {"total": 9, "completed": 0, "stopped_early": 0, "failed": 0, "running": 0}
    assert status["best"] is None and status["tracking"]["pending"] == 0
    assert sorted(p.name for p in folder.path.iterdir()) == ["lock", "state.json", "study.yaml"]


def test_a_finished_study_is_not_run_again(finished: Home, ssl_tune: Callable[..., Done]) -> None:
    before = load_study("shapes", home=finished.path).records()
    done = ssl_tune("resume", "shapes", "--home", finished.path)
    assert done.code == 0 and "finished already" in done.out
    assert load_study("shapes", home=finished.path).records() == before


def test_a_study_whose_data_changed_is_not_carried_on(
    ready_home: Home, tmp_path: Path, ssl_tune: Callable[..., Done]
) -> None:
    from tests.tune.helpers import make_pictures
    from tune.launch.preparation import with_data

    pictures = make_pictures(tmp_path / "shapes")
    folder, spec = make_study(
        ready_home, dataset=f"folder:{pictures}", labels=6, network="wrn-10-1", settings={"data.valid": 6}
    )
    spec, _ = with_data(spec, folder, ready_home)
    (pictures / "train/a/000.png").unlink()
    done = ssl_tune("resume", "s")
    assert done.code == 2 and "changed since" in done.err and spec.split_hash is not None
    assert spec.split_hash in done.err and "start a new study" in done.err
    assert not folder.is_locked() and folder.path.exists()


@pytest.mark.parametrize(
    ("begun", "says"), [(None, False), ({"ssl-tune": __version__}, False), ({"ssl-tune": "0.1.0"}, True)]
)
def test_a_study_that_another_version_began_says_so(
    ready_home: Home, begun: dict[str, str] | None, says: bool
) -> None:
    from tune.engine.progress import Progress
    from tune.launch.preparation import say_if_version_changed

    lines: list[str] = []

    class Listening(Progress):
        def say(self, message: str) -> None:
            lines.append(message)

    folder, spec = make_study(ready_home)
    folder.write_spec(spec.model_copy(update={"fingerprint": begun}))
    say_if_version_changed(load_study("s", home=ready_home.path), Listening())
    assert bool(lines) == says
    if says:
        assert f"s was begun with ssl-tune 0.1.0, and goes on with {__version__}" in lines[0]


def test_the_package_offers_functions_whatever_was_imported_before() -> None:
    script = (
        "import tune; first = [tune.search, tune.export, tune.resume]\n"
        "import tune.cli, tune.api.searching, tune.findings.exports\n"
        "from tune import search, export, resume\n"
        "assert first == [search, export, resume] == [tune.search, tune.export, tune.resume]\n"
        "print(*(callable(f) for f in first), tune.Study.__name__, hasattr(tune, 'nothing'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True True True Study False"


def test_two_homes_do_not_know_of_each_other(tmp_path: Path, migrated_store: Path) -> None:
    one, other = (make_home(tmp_path / name, migrated_store) for name in ("one", "other"))
    make_study(one, name="mine")
    assert one.study_names() == ["mine"] and other.study_names() == []
