"""Method files of an earlier version, as studies and exports keep them: loaded, and run to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_core import method_file
from ssl_core.earlier_methods import MOVED, NOW_PACKAGES
from ssl_core.registry import get_method
from ssl_core.system.errors import ConfigError
from tests import tiny
from tests.golden import record

STORED = Path(__file__).parent.parent / "earlier" / "uda.py.txt"
"""docs/examples/my_uda.py as it was, then named uda, when `compute_loss` took six arguments."""

EARLIER = '''\
"""Counts its steps; written for the earlier interface and module names."""

import ssl_core.errors
import ssl_core.rng as streams
from ssl_core import losses, passes
from ssl_core._lazy import torch
from ssl_core.config import MethodConfig
from ssl_core.methods import fixmatch, get_method
from ssl_core.methods.base import LossOutput, Method
from dataclasses import dataclass


@dataclass
class State:
    steps: int


class Counting(Method):
    name = "counting"
    summary = "supervised, and counts its steps"
    has_warmup = False

    def init_state(self, config, setup):
        return State(0)

    def compute_loss(self, config, forward, batch, state, progress, generator):
        from ssl_core.augment import weak_view
        from ssl_core.networks import NetworkOutput
        from ssl_core.randaugment import Geometry, strong_view
        from ssl_core.rng import Shuffled

        output = forward(batch.labelled)
        assert isinstance(output, NetworkOutput) and Shuffled is streams.Shuffled
        assert issubclass(ssl_core.errors.ConfigError, ValueError)
        assert get_method("fixmatch") is fixmatch.METHOD and passes.forward_views and weak_view and Geometry
        assert progress.step == state.steps and generator.device == torch.device("cpu")
        loss = losses.cross_entropy(output.logits, batch.labels).mean()
        return LossOutput(total=loss, terms={"loss_supervised": loss}, state=State(state.steps + 1))


METHOD = Counting()
'''


def test_a_stored_method_of_six_arguments_trains_to_the_recorded_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = tiny.make_run("my_uda", precision="float32")
    tiny.finish(now)
    kept = tmp_path / method_file.COPY
    kept.write_bytes(STORED.read_bytes())
    assert "forward: Forward,\n        batch: Batch," in kept.read_text()
    monkeypatch.setitem(tiny.OWN, "uda", f"file:{kept}")
    earlier = tiny.make_run("uda", precision="float32")
    assert earlier.method.digest == method_file.digest_of(STORED.read_text()) != now.method.digest
    tiny.finish(earlier)
    tiny.assert_same_bits(tiny.trained(earlier), tiny.trained(now))
    assert record.trace("uda") == pytest.approx(record.read("my_uda"), rel=1e-9)


def test_earlier_module_names_are_found_wherever_a_file_imports_them(tmp_path: Path) -> None:
    path = tmp_path / "counting.py"
    path.write_text(EARLIER)
    run = tiny.make_run(f"file:{path}", epochs=2)
    tiny.finish(run)
    assert run.method_state.steps == 2 * 3
    resumed = tiny.make_run(f"file:{path}", epochs=2)
    resumed.load_state(run.state())
    assert resumed.method_state.steps == 2 * 3


@pytest.mark.parametrize("old", [*MOVED, *NOW_PACKAGES])
def test_every_earlier_module_leads_to_one_that_is_there(old: str) -> None:
    new = {**MOVED, **NOW_PACKAGES}[old]
    header = f"import {new} as there\nimport {old} as here\n" if old in MOVED else f"import {new} as there\n"
    text = EARLIER.replace("import ssl_core.errors\n", f"import ssl_core.errors\n{header}", 1)
    assert method_file.load(text, "stored.py").name == "counting"


def test_a_line_number_of_an_earlier_file_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "counting.py"
    path.write_text(EARLIER.replace("METHOD = Counting()", "raise RuntimeError('here')"))
    line = EARLIER.splitlines().index("METHOD = Counting()") + 1
    with pytest.raises(ConfigError, match=rf"counting.py, line {line}: RuntimeError: here"):
        get_method(f"file:{path}")
