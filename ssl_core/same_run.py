"""Whether two configurations are of the same run: in what they differ, but for what changes no bit of it."""

from __future__ import annotations

from typing import Any

from ssl_core.config import from_document
from ssl_core.system.errors import ConfigError


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Keys in which two resolved configurations, as documents, are those of different runs."""
    # A run that was stopped early may be continued: where it stops does not make it another run.
    ignored = {"stop_after_epoch"}
    one, other = (_without_places(_with_new_fields(document)) for document in (one, other))
    return sorted(k for k in one.keys() | other.keys() if k not in ignored and one.get(k) != other.get(k))


def _without_places(document: dict[str, Any]) -> dict[str, Any]:
    """A document without what says where the images are, and where a file of weights with a digest: the bits are the
    same."""
    data, backbone = document.get("data"), document.get("backbone")
    if isinstance(data, dict):
        document = {**document, "data": {k: v for k, v in data.items() if k != "device_share"}}
    if isinstance(backbone, dict) and backbone.get("weights_digest"):
        document = {**document, "backbone": {k: v for k, v in backbone.items() if k != "weights"}}
    return document


def _with_new_fields(document: dict[str, Any]) -> dict[str, Any]:
    """A document of an earlier version, with the fields that were added since at their defaults."""
    try:
        return from_document(document).document()
    except ConfigError:  # of a later version, or of another method's file
        return document
