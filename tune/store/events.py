"""The events of a study's log, and how they are written as rows of its table.

Every report of every trial is kept, so that MLflow's database and Optuna's can be filled again from the log; most of a
report is names that each of them repeats. So an event's data are JSON, compressed where that makes them shorter.
Deflate with a preset dictionary (RFC 1950, FDICT) of such names makes a report several times smaller, alone and without
its neighbours. The checksum in it finds data that were damaged.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SHORTEST = 200
"""Characters of JSON from which on it is compressed. What SQL looks into (`EventLog.trials`) is shorter, and plain."""
LARGEST = 64 * 2**20
"""Bytes that a payload may have: one that somebody else has made may expand without end."""
PLAIN_KINDS = frozenset({"status"})

_CLASSES = "".join(
    f'"ssl/pseudo_labels/class_{c:02d}":0.0,"ssl/pseudo_label_accuracy/class_{c:02d}":0.0,' for c in range(10)
)
DICTIONARY = (
    '{"file":"config.yaml","text":"data:\\n  image_size: null\\n  label_seed: 0\\n  split_seed: 0\\n  valid: 500\\n'
    "  augment:\\ndataset: digits\\nlabels: 100\\nmethod: \\nnetwork: wrn-28-2\\nepochs: 300\\nsteps_per_epoch: \\n"
    "batch_size: 64\\nmu: 7\\nlr: 0.03\\nmomentum: 0.9\\nnesterov: true\\nweight_decay: 0.0005\\nema_decay: 0.999\\n"
    "warmup_epochs: 1\\nprecision: bfloat16\\ndevice: cuda\\nthreads: 1\\nseed: 0\\neval_batch_size: \\ncompile: \\n"
    'schedule: cosine\\noptimizer: sgd\\nstop_after_epoch: null\\n"}'
    '{"params":[["method",""],["dataset",""],["labels",""],["network",""],["epochs",""],["steps_per_epoch",""],'
    '["batch_size",""],["mu",""],["lr",""],["momentum",""],["nesterov",""],["weight_decay",""],["ema_decay",""],'
    '["warmup_epochs",""],["precision",""],["device",""],["threads",""],["seed",""],["data.label_seed",""],'
    '["data.split_seed",""],["data.valid",""],["stop_after_epoch","None"]]}'
    '{"name":"trial ","parent":"","tags":{"mlflow.user":"","mlflow.source.name":"ssl-tune","mlflow.source.type":'
    '"LOCAL","ssl.study":"","ssl.method":"","ssl.dataset":"","ssl.protocol":"simulated","ssl.labels":"","ssl.split_hash":"",'
    '"ssl.kind":"trial","ssl.trial":"","ssl.run_key":""}}'
    '{"name":"","digest":"","source_type":"","source":"","schema":"","profile":""}'
    f'{{"epoch":1,"metrics":{{{_CLASSES}"ssl/pseudo_labels_smallest_class":0.0,"ssl/pseudo_labels_largest_class":0.0,'
    '"ssl/pseudo_label_accuracy":0.9,"ssl/mask_rate":0.,"train/loss_unsupervised":0.0,"train/loss_supervised":0.0,'
    '"train/loss":0.0,"lr":0.0,"images_per_second":1,"time/epoch_seconds":1.,"val/loss":0.,"val/error_balanced":1,'
    '"val/error":1},"classes":{"accepted":[0,0,0,0,0,0,0,0,0,0],"right":[0,0,0,0,0,0,0,0,0,0],"images":[50,50,50,50,50,'
    '50,50,50,50,50],"wrong":[0,0,0,0,0,0,0,0,0,0],"confusion":[0,0,0,0,0,0,0,0,0,0,0,0]}}'
).encode()
"""What a payload may refer to instead of repeating it. Part of the log's format: it never changes."""


class NewEvent(NamedTuple):
    """An event to append: see `EventLog.append`."""

    kind: str
    run: str
    payload: Mapping[str, object]
    key: str | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as it lies in the log.

    Attributes:
        id: the order in which events were appended.
        key: what makes appending it again a no-op; None where it may happen any number of times.
        kind: what happened, for example "metrics"; `tune.tracking.tracker` lists the kinds.
        run: the run's own key, for example "my-study/7".
        payload: the event's data.
        time_ms: Unix time in milliseconds, fixed when the event was appended.
    """

    id: int
    key: str | None
    kind: str
    run: str
    payload: dict[str, object]
    time_ms: int


class DeadLetter(NamedTuple):
    """An event that tracking refused for good, and why."""

    event: Event
    reason: str


class Report(NamedTuple):
    """One epoch of one run, as it was reported; `classes` as in `ssl_core.training.run.Report`."""

    epoch: int
    time_ms: int
    metrics: dict[str, float]
    classes: dict[str, list[int]] = {}  # noqa: RUF012 - never written to


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def row_of(event: NewEvent) -> tuple[str | None, str, str, str | bytes, int]:
    """The columns key, kind, run, payload and time_ms."""
    payload = packed(event.kind, event.payload)
    time_ms = now_ms() if event.time_ms is None else event.time_ms
    return event.key, event.kind, event.run, payload, time_ms


def event_of(row: tuple[object, ...]) -> Event:
    """An event of the columns id, key, kind, run, payload and time_ms."""
    id, key, kind, run, payload, time_ms = row
    return Event(
        id=integer(id),
        key=None if key is None else str(key),
        kind=str(kind),
        run=str(run),
        payload=unpacked(payload),
        time_ms=integer(time_ms),
    )


def integer(value: object) -> int:
    """A column that holds whole numbers; raises TypeError where it holds something else."""
    if not isinstance(value, int):
        raise TypeError(f"the event log holds {value!r} where a whole number belongs")
    return value


def packed(kind: str, payload: Mapping[str, object]) -> str | bytes:
    """An event's data for its column.

    Args:
        kind: of the event.
        payload: data that JSON can hold; NaN and infinities are kept (as Python's JSON writes them).
    """
    text = json.dumps(payload, separators=(",", ":"))
    if len(text) < SHORTEST or kind in PLAIN_KINDS:
        return text
    deflate = zlib.compressobj(level=6, zdict=DICTIONARY)
    short = deflate.compress(text.encode()) + deflate.flush()
    return short if len(short) < len(text) else text


def unpacked(column: object) -> dict[str, Any]:
    """An event's data from its column, compressed or plain.

    Raises:
        ValueError: there is something else in it.
    """
    if isinstance(column, bytes):
        inflate = zlib.decompressobj(zdict=DICTIONARY)
        try:
            column = inflate.decompress(column, LARGEST)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if not inflate.eof:
            raise ValueError("it is cut off, or larger than an event can be")
    elif not isinstance(column, str):
        raise ValueError(f"{column!r} is no event")
    found = json.loads(column)
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} instead of an event")
    return found
