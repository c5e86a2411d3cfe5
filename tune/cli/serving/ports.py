"""Ports of this machine: checked, or chosen, before something listens there."""

from __future__ import annotations

import socket
from typing import Any

from ssl_core.system.errors import ConfigError

WITHIN = 100
"""How many ports above the usual one are tried."""


def free_port(host: str, usual: int) -> int:
    """The usual port, or the next one above it that something can listen on.

    Raises:
        ConfigError: no address of this machine, or none of the next hundred is free.
    """
    family, place = _address(host, usual)
    for port in range(usual, min(usual + WITHIN, 65_536)):
        if _listened(family, (place[0], port)) is None:
            return port
    check_port(host, usual)
    return usual


def _address(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: no address of this machine ({error.strerror}).") from None
    return family, place


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be listened on: MLflow's own processes would take a minute to say so.

    Raises:
        ConfigError: says why, and which port is free.
    """
    family, place = _address(host, port)
    problem = _listened(family, place)
    if problem is None:
        return
    free = next(
        (p for p in range(port + 1, min(port + WITHIN, 65_536)) if not _listened(family, (place[0], p))), None
    )
    remedy = "Name another with --port." if free is None else f"Take another, such as --port {free}."
    raise ConfigError(f"--port {port}: {host} cannot be listened on there ({problem}). {remedy}")


def _listened(family: int, place: tuple[Any, ...]) -> str | None:
    """Why nothing can listen at an address; None where something can."""
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(place)
        except OSError as error:
            return error.strerror or str(error)
    return None
