"""What a request asks for after the search, looked at before the search begins."""

from __future__ import annotations

from ssl_core.config import options_of
from ssl_core.data.datasets import describe
from tune.definition.coherence import check_fresh_sets
from tune.definition.request import SearchRequest
from tune.definition.spec import StudySpec
from tune.launch.baseline import check_can_be_tuned
from tune.store.home import Home


def check_afterwards(request: SearchRequest, spec: StudySpec, home: Home) -> None:
    """Refuse, before anything is made, a search whose baseline or confirmation could not be.

    Args:
        request: what is asked for.
        spec: the same, resolved.
        home: the home folder.

    Raises:
        ConfigError: `with_baseline` of a search that is supervised itself or leaves the baseline nothing to tune;
            `confirm_seeds` that are more than there are labelled sets to draw.
    """
    if request.with_baseline:
        check_can_be_tuned(spec, home)
    if request.confirm_seeds is not None:
        config = spec.base_config()
        info = describe(config.dataset, options=options_of(config))
        check_fresh_sets(info, config, request.confirm_seeds)
