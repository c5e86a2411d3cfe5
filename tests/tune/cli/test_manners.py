"""Manners of the command line: its version, options given once, completion, tables, parameters in words."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ssl_core.parameters import parameters_of
from ssl_core.registry import get_method, method_names
from tests.tune.findings.test_views import summary
from tests.tune.helpers import SSL_TUNE, Done, make_study, note_trials
from tune.cli.line.layout import needed, print_columns
from tune.cli.show import waiting
from tune.findings.spent import seconds_left
from tune.findings.words import duration
from tune.store.home import Home
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]


def test_version_and_short_help(ssl_tune: Command) -> None:
    done = ssl_tune("--version")
    assert done.code == 0 and done.out.startswith("ssl-tune ") and "revision" in done.out
    for words in ((), ("status",), ("search",)):
        short, long = ssl_tune(*words, "-h"), ssl_tune(*words, "--help")
        assert short.code == 0 and short.out == long.out and "-h, --help" in short.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("search", "--trials", "3", "--trials=4"), "--trials is given twice"),
        (("status", "s", "--json", "--json"), "--json is given twice"),
        (("train", "--seed", "1", "--seed", "1", "--seed", "2"), "--seed is given 3 times"),
        (("export", "s", "-o", "a", "--output", "b"), "is given twice"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(
    ssl_tune: Command, home: Home, words: tuple[str, ...], named: str
) -> None:
    done = ssl_tune(*words)
    assert done.code == 2 and named in done.err and not home.path.exists()


def test_an_option_that_collects_may_be_given_again(ssl_tune: Command, home: Home) -> None:
    done = ssl_tune("data", "digits", "--set", "data.image_size=16", "--set", "data.valid=50", "--json")
    assert done.code == 0, done.err


# Completion: what a shell gets from the command, and a real bash with the script that it is given.


Complete = Callable[..., list[str]]


@pytest.fixture
def completed(ssl_tune: Command, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """The words that Tab offers at the end of a line."""

    def complete(line: str, shell: str = "bash") -> list[str]:
        asked = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        with monkeypatch.context() as during:
            for name, value in {**asked, "_SSL_TUNE_COMPLETE": f"complete_{shell}"}.items():
                during.setenv(name, value)
            done = ssl_tune()
        assert done.err == "", done.err
        return [word for word in done.out.splitlines() if word]

    return complete


def test_tab_completes_commands_options_methods_data_sets_and_studies(
    completed: Complete, home: Home, tmp_path: Path
) -> None:
    for name in ("alpha", "alpine", "beta"):
        make_study(home, name=name)
    other = Home(tmp_path / "other")
    make_study(other, name="far")
    assert completed("ssl-tune sta") == ["status"]
    assert "--method" in completed("ssl-tune search --m")
    assert completed("ssl-tune search --method fix") == ["fixmatch"]
    assert completed("ssl-tune search --dataset cifar1") == ["cifar10", "cifar100"]
    assert completed("ssl-tune search --sampler gri") == ["grid"]
    assert completed("ssl-tune status al") == ["alpha", "alpine"]
    assert completed(f"ssl-tune status --home {other.path} f") == ["far"]
    assert completed(f"ssl-tune status --home {tmp_path / 'nowhere'} x") == []
    assert completed("ssl-tune status --home s3://bucket/home x") == []  # a shell does not wait for a network


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_the_words_in_their_own_form(
    ssl_tune: Command, completed: Complete, home: Home, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(home, name="alpha")
    (said,) = completed("ssl-tune status al", shell)
    assert "alpha" in said
    monkeypatch.setenv("_SSL_TUNE_COMPLETE", f"source_{shell}")
    script = ssl_tune().out
    assert f"complete_{shell}" in script and "ssl-tune" in script
    if shutil.which(shell):  # the shell itself reads it without a complaint
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_bash_completes_with_the_script_that_the_command_prints(home: Home) -> None:
    make_study(home, name="alpha")
    words = f"""
export PATH={Path(SSL_TUNE).parent}:$PATH SSL_TUNE_HOME={home.path}
source <(_SSL_TUNE_COMPLETE=source_bash ssl-tune)
COMP_WORDS=(ssl-tune status al) COMP_CWORD=2
_ssl_tune_completion ssl-tune
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p ssl-tune
"""
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines()[0] == "alpha", done.stderr
    assert "_ssl_tune_completion" in done.stdout.splitlines()[1]


# Tables


def table(width: int | None, columns: list[str], rows: list[list[str]]) -> list[str]:
    out = Console(file=io.StringIO(), width=width or 40, highlight=False, markup=False, soft_wrap=True)
    print_columns(out, columns, rows, right=[False] * len(columns), title="the title", width=width)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


COLUMNS = [
    "trial",
    "state",
    "val/error %",
    "pseudo_label.threshold",
    "warmup_epochs",
    "weight_decay",
    "data.flip",
]
ROWS = [[str(n), "stopped early", "12.34", "0.9512345", "17", "0.00051234", "auto"] for n in range(3)]


def test_a_piped_table_takes_the_width_that_it_needs() -> None:
    long = ["x " * 150 + "end"]
    lines = table(None, ["what", "found"], [["a", *long]])
    assert any(long[0] in line for line in lines)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_a_narrow_table_breaks_no_word_and_loses_no_value(width: int) -> None:
    lines = table(width, COLUMNS, ROWS)
    words = {word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()}
    for text in [*COLUMNS, *ROWS[0]]:
        assert set(text.split()) <= words, text
    assert max(map(len, lines)) <= width
    assert len(lines) > 8 or width == 120


def test_a_word_that_is_longer_than_the_terminal_is_all_there() -> None:
    path = "/a" * 60
    lines = table(40, ["what", "found"], [["file", path]])
    assert path in "".join(line.split("│")[-2].strip() for line in lines if line.startswith("│"))
    assert needed([3, 4]) == 3 + 4 + 7


def test_durations_have_two_units() -> None:
    assert [duration(s) for s in (0, 7.4, 250, 3600, 18_180, 337_632, 86_400)] == [
        *("0 s", "7 s", "4 min 10 s", "1 h", "5 h 3 min", "3 d 21 h", "1 d")
    ]


# Parameters in words


def test_methods_name_lists_every_parameter_with_range_default_and_unit(ssl_tune: Command) -> None:
    done = ssl_tune("methods", "pseudo_label")
    assert done.code == 0
    shown = {line.split("│")[1].strip(): line for line in done.out.splitlines() if line.startswith("│")}
    assert (
        "above 0 and at most 1" in shown["pseudo_label.threshold"]
        and "0.95" in shown["pseudo_label.threshold"]
    )
    assert "epochs" in shown["warmup_epochs"] and "at least 0" in shown["warmup_epochs"]
    assert "sgd or adamw" in shown["optimizer"] and "pixels" in shown["data.image_size"]
    assert "true or false" in shown["pseudo_label.accumulate"]


def test_every_parameter_of_every_method_says_what_it_accepts() -> None:
    from ssl_core.config import parameter_names

    for name in method_names():
        method = get_method(name)
        found = parameters_of(method)
        assert {p.name for p in found} == parameter_names(method)
        for parameter in found:
            assert parameter.accepts and parameter.description, parameter
            assert not isinstance(parameter.default, float) or "number" in parameter.accepts, parameter


@pytest.mark.parametrize("given", ["threshold=0.9", "treshold=0.9", "vat.threshold=0.9"])
def test_a_name_without_its_section_finds_the_dotted_one(ssl_tune: Command, given: str) -> None:
    done = ssl_tune("search", "--method", "pseudo_label", "--set", given)
    assert done.code == 2 and "Did you mean 'pseudo_label.threshold'?" in done.err


def test_a_parameter_in_the_place_of_a_method_is_explained(ssl_tune: Command) -> None:
    done = ssl_tune("methods", "threshold")
    assert done.code == 2 and "pseudo_label.threshold" in done.err and "fixmatch.threshold" in done.err


# Views


def test_status_shows_trials_that_run_and_the_best_is_in_its_table(ssl_tune: Command, home: Home) -> None:
    folder, spec = make_study(home)
    records = StudyTrials(folder, spec)
    for number, (epochs, error) in enumerate(((6, 40.0), (4, 20.0))):
        records.ask()
        for epoch in range(1, epochs + 1):
            records.report(number, summary(epoch, error - epoch))
    note_trials(folder, spec, home, range(2))
    folder.lock()
    shown = ssl_tune("status", "s")
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.out.splitlines()]
    assert any(row[1:4] == ["1", "4 of 6", "18.00 → 17.00 → 16.00"] for row in rows if len(row) > 4), (
        shown.out
    )
    best = ssl_tune("status", "s", "--json").document["best"]["trial"]
    assert best == "0" and f"best: trial {best}" in shown.out
    listed = [row[1] for row in rows if len(row) > 4 and row[2] == "running"]
    assert listed == [best]


def test_the_time_left_follows_the_trials_that_ended(home: Home) -> None:
    folder, spec = make_study(home, trials=4)
    records = StudyTrials(folder, spec)
    for number, epochs in enumerate((6, 3)):
        records.ask()
        for epoch in range(1, epochs + 1):
            records.report(number, summary(epoch, 40.0))
    assert (
        seconds_left(spec, read_records(folder), None) is None
    )  # nothing has ended, and nothing was planned
    records.end(0, "completed")
    found = read_records(folder)
    # Three more epochs of trial 1 and twelve of two trials to come, at the mean speed of the nine that were.
    speed = sum(r.seconds for r in found) / 9
    assert seconds_left(spec, found, None) == pytest.approx(15 * speed)


def test_studies_show_data_date_and_trials(ssl_tune: Command, home: Home) -> None:
    make_study(home, name="young", trials=3)
    shown = ssl_tune("studies").out
    assert "digits" in shown and time.strftime("%Y-%m", time.gmtime()) in shown and "0/3" in shown


def test_a_wait_that_lasts_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("nothing", seconds=60):
        pass
    assert capsys.readouterr().err == ""
    with waiting("a server", seconds=0.01):
        deadline = time.monotonic() + 240
        said = ""
        while "a server" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said == "ssl-tune: waiting for a server ...\n"


def test_a_printed_command_names_the_home(ssl_tune: Command, copied: Home, tmp_path: Path) -> None:
    done = ssl_tune("export", "shapes", "-o", tmp_path / "best.yaml", "--home", copied.path)
    assert done.out.splitlines()[-1] == f"ssl-tune train --config {tmp_path}/best.yaml --home {copied.path}"
