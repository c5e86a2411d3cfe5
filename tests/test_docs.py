"""The documentation's Python examples run as they stand; the tutorial's commands are ones that there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import tune
from benchmarks import tutorial
from tune.cli import app

ROOT = Path(__file__).parent.parent
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACES = ("MLFLOW_TRACKING_URI", "SSL_TUNE_DATA", "SSL_TUNE_FAULT", "SSL_TUNE_HOME")


@pytest.mark.timeout(1600)  # two dozen small trainings: three minutes on an idle machine of two cores
@pytest.mark.parametrize("page", ["python.md"])
@pytest.mark.long
def test_the_examples_of_a_page_run_in_order(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    examples = FENCED.findall(text)
    assert len(examples) >= 5
    # Blank lines take the place of the prose, so that a traceback names the page's own lines.
    lines = [""] * len(text.splitlines())
    # One Ray for the whole page, as a notebook may have one: searches that start their own are tested elsewhere.
    # Senders, figures and workers do not wait for all tests that run beside them (tests.tune.at_once).
    lines[0] = (
        "from tune.cluster import local_ray; from tune.worker.task import PRELOAD; "
        "from tests.tune.at_once import started_at_once; from tune.delivery import drawing; "
        "from tune.tracking import sender_process; sender_process.Popen = drawing.Popen = started_at_once; "
        "local_ray.start_ray(2, PRELOAD)"
    )
    for match in FENCED.finditer(text):
        first = text[: match.start(1)].count("\n")
        code = match.group(1).splitlines()
        lines[first : first + len(code)] = code
    script = tmp_path / page.replace(".md", "_examples.py")
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        # Figures are drawn in tests of their own.
        env={**environment, "PYTHONPATH": str(ROOT), "SSL_TUNE_FIGURES": "0", "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "ssl-tune-home" / "mlflow.db").is_file()
    assert (tmp_path / "best.yaml").is_file()
    # What was pinned lies in the log until the page's own `tune.sync`, which says that nothing is left.
    assert re.search(r"\b\d+ events are still to be delivered to sqlite:///", done.stdout.replace("\n", " "))


FUNCTIONS_OF_COMMANDS = {
    **{"data": "data_summary", "figures": "pictures", "trials": "trial_records"},
    "watch": "live_page",
}
NO_FUNCTION = {"schema", "ui"}  # a JSON schema is no verb; `ui` is MLflow's own server


def test_every_command_is_a_function_that_the_page_describes() -> None:
    """`tune` offers a function for each verb of the command line."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert commands >= {"search", "resume", "stop", "submit", "confirm", "train", "sync"}
    for command in commands - NO_FUNCTION:
        name = FUNCTIONS_OF_COMMANDS.get(command, command)
        assert callable(getattr(tune, name)) and name in tune.__all__, command
        assert getattr(tune, name).__doc__, name
        assert f"tune.{name}" in page, name


def test_the_tutorial_s_commands_are_commands_and_their_outputs_are_shown() -> None:
    """`make tutorial` runs them, which takes minutes; here they are only understood."""
    group = typer.main.get_command(app)
    found = [command for command in tutorial.all_commands() if tutorial.words(command)[0] == "ssl-tune"]
    assert len(found) >= 12
    for command in found:
        _, verb, *arguments = tutorial.words(command)
        group.commands[verb].make_context(verb, list(arguments))  # type: ignore[attr-defined]
        assert command.output, f"{command.text}: what it prints is missing; run `make tutorial`"
    verbs = {tutorial.words(command)[1] for command in found}
    assert verbs >= {"search", "confirm", "export", "report", "figures", "reproduce"}


def test_the_tutorial_s_reader_tells_commands_from_what_they_print() -> None:
    block = "$ one \\\n    --more\nprinted\n\n$ two\n$ three\n100 $ printed\n"
    commands = list(tutorial.commands(block))
    assert [tutorial.words(c) for c in commands] == [["one", "--more"], ["two"], ["three"]]
    assert [c.output for c in commands] == ["printed\n", "", "100 $ printed"]
    long = "\n".join(map(str, range(100)))
    assert tutorial.shortened(long).splitlines()[19:22] == ["19", "[60 lines left out]", "80"]
    table = "│ home │ /tmp/x1/home │ x │\nin /tmp/x1\n"
    assert tutorial.at_home(table, "/tmp/x1") == "│ home │ ~/demo/home  │ x │\nin ~/demo\n"


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def prose(text: str) -> str:
    """A page without its blocks of code, fenced or indented."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that a code host gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page to a file that does not exist, or to a heading that its page does not have."""
    broken = []
    for match in LINK.finditer(prose(text)):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_a_broken_link_is_found() -> None:
    text = "[a](nothing.md) [b](README.md#nothing) ![c](none.png) [d](https://x.org) [e](README.md#use-it)\n"
    assert broken_links(ROOT / "x.md", text) == ["nothing.md", "README.md#nothing", "none.png"]


def invariants() -> dict[int, str]:
    """CONTRIBUTING.md's numbered invariants."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Invariants")[2].partition("\n## ")[0]
    return {
        int(number): body
        for number, body in re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", section, re.M | re.S)
    }


def test_every_invariant_names_tests_that_there_are() -> None:
    found = invariants()
    assert sorted(found) == list(range(1, 10))
    for number, body in found.items():
        tests = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", body)
        assert tests, number
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (number, name)


def test_the_code_cites_invariants_by_their_numbers() -> None:
    titles = {number: body.replace("**", "").lower() for number, body in invariants().items()}
    cited = 0
    for folder in ("ssl_core", "search_spaces", "tune", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert {int(n) for n in re.findall(r"[Ii]nvariant (\d+)", text)} <= set(titles), path
            for number, title in re.findall(r"# Invariant (\d+): (.*)\.$", text, re.M):
                assert title.lower() in titles[int(number)], path
                cited += 1
    assert cited >= 7


def test_the_tests_that_the_page_on_reliability_names_are_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)(\.\.\.)?`", text)
    assert len(named) > 80
    for file, test, more in named:
        (path,) = [ROOT / file] if "/" in file else (ROOT / "tests" / "tune").rglob(file)
        found = re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
        assert test in found or (more and any(name.startswith(test) for name in found)), f"{file}::{test}"
    numbers = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 28)]
