"""Which method is best for these images: several studies side by side, one confirmation, one table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from tune.comparison.progress import Shown, make_shown
from tune.comparison.record import comparison_names, is_comparison, load_comparison
from tune.comparison.request import CompareRequest
from tune.comparison.table import comparison_outcome, status_of
from tune.definition.request_options import RequestOptions
from tune.launch.telling.ending import Ending, telling
from tune.store.home import Home

if TYPE_CHECKING:
    from tune.comparison.run import Compared

Say = Callable[[str], None]


def _nothing(_: str) -> None:
    """What is done with news that nobody wants."""


def run_compare(request: CompareRequest, home: Home, shown: Shown, say: Say = _nothing) -> Compared:
    """Make the comparison that is asked for and run it: `tune.comparison.run.compare`, whose arguments these are."""
    from tune.comparison.run import compare as compare_methods  # loads what trains

    with telling(request.on_end, request.webhook, say) as ending:
        found = compare_methods(request, home, shown, say, functools.partial(_begun, ending, home))
        ending.code = found.code
    return found


def _begun(ending: Ending, home: Home, name: str) -> None:
    """A comparison has begun: its end is told."""
    ending.outcome = lambda: comparison_outcome(load_comparison(name, home))


def run_resume_comparison(
    name: str,
    home: Home,
    shown: Shown,
    say: Say = _nothing,
    *,
    confirm_seeds: int | None = None,
    trust_method: bool = False,
    on_end: str | None = None,
    webhook: str | None = None,
) -> Compared:
    """Run what is left of a comparison (`tune.comparison.run.resume`, whose arguments these are); tell of its end."""
    from tune.comparison.run import resume as resume_methods  # loads what trains

    with telling(on_end, webhook, say) as ending:
        begun = functools.partial(_begun, ending, home)
        found = resume_methods(
            name, home, shown, say, begun, confirm_seeds=confirm_seeds, trust_method=trust_method
        )
        ending.code = found.code
    return found


def compare(
    methods: Sequence[str] | str,
    dataset: str = "digits",
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    say: Say = _nothing,
    race: bool = False,
    **options: Unpack[RequestOptions],
) -> dict[str, Any]:
    """Which of several methods is best on a data set: a study of each, side by side, and their best on fresh seeds.

    The studies are ordinary ones called ``NAME-METHOD``, with the same split, seed and number of trials.

    Args:
        methods: their names; supervised always takes part.
        dataset: digits, cifar10, cifar100, svhn, stl10, folder:PATH or table:FILE.
        home: the home folder; None: SSL_TUNE_HOME, else ./ssl-tune-home.
        quiet: show no progress.
        say: told as each training of the confirmation ends.
        race: hand the epochs of methods that cannot win any more to the others; needs `epochs_budget`.
        options: the other options, as of `search`. `trials` is the number of each method; with `epochs_budget` they
            have so many epochs together, and as many trials as fit into them; `name` is the comparison's;
            `confirm_seeds` is 5 where it is not given, and 0 leaves the confirmation out. `points`, `warm_start` and
            `with_baseline` are not taken, and `space` may be "wide" alone.

    Returns:
        What ``ssl-tune status NAME --json`` prints: a row for each method, and the confirmation with its verdict.

    Raises:
        ConfigError: anything wrong with what is asked for; nothing is left behind.
        ServiceError: another driver has it; a cluster, a storage or MLflow does not answer; Ctrl-C before the first
            trial or within the confirmation.
    """
    listed = [methods] if isinstance(methods, str) else list(methods)
    request = CompareRequest(methods=",".join(listed), dataset=dataset, race=race, **options)
    return status_of(run_compare(request, Home(home), make_shown(quiet=quiet), say).comparison)


def resume_comparison(
    name: str,
    *,
    home: Path | str | None = None,
    quiet: bool = False,
    say: Say = _nothing,
    confirm_seeds: int | None = None,
    trust_method: bool = False,
    on_end: str | None = None,
    webhook: str | None = None,
) -> dict[str, Any]:
    """Run what is left of a comparison; one that is finished is returned as it is.

    Args:
        name: the comparison.
        home, quiet, say: as of `compare`.
        confirm_seeds: on how many fresh seeds the best of each is trained; None: as it was asked for.
        trust_method: method files are run also where this user has not run them before (`ssl_core.trusted`).
        on_end, webhook: who is told of its end, as of `search`.

    Returns:
        As `compare`.

    Raises:
        ConfigError: no such comparison, its data changed since, or a method file is not trusted.
        DamagedError: a file of one of its studies is damaged.
        ServiceError: as of `compare`.
    """
    shown = make_shown(quiet=quiet)
    found = run_resume_comparison(
        name,
        Home(home),
        shown,
        say,
        confirm_seeds=confirm_seeds,
        trust_method=trust_method,
        on_end=on_end,
        webhook=webhook,
    )
    return status_of(found.comparison)


def comparisons(*, home: Path | str | None = None) -> list[str]:
    """Names of a home's comparisons, oldest first. `status` has more of each."""
    return comparison_names(Home(home))


def comparison_status(name: str, home: Home) -> dict[str, Any] | None:
    """How the comparison of this name stands; None where a home has none of this name."""
    return status_of(load_comparison(name, home)) if is_comparison(name, home) else None
