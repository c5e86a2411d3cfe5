"""Make the home of commit 389a1cb that `store/test_home_of_before.py` reads, and what that commit makes of it.

    git clone . BEFORE && git -C BEFORE checkout 389a1cb
    PYTHONPATH=BEFORE python tests/tune/store/data/make_home.py BEFORE

The studies: `finished`; `confirmed`, with two final models and their baseline; `killed`, whose driver was killed while
two trials ran; `own`, with a method file of the six-argument form, whose driver was killed in its first trial.

Writes `home-389a1cb.tar.xz` (the home and the images) and `home-389a1cb.json`: where the files lay, the trials of each
study, and the trials of `killed` and `own` after this commit's own `resume`, with the processor and versions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
NAME = "home-389a1cb"
TIMES = ("time/epoch_seconds", "images_per_second")
MADE_AGAIN = re.compile(r"ray|cache|mlflow\.db.*|mlartifacts|(.*\.)?lock|sender\.log|.*\.db-shm")
"""Names of files and folders that a later command makes again."""

SPACE = """\
method: pseudo_label
default:
  lr: {type: categorical, choices: [0.1, 1.0e-6], role: nuisance, why: one learns and one does not}
  warmup_epochs: {type: int, low: 1, high: 2, role: scientific, why: short runs}
baseline: {lr: 0.1, warmup_epochs: 1}
"""
# Without momentum, and with a mean over one step, a checkpoint holds each weight twice and packs well.
SETTINGS = {
    "steps_per_epoch": 6,
    "batch_size": 4,
    "mu": 1,
    "threads": 1,
    "precision": "float32",
    "momentum": 0.0,
    "ema_decay": 0.0,
    "bn_momentum": 0.1,
}


def make_images(folder: Path) -> None:
    """Three classes of 8x8 images: a pattern of each class's own under noise."""
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        patterns = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3))
        for name, pattern in zip("abc", patterns, strict=True):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = (3 * pattern + random.integers(0, 256, pattern.shape)) // 4
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{number:02d}.png")


def command(*words: object) -> list[str]:
    """`ssl-tune` of the code that PYTHONPATH names."""
    return [sys.executable, "-c", "from tune.cli import main; main()", *map(str, words)]


def search(place: Path, name: str, **options: object) -> list[str]:
    """The command that searches with small settings."""
    words = {
        "dataset": f"folder:{place / 'images'}",
        "labels": 12,
        "network": "wrn-10-1",
        "name": name,
    } | options
    typed = [word for key, value in words.items() for word in (f"--{key.replace('_', '-')}", value)]
    fixed = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return command("search", *typed, *fixed, "--home", place / "home")


def running_with_checkpoints(folder: Path) -> int:
    """Trials of a study that have a checkpoint and reported at least one epoch, and have not ended."""
    if not (folder / "optuna.db").exists():
        return 0
    query = (
        "SELECT number FROM trials WHERE state = 'RUNNING' AND EXISTS "
        "(SELECT 1 FROM trial_intermediate_values v WHERE v.trial_id = trials.trial_id)"
    )
    with closing(sqlite3.connect(f"file:{folder / 'optuna.db'}?mode=ro", uri=True)) as database:
        try:
            numbers = [number for (number,) in database.execute(query)]
        except sqlite3.OperationalError:  # being made
            return 0
    return sum(any((folder / "trials" / str(n)).glob("epoch-*.ckpt")) for n in numbers)


def kill_when(words: list[str], condition: Callable[[], bool]) -> None:
    """Run a command in a process group of its own and kill it whole as soon as something holds."""
    process = subprocess.Popen(words, start_new_session=True)
    while not condition():
        assert process.poll() is None, "the search ended before it was killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def trials(home: Path, name: str) -> list[dict[str, Any]]:
    """Every trial of a study: its row, its parameters and what was reported after each epoch."""
    program = (
        "import json, sys, tune\n"
        "study = tune.load_study(sys.argv[1], home=sys.argv[2])\n"
        "rows = [r.row() | {'params': r.params, 'curves': []} for r in study.records()]\n"
        "for point in study.curves().to_dict('records'):\n"
        "    rows[int(point.pop('trial'))]['curves'].append({k: v for k, v in point.items() if v == v})\n"
        "print(json.dumps(rows))"
    )
    done = subprocess.run([sys.executable, "-c", program, name, home], check=True, stdout=subprocess.PIPE)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        row.pop("seconds")
        row["curves"] = [{k: v for k, v in point.items() if k not in TIMES} for point in row["curves"]]
    return rows


def fingerprint(home: Path) -> dict[str, str]:
    """Processor and versions, as a study has them."""
    program = "import json, sys, tune; print(json.dumps(tune.load_study('killed', home=sys.argv[1]).spec.fingerprint))"
    done = subprocess.run([sys.executable, "-c", program, home], check=True, stdout=subprocess.PIPE)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def make(place: Path, before: Path) -> None:
    """The images and the four studies."""
    make_images(place / "images")
    (place / "space.yaml").write_text(SPACE)
    for suffix in ("py", "yaml"):
        shutil.copy(before / "docs" / "examples" / f"uda.{suffix}", place / f"uda.{suffix}")
    pseudo_label = {"method": "pseudo_label", "space": place / "space.yaml"}
    studies = place / "home" / "studies"
    subprocess.run(search(place, "finished", **pseudo_label, epochs=4, trials=4, concurrent=1), check=True)
    subprocess.run(search(place, "confirmed", **pseudo_label, epochs=2, trials=1), check=True)
    words = command("confirm", "confirmed", "--seeds", 2, "--baseline", "plain", "--home", place / "home")
    subprocess.run(words, check=True)
    kill_when(
        search(place, "killed", **pseudo_label, epochs=8, trials=6, concurrent=2),
        lambda: running_with_checkpoints(studies / "killed") == 2,
    )
    # Then one after the other: which of two trials reports first is chance, and ASHA's decisions depend on it.
    specification = studies / "killed" / "study.yaml"
    text = specification.read_text()
    assert "concurrent: 2" in text
    specification.write_text(text.replace("concurrent: 2", "concurrent: 1"))
    kill_when(
        search(place, "own", method=f"file:{place / 'uda.py'}", epochs=6, trials=2, concurrent=1),
        lambda: running_with_checkpoints(studies / "own") == 1,
    )


def is_kept(path: Path) -> bool:
    """Whether a file is stored: of the checkpoints, only the newest of each trial that waits for `resume`."""
    if MADE_AGAIN.fullmatch(path.name):
        return False
    if path.suffix != ".ckpt":
        return True
    study = path.parents[2]
    return study.name in ("killed", "own") and path == max(path.parent.glob("epoch-*.ckpt"))


def pack(place: Path, target: Path) -> None:
    """Write the archive: a home, its images, the search space and the method's file."""

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member if is_kept(place / member.name) else None

    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(place, ".", filter=kept)


def main() -> None:
    before = Path(sys.argv[1]).resolve()
    os.environ["PYTHONPATH"] = str(before)
    os.environ["SSL_TUNE_FIGURES"] = "0"
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="ssl-tune-before-") as folder:
        place = Path(folder) / "here"
        place.mkdir()
        os.chdir(place)  # not in a folder with another copy of the packages
        make(place, before)
        pack(place, HERE / f"{NAME}.tar.xz")
        names = ("finished", "confirmed", "killed", "own")
        stored = {name: trials(place / "home", name) for name in names}
        for name in ("killed", "own"):
            subprocess.run(command("resume", name, "--home", place / "home"), check=True)
        document = {
            "place": str(place),
            "fingerprint": fingerprint(place / "home"),
            "stored": stored,
            "resumed": {name: trials(place / "home", name) for name in ("killed", "own")},
        }
        (HERE / f"{NAME}.json").write_text(json.dumps(document, indent=1) + "\n")
    print(HERE / f"{NAME}.tar.xz", (HERE / f"{NAME}.tar.xz").stat().st_size)


if __name__ == "__main__":
    main()
