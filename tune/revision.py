"""Which code this is: its place on disk, a digest of its files, its git revision; and a child process's environment."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the three packages."""
PACKAGES = ("search_spaces", "ssl_core", "tune")


def child_environment() -> dict[str, str]:
    """The environment of a child process that is to run this very code, wherever the command was typed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def code_digest(root: Path) -> str:
    """A short digest of the three packages' code below a folder: a version number does not tell a changed copy."""
    digest = hashlib.blake2b(digest_size=4)
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".yaml"):
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def git_revision() -> str:
    """The revision of this package's checkout; "unknown" where it was not installed from one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
