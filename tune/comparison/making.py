"""From what is asked of a comparison to its studies, made and ready for their first trials."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from ssl_core.system.errors import ConfigError
from tune.cluster.connection import machines_of
from tune.cluster.readiness import autoscales
from tune.comparison.progress import Shown
from tune.comparison.record import Comparison
from tune.comparison.request import CompareRequest, short_name
from tune.definition.spec import StudySpec, dataset_tag
from tune.delivery.check import require_tracking
from tune.engine.progress import Progress
from tune.engine.sitting import Sitting
from tune.launch.afterwards import check_afterwards
from tune.launch.preparation import create_study, prepared
from tune.launch.request import places_of, resolve_request
from tune.store.home import Home
from tune.store.study_folder import StudyFolder
from tune.worker.task import PRELOAD


def study_name(name: str, method: str) -> str:
    """The name of the study of one of a comparison's methods."""
    return f"{name}-{short_name(method)}"


def free_name(spec: StudySpec, home: Home) -> str:
    """``digits@100-compare``, or with ``-2``, ``-3``, ... behind it: a name that nothing has here."""
    wanted = f"{dataset_tag(spec.config['dataset'])}@{spec.config['labels']}-compare"
    name, number = wanted, 1
    while (home.path / "comparisons" / name).exists() or (home.studies / name).exists():
        number += 1
        name = f"{wanted}-{number}"
    return name


def resolved(request: CompareRequest, home: Home) -> list[StudySpec]:
    """The specifications of the studies: the same data, split, places, seed and number of trials.

    Raises:
        ConfigError: anything wrong with what is asked for that can be told without decoding images.
    """
    machines, methods = machines_of(request.address), request.all_methods()
    searches = [request.of(method, study_name(request.name or "compare", method)) for method in methods]
    together = searches[0].model_copy(update={"trials": min(1_000_000, len(methods) * request.trials_each)})
    grows = request.address is not None and autoscales()
    places = places_of(together, machines, grows=grows)
    specs = [resolve_request(search, home, machines, places) for search in searches]
    for search, spec in zip(searches, specs, strict=True):
        check_afterwards(search, spec, home)
    if specs[0].require_tracking:
        require_tracking(specs[0].tracking_uri)
    return specs


def new_sittings(
    specs: Sequence[StudySpec], comparison: Comparison, shown: Shown, held: ExitStack
) -> list[Sitting]:
    """Sittings of the studies, made here and ready for their first trials; Ray is starting meanwhile."""
    from tune.cluster import local_ray  # loads Ray

    held.enter_context(local_ray.starting(local_ray.cpus_for(specs[0]), PRELOAD, specs[0].concurrent))
    sittings = list[Sitting]()
    for member, spec in zip(comparison.record.members, specs, strict=True):
        folder = StudyFolder(comparison.home.study_folder(spec.name))
        create_study(spec, folder)
        # What is to be said of the images is said once.
        progress = shown.of(member.method) if not sittings else Progress()
        sitting = Sitting(spec, folder, comparison.home, progress)
        held.enter_context(prepared(sitting, lambda: None))
        sitting.progress = shown.of(member.method)
        sittings.append(sitting)
    splits = {sitting.spec.split_hash for sitting in sittings}
    if len(splits) > 1:
        raise ConfigError(
            f"the methods would be trained on different splits ({', '.join(sorted(map(str, splits)))}): the data "
            "changed while they were read. Start again."
        )
    return sittings
