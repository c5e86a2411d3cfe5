"""What has changed in SQLite files, block by block: cut out on one machine and put together on another.

A part is a gzip stream: a line of JSON that says which blocks of which file follow, and those blocks. The first part of
a chain has all blocks. A database of a hundred megabytes to which a report is added differs in some ten pages.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK = 4096
"""Bytes of a block: a page of SQLite's."""
FEW, MOST = 2**28, 200
"""Bytes that a part may hold besides, and how many times its own size."""

Digests = list[bytes]


def cut(files: Mapping[str, Path], before: Mapping[str, Sequence[bytes]]) -> tuple[bytes, dict[str, Digests]]:
    """A part with what has changed in some files, and the digests of all of their blocks.

    Args:
        files: where they lie, by name.
        before: digests that their blocks had.
    """
    heads, blocks, now = [], [], dict[str, Digests]()
    for name, path in files.items():
        known, places = before.get(name, ()), list[int]()
        found: Digests = []
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest = hashlib.blake2b(block, digest_size=16).digest()
                if len(found) >= len(known) or known[len(found)] != digest:
                    places.append(len(found))
                    blocks.append(block)
                found.append(digest)
        now[name] = found
        heads.append({"name": name, "size": path.stat().st_size, "places": places})
    head = json.dumps({"files": heads}, separators=(",", ":")).encode() + b"\n"
    return gzip.compress(head + b"".join(blocks), compresslevel=1, mtime=0), now


def put_together(parts: Sequence[bytes], folder: Path, allowed: Sequence[str]) -> None:
    """Write the files that a chain of parts describes.

    Args:
        parts: in order, the first with all blocks.
        folder: where the files go.
        allowed: names that they may have.

    Raises:
        ValueError: one is no part, or not one of these files.
    """
    for part in parts:
        try:
            _apply(_inflated(part), folder, allowed)
        except (LookupError, TypeError, AttributeError, OSError, zlib.error, EOFError) as error:
            raise ValueError(f"it is no part of a study ({error})") from error


def _inflated(part: bytes) -> bytes:
    most = FEW + MOST * len(part)
    with gzip.GzipFile(fileobj=io.BytesIO(part)) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it would take more than {MOST} times its size")
    return data


def _apply(data: bytes, folder: Path, allowed: Sequence[str]) -> None:
    line, _, blocks = data.partition(b"\n")
    at = 0
    heads: list[dict[str, Any]] = json.loads(line)["files"]
    for head in heads:
        name, size, places = head["name"], head["size"], head["places"]
        if name not in allowed:
            raise ValueError(f"{name!r} is no file of a study's databases")
        if not isinstance(size, int) or not 0 <= size <= FEW + MOST * len(data):
            raise ValueError(f"{size!r} bytes are no size of {name}")
        path = folder / name
        with path.open("r+b" if path.exists() else "w+b") as file:
            for place in places:
                if not isinstance(place, int) or not 0 <= place * BLOCK < size:
                    raise ValueError(f"{place!r} is no block of {name}")
                length = min(BLOCK, size - place * BLOCK)
                if at + length > len(blocks):
                    raise ValueError(f"{name} is cut off")
                file.seek(place * BLOCK)
                file.write(blocks[at : at + length])
                at += length
            file.truncate(size)
