"""Checkpoints: what a crash, a bad disk or a stranger can do to a file, and what is left then."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_core import __version__
from ssl_core.training import checkpoint
from ssl_core.training.checkpoint import MAGIC, DamagedCheckpointError
from tests.tiny import assert_same_bits, finish, make_run

STATE: dict[str, Any] = {
    "network": {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)},
    "double": torch.tensor([1 / 3, float("inf")], dtype=torch.float64),
    "bfloat16": torch.tensor([0.1], dtype=torch.bfloat16),
    "empty": torch.empty(0, dtype=torch.int64),
    "history": [{"epoch": 1, "ssl_epoch": None, "metrics": {"val/error": 12.5}}],
    "text": "é",
    "flag": True,
}


def state(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.full((3,), float(epoch))}


def test_a_state_comes_back_as_it_went(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "a.ckpt", STATE)
    assert_same_bits(checkpoint.read(tmp_path / "a.ckpt"), STATE)


def test_channels_last_weights_come_back_channels_last(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    checkpoint.write(tmp_path / "a.ckpt", {"weight": weight})
    assert checkpoint.read(tmp_path / "a.ckpt")["weight"].stride() == weight.stride()


def test_a_truncated_file_is_damaged_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, state(1))
    whole = path.read_bytes()
    for length in [*range(0, 60), *range(60, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError, match="damaged"):
            checkpoint.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedCheckpointError):
        checkpoint.read(path)


def test_one_flipped_bit_anywhere_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.write(path, state(1))
    whole = path.read_bytes()
    header = list(range(40))  # magic and checksum
    for place in header + list(range(40, len(whole), 23)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        path.write_bytes(altered)
        with pytest.raises(DamagedCheckpointError):
            checkpoint.read(path)
    path.write_bytes(whole)
    assert_same_bits(checkpoint.read(path), state(1))


class _Payload:
    """What a stranger would put into a pickle."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    buffer, mark = io.BytesIO(), tmp_path / "was-here"
    torch.save({"weights": _Payload(mark)}, buffer)
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert mark.exists()  # the payload works where it is let
    mark.rmdir()
    payload = buffer.getvalue()
    (tmp_path / "a.ckpt").write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.read(tmp_path / "a.ckpt")
    assert not mark.exists()


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        checkpoint.save(tmp_path, epoch, state(epoch))
    assert checkpoint.epochs_in(tmp_path) == [5, 4]
    checkpoint.save(tmp_path, 6, state(6), keep=1)
    assert checkpoint.epochs_in(tmp_path) == [6]


def test_epochs_are_ordered_as_numbers(tmp_path: Path) -> None:
    for epoch in (2, 10, 9, 100_000):
        checkpoint.path_of(tmp_path, epoch).touch()
    assert checkpoint.epochs_in(tmp_path) == [100_000, 10, 9, 2]


def test_an_older_checkpoint_is_used_where_the_newest_is_damaged(tmp_path: Path) -> None:
    for epoch in (1, 2):
        checkpoint.save(tmp_path, epoch, state(epoch))
    newest = checkpoint.path_of(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:-1])
    assert_same_bits(checkpoint.load_newest(tmp_path), state(1))
    assert checkpoint.epochs_in(tmp_path) == [1]
    assert newest.with_suffix(".damaged").exists()  # set aside, not destroyed
    checkpoint.save(tmp_path, 2, state(2))
    assert_same_bits(checkpoint.load_newest(tmp_path), state(2))


def test_nothing_is_loaded_where_nothing_is_whole(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "missing") is None
    checkpoint.path_of(tmp_path, 3).write_bytes(b"")
    assert checkpoint.load_newest(tmp_path) is None


def test_what_a_crash_left_half_written_is_ignored(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.path_of(tmp_path, 2)
    (tmp_path / f".{path.name}.123.tmp").write_bytes(b"half")
    (tmp_path / f"{path.name}.tmp").write_bytes(b"half")
    assert checkpoint.epochs_in(tmp_path) == [1]
    assert_same_bits(checkpoint.load_newest(tmp_path), state(1))


class _Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    path = checkpoint.save(tmp_path, 1, state(1))

    def crash(*_: object) -> None:
        raise _Crash

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        with pytest.raises(_Crash):
            checkpoint.write(path, state(9))
        with pytest.raises(_Crash):
            checkpoint.save(tmp_path, 2, state(2))
    assert_same_bits(checkpoint.read(path), state(1))
    assert checkpoint.epochs_in(tmp_path) == [1]


def test_the_file_is_on_disk_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "a.ckpt", []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        events.append("fsync folder" if Path(target) == tmp_path else "fsync file")
        if events[-1] == "fsync file":
            assert Path(target).stat().st_size > 40  # all of it was handed over
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        assert target == path
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    checkpoint.write(path, state(1))
    assert events == ["fsync file", "rename", "fsync folder"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def forged(path: Path, payload: bytes) -> None:
    """A file with the right checksum and anything in it."""
    path.write_bytes(checkpoint.MAGIC + hashlib.sha256(payload).digest() + payload)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "payload",
    [pickle.dumps({"a": Path("/")}), saved(Path("/")), saved([1, 2]), b"", b"PK\x03\x04 no archive"],
    ids=["pickle", "object", "list", "empty", "no archive"],
)
def test_20_what_has_the_right_checksum_and_cannot_be_loaded_is_set_aside(
    tmp_path: Path, payload: bytes
) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    forged(checkpoint.path_of(tmp_path, 2), payload)
    with pytest.warns(UserWarning, match="epoch-000002.ckpt holds .* set aside"):
        assert_same_bits(checkpoint.load_newest(tmp_path), state(1))
    assert (tmp_path / "epoch-000002.damaged").exists()


def test_20_a_checkpoint_that_its_run_cannot_take_is_set_aside(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))
    taken = []

    def load(found: dict[str, Any]) -> None:
        if found["epoch"] == 2:
            raise checkpoint.DamagedCheckpointError("of another make")
        taken.append(found["epoch"])

    with pytest.warns(UserWarning, match="of another make"):
        checkpoint.load_newest(tmp_path, load)
    assert taken == [1] and (tmp_path / "epoch-000002.damaged").exists()


def test_a_run_that_an_earlier_version_began_goes_on_and_says_so() -> None:
    run = make_run(epochs=2)
    finish(run, until=1)
    here, earlier = run.state(), run.state()
    del earlier["version"]  # checkpoints of 0.1.0 had none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_run(epochs=2).load_state(here)
    with pytest.warns(
        UserWarning, match=rf"begun with ssl-tune 0\.1\.0 and goes on with {__version__}: .* bits"
    ):
        make_run(epochs=2).load_state(earlier)
