"""The command that says what a search would cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ssl_core.system.errors import counted
from tune import api
from tune.cli.options import HomeOption, JsonOption
from tune.cli.show import console, print_json, print_table, waiting
from tune.definition.request import SearchRequest
from tune.findings.words import PROTOCOLS, duration
from tune.launch.counts import CLASSES_SHOWN, counts_in_words


def plan_command(
    request: SearchRequest,
    home: HomeOption = None,
    within: Annotated[
        str | None, typer.Option("--within", metavar="2h", help="Also propose what fits this time")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a search would run and cost; runs nothing."""
    with waiting("the images, and for a few steps of training to be measured"):
        document = api.plan_request(request, home, within=within)
    if as_json:
        print_json(document)
        return
    rows = [
        ["study", document["study"]],
        ["method", document["method"]],
        ["data", f"{document['dataset']}: {_images(document['images'])}"],
        ["protocol", PROTOCOLS[document["protocol"]]],
        *[[f"class {row['class']}", counts_in_words(row)] for row in document["classes"][:CLASSES_SHOWN]],
        ["network", document["network"]],
        ["trials", f"{document['trials']}, {document['concurrent']} side by side"],
        ["threads, GPUs of a trial", f"{document['threads_per_trial']}, {document['gpus_per_trial']:g}"],
        [
            "full budget",
            f"{_folds(document)}{counted(document['epochs'], 'epoch')} of "
            f"{counted(document['steps_per_epoch'], 'step')}",
        ],
        *_stopping_rows(document["rungs"]),
        [
            "expected",
            f"{document['expected_epochs']:g} epochs, of {document['epochs_without_stopping']} without stops",
        ],
        *_shared(document),
        [
            "an epoch",
            f"about {document['seconds_per_epoch']:.1f} s, of the warm-up "
            f"{document['seconds_per_warmup_epoch']:.1f} s (measured here)",
        ],
        ["the study", f"about {duration(document['expected_seconds'])}"],
        ["memory", _memory(document)],
        ["checkpoints on disk", f"{document['disk_bytes'] / 1e6:.1f} MB"],
    ]
    rows += [[f"searched: {p['name']}", f"{p['range']} ({p['role']})"] for p in document["space"]]
    rows += [
        [f"at an error of {error}", f"validation resolves {points:.2f} points (one standard deviation)"]
        for error, points in document["resolution_points"].items()
    ]
    print_table(["plan", ""], rows)
    if (more := len(document["classes"]) - CLASSES_SHOWN) > 0:
        console().print(f"and {more} more classes (all with --json)")
    for line in document["notes"]:
        console().print(line)
    for line in document["warnings"]:
        console().print(f"warning: {line}")
    if within is not None:
        console().print(_proposed(document["within"], within))


def _folds(document: dict[str, Any]) -> str:
    """How many folds a trial has; nothing where it has one."""
    return f"{document['folds']} folds of " if "folds" in document else ""


def _shared(document: dict[str, Any]) -> list[list[str]]:
    """How much of the warm-ups is trained once for several trials."""
    shared, warmups = document["expected_shared_epochs"], document["expected_warmup_epochs"]
    return [["taken over", f"{shared:g} of {warmups:g} epochs of warm-up"]] if shared else []


def _proposed(found: dict[str, Any] | None, within: str) -> str:
    """What fits a time, as options to type."""
    if found is None:
        return f"nothing fits {within}: even a few epochs of a small network take longer. Allow more time."
    took = duration(found["expected_seconds"])
    if not found["options"]:
        return f"within {within}: it fits as it is (about {took})"
    words = [f"--set {n}={v}" if "." in n else f"--{n} {v}" for n, v in found["options"].items()]
    return f"within {within}: {' '.join(words)} (about {took})"


def _memory(document: dict[str, Any]) -> str:
    """What trials take of the memory, side by side, beside what there is."""
    trial, places = document["memory_bytes"], document["concurrent"]
    if trial is None:
        return "not known here"
    free = document["memory_available"]
    fits = "" if trial * places <= free else ": too much, a search takes fewer --concurrent"
    device = f"; {document['device_bytes'] / 1e9:.1f} GB of the GPU each" if document["device_bytes"] else ""
    needed = f"{trial * places / 1e9:.1f} of {free / 1e9:.1f} GB that are free"
    return f"about {trial / 1e9:.1f} GB a trial, {needed}{fits}{device}"


def _stopping_rows(rungs: dict[str, Any]) -> list[list[str]]:
    """Early stopping, and where there are several brackets each of them."""
    brackets = [
        [
            f"bracket {number}",
            f"{100 * bracket['share']:.0f} % of the trials: rungs after {_listed(bracket['after_ssl_epochs'])}",
        ]
        for number, bracket in enumerate(rungs.get("brackets", []), start=1)
    ]
    return [["rungs", _stopping(rungs)], *brackets]


def _stopping(rungs: dict[str, Any]) -> str:
    """Where trials are stopped early, in words."""
    if rungs["scheduler"] == "none":
        return "none, every trial runs its whole budget"
    at = f"after {_listed(rungs['after_ssl_epochs'])} epochs past the warm-up"
    if rungs["scheduler"] == "median":
        return f"none; {at}, whatever is worse than the median of the others ends"
    kept = "best third" if rungs["kept"] == "best 1/3" else rungs["kept"]
    folds = (
        f"; of those that finish fold {_listed(rungs['after_folds'])}, too"
        if rungs.get("after_folds")
        else ""
    )
    return f"{at}, {kept} goes on{folds}"


def _images(counts: dict[str, int]) -> str:
    return (
        f"{counts['labelled']} labelled, {counts['valid']} for validation, {counts['unlabelled']} unlabelled"
    )


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
