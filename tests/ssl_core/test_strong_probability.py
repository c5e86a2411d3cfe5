"""`augment.probability`: how often a strong view's operations are applied, from the configuration to the images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search_spaces import load_space
from ssl_core.config import from_document
from ssl_core.methods.base import Batch, counted_views
from ssl_core.registry import get_method, method_names
from ssl_core.system.errors import ConfigError
from ssl_core.training import step
from ssl_core.training.run import Run
from tests.tiny import finish, make_run


def batch_of(run: Run) -> Batch:
    """The run's first batch after its warm-up."""
    batches: list[Batch] = []
    take = step._step

    def keeping(run: Run, batch: Batch, *rest: Any) -> Any:
        batches.append(batch)
        return take(run, batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "_step", keeping)
        finish(run, until=2)
    return batches[3]


def test_the_strong_view_alone_depends_on_it() -> None:
    always, half = (batch_of(make_run("fixmatch", augment={"probability": p})) for p in (1.0, 0.5))
    assert torch.equal(always.labelled, half.labelled)
    assert torch.equal(always.views["weak"], half.views["weak"])
    same = (always.views["strong"] == half.views["strong"]).flatten(1).all(dim=1)
    assert int((~same).sum()) > 0
    assert torch.equal(always.views["strong"], batch_of(make_run("fixmatch")).views["strong"])


def test_a_document_has_it_where_it_is_not_the_default() -> None:
    plain = from_document({"method": "fixmatch"})
    assert plain.augment.probability == 1 and "augment" not in plain.document()
    half = from_document({"method": "fixmatch", "augment": {"probability": 0.5}})
    assert half.document()["augment"] == {"probability": 0.5}
    assert from_document(half.document()) == half


@pytest.mark.parametrize("value", [0, -0.5, 1.1])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=rf"augment.probability = {value}: input should be (greater|less)"):
        from_document({"method": "fixmatch", "augment": {"probability": value}})


def test_wide_searches_it_for_every_method_with_a_strong_view() -> None:
    for name in method_names():
        method = get_method(name)
        has_strong = "strong" in counted_views(method, method.Config())
        wide = load_space(name, "wide")
        assert ("augment.probability" in wide.distributions(10)) == has_strong, name
        if has_strong:
            assert wide.baseline["augment.probability"] == 1
