"""Images as a person has them, from a folder to a verdict: one `ssl-tune search` for each of two cases.

    python -m benchmarks.owned FOLDER           # lays out, searches, confirms; carries on where it was
    python -m benchmarks.owned --table          # the tables of what is done so far, trains nothing

FOLDER is an image folder with train/<class>/, such as the CIFAR-10 images as JPEG files. Two cases are laid out of
it, as a camera and a person leave images: train/<class>/ holds those with a label, unlabelled/ all others in one flat
folder, under names that say nothing; there is no test/ and no valid/. *even* has 30 labels of each class and 5,000
images without one; *uneven* has 120, 60 and 12 labels of three classes, and 5,000 images in the same proportion.
Nothing else is done to them. The command of each case is printed, and written into its table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import spread

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "ssl-tune-home" / "owned"
TABLES = ROOT / "docs" / "tables" / "owned"
UNLABELLED = 5000
# A budget for two cores: 1,000 steps of 16 labelled and 64 unlabelled images.
BUDGET = (
    "--method fixmatch --network wrn-10-1 --epochs 10 --trials 6 --concurrent 2 --set steps_per_epoch=100 "
    "--set batch_size=16 --set mu=4 --with-baseline --confirm-seeds 3"
)


@dataclass(frozen=True)
class Case:
    """A folder of images and how it is searched.

    Attributes:
        name: of the folder and of the study.
        labels: how many images of each class have a label, in the order of the classes' names; one number: that of
            every class.
        options: of `ssl-tune search`, beside the budget.
    """

    name: str
    labels: tuple[int, ...] | int
    options: str = ""

    def labels_of(self, classes: Sequence[str]) -> dict[str, int]:
        """Labels of each class that takes part."""
        if isinstance(self.labels, int):
            return dict.fromkeys(classes, self.labels)
        return dict(zip(classes, self.labels, strict=False))


CASES = (
    Case("even", 30),
    Case("uneven", (120, 60, 12), "--objective val/error_balanced --set data.balance_batches=true"),
)


def lay_out(source: Path, place: Path, labels: Mapping[str, int], unlabelled: int) -> None:
    """Copy images of `source` to PLACE/train/<class>/ and PLACE/unlabelled/, the same ones each time.

    Args:
        source: the folder of the classes' folders.
        place: made by this function; there afterwards as a whole or not at all.
        labels: images with a label of each class.
        unlabelled: of all classes together, in the proportion of their labels.

    Raises:
        ValueError: a class with too few images.
    """
    draw = random.Random(0)
    shares = {name: unlabelled * count // sum(labels.values()) for name, count in labels.items()}
    shares[next(iter(shares))] += unlabelled - sum(shares.values())
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    hidden: list[Path] = []
    for name, count in labels.items():
        files = sorted(file for file in (source / name).iterdir() if file.is_file())
        if len(files) < count + shares[name]:
            raise ValueError(f"{source / name} has {len(files)} images, {count + shares[name]} are needed.")
        chosen = draw.sample(files, count + shares[name])
        (partial / "train" / name).mkdir(parents=True)
        for file in chosen[:count]:
            shutil.copy(file, partial / "train" / name / file.name)
        hidden += chosen[count:]
    draw.shuffle(hidden)
    (partial / "unlabelled").mkdir()
    for number, file in enumerate(hidden):
        shutil.copy(file, partial / "unlabelled" / f"image-{number:05}{file.suffix}")
    partial.rename(place)


def command_of(case: Case, place: Path, home: Path) -> list[str]:
    """The search of a case."""
    words = ["search", *shlex.split(BUDGET), *shlex.split(case.options)]
    return ["ssl-tune", *words, "--dataset", f"folder:{place}", "--name", case.name, "--home", str(home)]


def carried_on(case: Case, home: Path) -> list[str]:
    """What carries on a search that was interrupted, and does what comes after it."""
    words = ["--with-baseline", "--confirm-seeds", "3", "--home", str(home)]
    return ["ssl-tune", "resume", case.name, *words]


def run(case: Case, source: Path, runs: Path) -> None:
    """Lay out a case and search it, or carry on with it; nothing where it is done.

    Raises:
        SystemExit: the command failed, or was interrupted.
    """
    from tune.findings.confirmation import confirmed
    from tune.store.home import Home
    from tune.store.study_folder import StudyFolder

    home, place = runs / "home", runs / case.name
    if not place.exists():
        classes = sorted(folder.name for folder in source.iterdir() if folder.is_dir())
        place.parent.mkdir(parents=True, exist_ok=True)
        lay_out(source, place, case.labels_of(classes), UNLABELLED)
    known = Home(home).has_study(case.name)
    if known and confirmed(StudyFolder(home / "studies" / case.name)) is not None:
        return
    words = carried_on(case, home) if known else command_of(case, place, home)
    print(f"$ {shlex.join(words)}", flush=True)
    program = str(Path(sys.executable).with_name(words[0]))
    code = subprocess.run(
        [program, *words[1:]], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    ).returncode
    if code != 0:
        sys.exit(f"{case.name}: it ended with exit code {code}")


def counts_of(folder: Path) -> dict[str, int]:
    """How many test images of each class a confirmation read; `folder` is that of the study."""
    file = next(folder.glob("confirm/*/seed-1/result.json"))
    result = json.loads(file.read_text())
    return {name: sum(row) for name, row in zip(result["classes"], result["test_confusion"], strict=True)}


def table(document: Mapping[str, Any], tested: Mapping[str, int], command: str) -> Iterator[str]:
    """A confirmation as Markdown: errors, errors by class, and the verdict.

    Args:
        document: as `tune.findings.confirmation.confirmed` gives it.
        tested: test images of each class.
        command: what was run.
    """
    from tune.findings.confirmation import title

    yield from (f"    {command}", "")
    yield "| configuration | method | test/error % | mean of the classes' errors % | val/error % |"
    yield "|---|---|---|---|---|"
    for row in document["rows"]:
        chosen = ", ".join(f"{name} {value:.4g}" for name, value in row["params"].items())
        errors = (spread(row[key]) for key in ("test_error", "test_error_balanced", "val_error"))
        yield f"| {title(row['who'])}: {chosen} | {row['method']} | {' | '.join(errors)} |"
    names = [title(row["who"]) for row in document["rows"]]
    yield from ("", f"| class | test images | {' | '.join(f'{name}: error %' for name in names)} |")
    yield "|---|---|" + "---|" * len(names)
    for name, count in tested.items():
        errors = (f"{row['test_error_by_class'][name]:.1f}" for row in document["rows"])
        yield f"| {name} | {count} | {' | '.join(errors)} |"
    yield ""
    yield from (f"- {sentence}" for sentence in document["verdict"])


def shown(words: Sequence[str], runs: Path) -> str:
    """A command with its folders relative to that of all runs."""
    return shlex.join(words).replace(f"{runs}/", "")


def write_tables(runs: Path, tables: Path) -> None:
    """Write the table of every case that is done, and print it."""
    from tune.findings.confirmation import confirmed
    from tune.store.study_folder import StudyFolder

    home = runs / "home"
    for case in CASES:
        folder = home / "studies" / case.name
        document = confirmed(StudyFolder(folder)) if folder.exists() else None
        if document is None:
            continue
        command = shown(command_of(case, runs / case.name, home), runs)
        lines = list(table(document, counts_of(folder), command))
        tables.mkdir(parents=True, exist_ok=True)
        (tables / f"{case.name}.md").write_text(f"# {case.name}\n\n" + "\n".join(lines) + "\n")
        (tables / f"{case.name}.json").write_text(json.dumps(document, indent=1) + "\n")
        print(*lines, "", sep="\n", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Run what is left, and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="an image folder with train/<class>/")
    parser.add_argument("--table", action="store_true", help="write the tables only")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the cases and their home lie")
    parser.add_argument("--tables", type=Path, default=TABLES, help="where the tables are written")
    asked = parser.parse_args(words)
    runs = asked.runs.resolve()
    if not asked.table and asked.folder is None:
        parser.error("FOLDER is missing")
    for case in () if asked.table else CASES:
        run(case, asked.folder / "train", runs)
        write_tables(runs, asked.tables)
    if asked.table:
        write_tables(runs, asked.tables)


if __name__ == "__main__":
    main()
