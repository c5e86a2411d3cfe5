"""What is said of a best that is worth nothing: in `status` and on the page, in the place of "confirm it"."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from tests.tune.findings.test_views import summary
from tests.tune.helpers import Done, make_study, note_trials
from tune.comparison.confirm import answer
from tune.confirmation.confirm import candidate_of, ranked_of
from tune.confirmation.document import document_of, trainings_of
from tune.confirmation.trainings import Trained
from tune.findings.doubts import chance_error, doubts_of
from tune.findings.study import load_study
from tune.images.study import StudyImages, write_images
from tune.store.event_log import EventLog
from tune.store.home import Home
from tune.store.specification import read_spec
from tune.store.study_folder import StudyFolder
from tune.tracking.history import note
from tune.trials.reading import read_records
from tune.trials.study_trials import StudyTrials

Command = Callable[..., Done]


def images(unlabelled: int = 1000, valid: Sequence[int] = (10, 10, 10, 10)) -> StudyImages:
    return StudyImages("simulated", ["a", "b", "c", "d"], [10] * 4, list(valid), None, unlabelled, 0)


def trained(home: Home, errors: Sequence[float], losses: Sequence[float], kept: StudyImages) -> StudyFolder:
    """A study of one trial that has run its six epochs."""
    folder, spec = make_study(home)
    write_images(folder.path, kept)
    trials = StudyTrials(folder, spec)
    trials.ask()
    note_trials(folder, spec, home, [0])
    with EventLog(folder.events_db) as log:
        for epoch, (error, loss) in enumerate(zip(errors, losses, strict=True), 1):
            trials.report(0, summary(epoch, error))
            metrics = {"val/error": error, "train/loss": loss}
            log.append("metrics", "s/0", {"epoch": epoch, "metrics": metrics}, key=f"s/0:epoch:{epoch}")
    trials.end(0, "completed")
    folder.set_state("finished")
    return folder


FALLING = [2.3, 2.0, 1.5, 1.0, 0.8, 0.6]


@pytest.mark.parametrize(
    ("last", "loss", "unlabelled", "said"),
    [
        (20.0, 0.6, 1000, []),
        (76.0, 0.6, 1000, ["at chance level: 76.00 % wrong"]),
        (70.0, 0.6, 1000, ["at chance level"]),  # within one standard deviation of 75 %
        (20.0, 2.25, 1000, ["hardly fell: 2.300 after its first epoch, 2.250 after its last"]),
        (20.0, 0.6, 40, ["No image is left without a label"]),
        (76.0, 2.3, 40, ["No image is left", "at chance level", "hardly fell"]),
    ],
)
def test_what_is_wrong_is_said(
    ssl_tune: Command, home: Home, last: float, loss: float, unlabelled: int, said: list[str]
) -> None:
    folder = trained(home, [80, 78, 77, 77, 77, last], [*FALLING[:5], loss], images(unlabelled))
    done = ssl_tune("status", "s")
    assert done.code == 0
    lines = [line for line in done.out.splitlines() if line.startswith("careful: ")]
    assert len(lines) == len(said) and all(word in line for word, line in zip(said, lines, strict=True))
    assert [f"careful: {doubt}" for doubt in ssl_tune("status", "s", "--json").document["doubts"]] == lines
    assert folder.state() == "finished"


def test_chance_is_the_most_frequent_class_or_each_class_alike() -> None:
    unequal = images(valid=(30, 5, 3, 2))
    assert chance_error(unequal, "val/error") == pytest.approx(25.0)
    assert chance_error(unequal, "val/error_balanced") == pytest.approx(75.0)


def test_the_page_says_it_in_the_place_of_confirm_it(ssl_tune: Command, home: Home) -> None:
    trained(home, [80, 78, 77, 77, 77, 76], FALLING, images())
    assert ssl_tune("report", "s").code in (0, 5)
    text = (home.study_folder("s") / "report.html").read_text()
    verdict = text.partition('<div class="verdict">')[2].partition("</div>")[0]
    assert "at chance level" in verdict and "ssl-tune confirm" not in verdict


def test_a_confirmation_s_verdict_says_it_too(ssl_tune: Command, home: Home) -> None:
    folder = trained(home, [80, 78, 77, 77, 77, 76], [*FALLING[:5], 2.25], images(unlabelled=40))
    study = load_study("s", home=home.path)
    candidate = candidate_of(study, ranked_of(study, 1)[0])
    tasks = trainings_of(study, [candidate], seeds=1)
    document = document_of(study, [candidate], tasks, [Trained(None, [], "nan") for _ in tasks])
    assert document["doubts"] == study.doubts() and len(study.doubts()) == 3
    said = [sentence for sentence in document["verdict"] if sentence.startswith("careful: ")]
    assert said == [f"careful: {doubt}" for doubt in study.doubts()]
    (folder.path / "confirm.json").write_text(json.dumps(document))
    with EventLog(folder.events_db) as log:
        note(log, "s", "trial 0 is pinned: it is the recommendation", "pin", pinned="0")
    assert ssl_tune("report", "s").code in (0, 5)
    page = (home.study_folder("s") / "report.html").read_text()
    verdict = page.partition('<div class="verdict">')[2].partition("</div>")[0]
    assert verdict.count("at chance level") == verdict.count("hardly fell") == 1  # not twice
    assert "Trial 0 is pinned, so it is the recommendation" in verdict and "it is the best, too" in verdict
    history = page.partition("History of the study</h2>")[2].partition("</table>")[0]
    assert "trial 0 is pinned: it is the recommendation" in history and "T" in history and "Z</td>" in history


def test_a_comparison_s_answer_names_the_method_that_is_doubtful() -> None:
    rows = [
        {"who": who, "problems": [], "test_error": [9.0], "doubts": doubts}
        for who, doubts in (("supervised", []), ("vat", ["The training loss of trial 3 hardly fell."]))
    ]
    document = {"rows": rows, "seeds": [1], "baseline": "supervised", "winner": "vat", "comparisons": []}
    said = answer(document)
    assert "careful (vat): The training loss of trial 3 hardly fell." in said
    assert sum("careful" in sentence for sentence in said) == 1


def test_a_study_of_before_without_a_record_of_images_has_no_doubts(home: Home) -> None:
    folder = trained(home, [80, 78, 77, 77, 77, 76], FALLING, images())
    (folder.path / "images.json").unlink()
    assert doubts_of(folder, read_spec(folder.path), read_records(folder)) == []
