"""Names in what a worker reports, and of the files that it leaves beside a trial's checkpoints. Loads nothing."""

from __future__ import annotations

EPOCH, SSL_EPOCH, ERROR, LOSS = "epoch", "ssl_epoch", "val/error", "val/loss"
BALANCED = "val/error_balanced"


STOP_REASON, MESSAGE, METRICS, CLASSES, STORAGE = "stop_reason", "message", "metrics", "classes", "storage"


ERROR_FILE, FAILURES_FILE, VERDICT_FILE = "error.txt", "failures", "killed-for-memory.txt"
