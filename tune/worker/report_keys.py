"""Names in what a worker reports, and of the files that it leaves beside a trial's checkpoints."""

from __future__ import annotations

from tune.definition.objective import BOTH as BOTH
from tune.store.layout import ERROR_FILE as ERROR_FILE
from tune.store.layout import FAILURES_FILE as FAILURES_FILE
from tune.store.layout import VERDICT_FILE as VERDICT_FILE

EPOCH, SSL_EPOCH, ERROR, LOSS = "epoch", "ssl_epoch", "val/error", "val/loss"
BALANCED = "val/error_balanced"


IN_WARMUP = "in_warmup"
"""Whether an epoch was one of a warm-up: of a further fold's, too, whose epochs have an `ssl_epoch`."""
STOP_REASON, MESSAGE, METRICS, CLASSES, STORAGE = "stop_reason", "message", "metrics", "classes", "storage"
