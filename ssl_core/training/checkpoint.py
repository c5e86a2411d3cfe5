"""Checkpoints that survive a crash: written to a temporary file, fsynced, renamed, checksummed, never unpickled.

A file is a 40-byte header (8 bytes of magic, 32 bytes SHA-256 of the rest) and what `torch.save` wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssl_core.system.files import write_atomically
from ssl_core.system.version import __version__

MAGIC = b"ssltune1"
_NAME = re.compile(r"epoch-(\d{6})\.ckpt")


class DamagedCheckpointError(RuntimeError):
    """A checkpoint whose content is not what was written."""


def write(path: Path, state: dict[str, Any]) -> None:
    """Write one checkpoint: tensors, numbers, text, and lists and dicts of them."""
    write_atomically(path, packed(state))


def packed(state: dict[str, Any]) -> bytes:
    """A checkpoint as the bytes of its file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def read(path: Path) -> dict[str, Any]:
    """Read one checkpoint onto the CPU.

    Raises:
        DamagedCheckpointError: it is truncated, altered or no checkpoint, also one with the right checksum.
    """
    data = path.read_bytes()
    digest, payload = data[len(MAGIC) : 40], data[40:]
    if not data.startswith(MAGIC) or hashlib.sha256(payload).digest() != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its checksum does not match")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever else was put in its place, with the right checksum: code is not run
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpointError(f"{path} holds something else than a checkpoint: {reason}") from error
    if not isinstance(state, dict):
        raise DamagedCheckpointError(f"{path} holds a {type(state).__name__} instead of a checkpoint")
    return state


def path_of(folder: Path, epoch: int) -> Path:
    """The path of the checkpoint after an epoch."""
    return folder / f"epoch-{epoch:06d}.ckpt"


def epoch_of(name: str) -> int | None:
    """The epoch in a checkpoint's file name; None where the name is another."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


def epochs_in(folder: Path) -> list[int]:
    """Epochs that the folder holds a checkpoint of, newest first."""
    found = (epoch_of(p.name) for p in folder.glob("epoch-*.ckpt"))
    return sorted((epoch for epoch in found if epoch is not None), reverse=True)


def save(folder: Path, epoch: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write the checkpoint after an epoch and delete all but the newest `keep` ones."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, epoch)
    write(path, state)
    for old in epochs_in(folder)[keep:]:
        path_of(folder, old).unlink(missing_ok=True)
    return path


def load_newest(folder: Path, load: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any] | None:
    """The newest undamaged checkpoint, or None; a damaged one is set aside: it is renamed to *.damaged.

    Args:
        folder: of the checkpoints.
        load: called with the checkpoint's content; one for which it raises DamagedCheckpointError is set aside, too.
    """
    for epoch in epochs_in(folder):
        path = path_of(folder, epoch)
        try:
            state = read(path)
            if load is not None:
                load(state)
            return state
        except DamagedCheckpointError as error:
            set_aside(path, error)
    return None


def say_if_of_another_version(state: dict[str, Any]) -> None:
    """Warn where a run goes on from a checkpoint of another version, whose random numbers may have been others."""
    made_by = state.get("version", "0.1.0")  # earlier ones did not say
    if made_by != __version__:
        warnings.warn(
            f"The run was begun with ssl-tune {made_by} and goes on with {__version__}: from beginning to end its bits "
            f"are those of neither. For the bits of before install ssl-tune {made_by}, or begin anew.",
            stacklevel=4,
        )


def set_aside(path: Path, error: DamagedCheckpointError) -> None:
    """Rename a damaged checkpoint, so that the one before it is taken; where that is not allowed, it is passed over."""
    warnings.warn(f"{error}. It is set aside, and the one before it is taken.", stacklevel=3)
    with contextlib.suppress(OSError):
        path.replace(path.with_suffix(".damaged"))
