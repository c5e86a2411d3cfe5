"""The run of a study that takes part in a comparison goes below the comparison's, which another log has started."""

from __future__ import annotations

from tune.delivery.mlflow_runs import PARENT_TAG, Destination
from tune.tracking.opening import ABOVE

_PLACED = "placed"


def place_below(place: Destination, run: str) -> None:
    """See that a study's run is below that of its comparison, where it has one and that run is there by now.

    Called at the study's beginnings and ends, so that it does not matter which of the two logs is delivered first.

    Args:
        place: of the study.
        run: the run's key; that of a trial is left where it is.
    """
    above = place.log.get_meta(ABOVE)
    if above is None or "/" in run:
        return
    run_id = place.run_id(run)
    if place.log.get_meta(_PLACED) == f"{above} {run_id}":
        return
    found = place.client.search_runs([place.log.get_meta("experiment_id")], f"tags.`ssl.run_key` = '{above}'")
    for parent in found:
        if parent.data.tags["ssl.run_key"] == above:  # a server may not tell capital letters from small ones
            place.client.set_tag(run_id, PARENT_TAG, parent.info.run_id)
            place.log.set_meta(_PLACED, f"{above} {run_id}")
            return
