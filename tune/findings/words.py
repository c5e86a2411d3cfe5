"""Wording that tables, pages and progress share."""

from __future__ import annotations


def parameters(params: dict[str, object]) -> str:
    """Searched parameters on one line, floats to four digits."""
    return "  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())
