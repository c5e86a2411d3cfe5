"""Where a study's run and the run of its comparison come together: the one is put below the other in MLflow."""

from __future__ import annotations

import json
from typing import Any

from tune.delivery.mlflow_runs import PARENT_TAG, Destination
from tune.tracking.opening import ABOVE, BELOW

PLACED = "placed"
"""A note in a study's log: below which run its own has been put (`place_below`)."""


def place_below(place: Destination, run: str) -> None:
    """See that a study's run is below that of its comparison, where it has one and that run is there by now.

    Each of the two has a log and a sender of its own, and either may be first: both see to it when a run begins and
    ends, so that whichever comes second finds the other's.

    Args:
        place: of the study.
        run: the run's key; that of a trial is left where it is.
    """
    above = place.log.get_meta(ABOVE)
    if above is None or "/" in run:
        return
    run_id = place.run_id(run)
    if place.log.get_meta(PLACED) == f"{above} {run_id}":
        return
    parent = _found(place, above)
    if parent is not None:
        place.client.set_tag(run_id, PARENT_TAG, parent.info.run_id)
        place.log.set_meta(PLACED, f"{above} {run_id}")


def place_those_below(place: Destination, run: str) -> None:
    """As `place_below`, from the comparison's side: the runs of its studies that are there by now."""
    below = place.log.get_meta(BELOW)
    if below is None or "/" in run:
        return
    run_id = place.run_id(run)
    for key in json.loads(below):
        child = _found(place, key)
        if child is not None and child.data.tags.get(PARENT_TAG) != run_id:
            place.client.set_tag(child.info.run_id, PARENT_TAG, run_id)


def _found(place: Destination, key: str) -> Any:
    """The run with a key in the experiment; None where there is none yet."""
    runs = place.client.search_runs([place.log.get_meta("experiment_id")], f"tags.`ssl.run_key` = '{key}'")
    # A server may not tell capital letters from small ones.
    return next((run for run in runs if run.data.tags["ssl.run_key"] == key), None)
