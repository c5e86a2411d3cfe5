"""Methods in files of their user's own: loading, what is refused, and that content, not place, says what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ssl_core
from ssl_core import method_file
from ssl_core.config import from_document, parameter_names, resolve
from ssl_core.data.datasets import describe
from ssl_core.method_file import COPY
from ssl_core.registry import get_method, method_names
from ssl_core.system.errors import ConfigError
from tests.tiny import EXAMPLES, finish, make_run

SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "mu": 1, "threads": 1, "labels": 10}

MINE = """\
from dataclasses import dataclass

from pydantic import Field

from ssl_core import losses
from ssl_core.config import MethodConfig
from ssl_core.methods.base import LossOutput, Method


class Config(MethodConfig):
    weight: float = Field(1.0, ge=0, description="of nothing")


@dataclass
class State:
    steps: int


class Mine(Method):
    name = "mine"
    summary = "counts its steps"
    Config = Config

    def init_state(self, config, setup):
        return State(0)

    def compute_loss(self, config, step):
        loss = losses.cross_entropy(step.forward(step.batch.labelled).logits, step.batch.labels).mean()
        return LossOutput(loss, {"loss_supervised": loss}, State(step.state.steps + 1))


METHOD = Mine()
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my_method.py"
    path.write_text(MINE)
    return path


def refusal(reference: object) -> str:
    with pytest.raises(ConfigError) as caught:
        get_method(f"file:{reference}")
    return str(caught.value)


def test_a_file_is_a_method_under_its_own_name_and_has_its_own_section(mine: Path) -> None:
    method = get_method(f"file:{mine}")
    assert method.name == "mine" and method.digest == method_file.digest_of(MINE)
    assert "mine.weight" in parameter_names(method) and "mine" not in method_names()
    config = from_document({"method": f"file:{mine}", "mine": {"weight": 2}})
    document = resolve(config, describe("digits")).document()
    assert document["method"] == "mine" and document["mine"] == {"weight": 2.0}
    assert document["method_digest"] == method.digest and str(mine) not in json.dumps(document)
    assert from_document(document).parameters == config.parameters


def test_a_method_of_the_package_has_no_digest_in_its_document() -> None:
    assert "method_digest" not in from_document({"method": "vat"}).document()
    assert "method_digest" not in parameter_names(get_method("vat"))


def test_paths_may_be_relative_or_from_the_users_home(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    monkeypatch.setenv("HOME", str(mine.parent))
    method = get_method(f"file:{mine}")
    assert get_method("file:my_method.py") is get_method("file:~/my_method.py") is method


def test_the_same_content_is_loaded_once_and_another_is_another_method(mine: Path, tmp_path: Path) -> None:
    method = get_method(f"file:{mine}")
    copy = tmp_path / "copy.py"
    copy.write_text(MINE)
    assert get_method(f"file:{copy}") is method
    mine.write_text(MINE.replace("counts its steps", "counts on"))
    changed = get_method(f"file:{mine}")
    assert changed.summary == "counts on" and changed.digest != method.digest
    assert get_method("mine", method.digest) is method and get_method("mine", changed.digest) is changed


BAD: list[tuple[str, Callable[[str], str], list[str]]] = [
    (
        "not python",
        lambda s: s.replace("return State(0)", "return State(0"),
        ["line 25", "not Python", "never closed"],
    ),
    ("null byte", lambda s: s + "\0", ["not Python"]),
    (
        "raises",
        lambda s: s.replace("METHOD =", "1 / 0\nMETHOD ="),
        ["line 32: ZeroDivisionError: division by zero"],
    ),
    ("exits", lambda s: "import sys\nsys.exit(3)\n", ["line 2: SystemExit: 3"]),
    (
        "neighbour",
        lambda s: "import my_helpers\n" + s,
        ["line 1: ModuleNotFoundError", "my_helpers", "neighbours"],
    ),
    ("abstract", lambda s: s.replace("compute_loss", "compute_los"), ["line 32: TypeError", "compute_loss"]),
    (
        "no METHOD",
        lambda s: s.replace("METHOD =", "METHODS ="),
        ["there is no METHOD", "METHOD = MyMethod()"],
    ),
    ("empty", lambda s: "", ["there is no METHOD"]),
    (
        "class",
        lambda s: s.replace("METHOD = Mine()", "METHOD = Mine"),
        ["METHOD is the class Mine", "METHOD = Mine()"],
    ),
    (
        "no method",
        lambda s: s.replace("METHOD = Mine()", "METHOD = 3"),
        ["METHOD = 3", "ssl_core.methods.base.Method"],
    ),
    ("no name", lambda s: s.replace('name = "mine"', ""), ["METHOD.name = None", "'my_method'"]),
    (
        "name with slash",
        lambda s: s.replace('"mine"', '"my/mine"'),
        ["METHOD.name = 'my/mine'", "plain name"],
    ),
    ("name with dot", lambda s: s.replace('"mine"', '"mi.ne"'), ["METHOD.name = 'mi.ne'", "plain name"]),
    ("keyword", lambda s: s.replace('"mine"', '"lambda"'), ["METHOD.name = 'lambda'", "plain name"]),
    ("long name", lambda s: s.replace('"mine"', f'"{"m" * 41}"'), ["at most 40"]),
    ("name taken", lambda s: s.replace('"mine"', '"vat"'), ["METHOD.name = 'vat'", "comes with the package"]),
    (
        "name of a field",
        lambda s: s.replace('"mine"', '"epochs"'),
        ["METHOD.name = 'epochs'", "field of this name"],
    ),
    ("no summary", lambda s: s.replace('summary = "counts its steps"', ""), ["METHOD.summary = None"]),
    ("config", lambda s: s.replace("Config = Config", "Config = dict"), ["METHOD.Config", "MethodConfig"]),
    (
        "views",
        lambda s: s.replace("Config = Config", 'unlabelled_views = ("weaker",)'),
        ["('weaker',)", "'weak'"],
    ),
    ("view", lambda s: s.replace("Config = Config", 'unlabelled_views = "weak"'), ["= 'weak'", "a tuple"]),
    (
        "warm-up",
        lambda s: s.replace("Config = Config", "warmup_share = 10"),
        ["warmup_share = 10", "from 0 to below 1"],
    ),
    (
        "arguments",
        lambda s: s.replace("(self, config, step)", "(self, config, step, batch)"),
        ["METHOD.compute_loss takes other arguments", "def compute_loss(self, config, step)"],
    ),
]


@pytest.mark.parametrize(("spoil", "says"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_file_that_is_no_method_is_refused_naming_it_and_the_line(
    mine: Path, spoil: Callable[[str], str], says: list[str]
) -> None:
    mine.write_text(spoil(MINE))
    for _ in range(2):  # what was refused is not remembered as loaded
        message = refusal(mine)
        assert message.startswith(str(mine)) and "\n" not in message
        assert all(words in message for words in says), message
    assert not [name for name in sys.modules if method_file.digest_of(spoil(MINE)) in name]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nowhere.py", "nowhere.py: there is no such file"),
        ("", "name the file, as in file:my_method.py"),
        (".", "cannot be read: Is a directory"),
        ("latin.py", "not a text file in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.py").write_bytes(b"# caf\xe9\n")
    assert says in refusal(place)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("", "compute_loss returned no state, but its state is a State. Return a State"),
        (", 3", "compute_loss returned a state of type int. Return a State"),
    ],
)
def test_a_state_that_is_not_returned_is_an_error(mine: Path, returned: str, says: str) -> None:
    mine.write_text(MINE.replace(", State(step.state.steps + 1))", f"{returned})"))
    run = make_run(f"file:{mine}", epochs=2)
    with pytest.raises(ConfigError, match=f"method 'mine': {says}"):
        finish(run)
    assert run.method_state.steps == 0 and run.epoch == 1  # the warm-up's epoch alone is finished


def test_a_state_that_start_epoch_does_not_return_is_an_error(mine: Path) -> None:
    forgets = "    def start_epoch(self, config, state, relabel):\n        return None, None\n\n"
    mine.write_text(MINE.replace("    def compute_loss", forgets + "    def compute_loss"))
    run = make_run(f"file:{mine}")
    with pytest.raises(ConfigError, match="method 'mine': start_epoch returned no state"):
        finish(run)


def test_a_state_that_init_state_did_not_make_is_an_error(mine: Path) -> None:
    mine.write_text(MINE.replace("return State(0)", "return None").replace("step.state.steps", "0"))
    with pytest.raises(
        ConfigError, match=r"returned a state of type State. Let init_state return the first one"
    ):
        finish(make_run(f"file:{mine}"))


def test_a_traceback_shows_the_line_also_where_there_is_no_file(tmp_path: Path) -> None:
    import traceback

    text = MINE.replace("return State(0)", 'raise RuntimeError("no state")')
    method = method_file.load(text, str(tmp_path / "nowhere.py"))
    with pytest.raises(RuntimeError) as caught:
        method.init_state(None, None)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(caught.value))
    assert 'raise RuntimeError("no state")' in shown and "nowhere.py" in shown and "line 25" in shown


def test_a_document_of_a_method_that_is_not_loaded_says_how_to_name_it(mine: Path) -> None:
    with pytest.raises(ConfigError, match=r"'mine'.*method_digest 0123456789abcdef.*not at hand.*file:PATH"):
        from_document({"method": "mine", "method_digest": "0123456789abcdef"})
    digest = get_method(f"file:{mine}").digest
    with pytest.raises(ConfigError, match="holds 'mine'"):
        from_document({"method": "yours", "method_digest": digest})
    with pytest.raises(ConfigError, match="method_digest = 3: text is expected"):
        from_document({"method": f"file:{mine}", "method_digest": 3})


def test_a_file_that_changed_since_is_refused(mine: Path) -> None:
    digest = get_method(f"file:{mine}").digest
    document = {"method": f"file:{mine}", "method_digest": digest}
    assert from_document(document).method == "mine"
    mine.write_text(MINE + "# changed\n")
    with pytest.raises(
        ConfigError, match=rf"best.yaml: .*the file was changed.* is {digest}.*remove method_digest"
    ):
        from_document(document, where="best.yaml")


def test_a_run_keeps_the_file_and_is_carried_on_with_it_by_another_process(
    mine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config: dict[str, Any] = {**SHORT, "method": f"file:{mine}", "epochs": 2, "stop_after_epoch": 1}
    first = ssl_core.train(config, out=out)
    assert first.config["method"] == "mine" and (out / COPY).read_text() == MINE
    mine.unlink()
    kept = json.loads((out / "config.json").read_text()) | {"stop_after_epoch": None}
    code = (
        "import json, sys; from pathlib import Path; import ssl_core; from ssl_core import method_file\n"
        "out, config = Path(sys.argv[1]), json.loads(sys.argv[2])\n"
        "method_file.load_kept(out, config['method'], config['method_digest'])\n"
        "print(ssl_core.train(config, out=out, resume=True).epochs)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, out, json.dumps(kept)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "2\n", done.stderr


def test_a_run_of_another_content_is_not_carried_on(mine: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {**SHORT, "method": f"file:{mine}", "epochs": 2, "stop_after_epoch": 1}
    ssl_core.train(config, out=tmp_path / "run")
    mine.write_text(MINE + "# changed\n")
    with pytest.raises(ConfigError, match="another configuration: method_digest differ"):
        ssl_core.train(config | {"stop_after_epoch": None}, out=tmp_path / "run", resume=True)


def test_a_copy_that_was_changed_is_refused(mine: Path, tmp_path: Path) -> None:
    text = MINE + "# a content that no other test loads\n"
    (tmp_path / COPY).write_text(text + "# and then changed\n")
    with pytest.raises(ConfigError, match=r"method.py was changed: .*'mine'.*Bring the copy back"):
        method_file.load_kept(tmp_path, "mine", method_file.digest_of(text))
    (tmp_path / COPY).unlink()
    with pytest.raises(ConfigError, match="no such file"):
        method_file.load_kept(tmp_path, "mine", method_file.digest_of(text))


def test_the_documentations_method_is_short() -> None:
    assert len((EXAMPLES / "my_uda.py").read_text().splitlines()) < 100
