"""The inbox of a study: what somebody asks of whoever drives it, one file a wish, until it is carried out.

A wish is written whole or not at all, and is removed after what it asks for is done and noted; a driver that dies in
between does it again, which changes nothing. In an object store wishes are objects of the study, which its driver
fetches.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ssl_core.system.files import write_atomically
from tune.store.layout import INBOX, is_wish_name
from tune.store.study_folder import StudyFolder


@dataclass(frozen=True)
class Wish:
    """What somebody asks of a study.

    Attributes:
        kind: grow, retry, enqueue, stop or pin; damaged where the file is no wish.
        content: what belongs to it, as JSON has it: see `tune.steering.steering`.
        name: of its file; its first part is when it was asked for, in microseconds.
    """

    kind: str
    content: dict[str, Any] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"{time.time_ns() // 1000:016d}-{uuid.uuid4().hex}.json")


def put(folder: StudyFolder, wish: Wish) -> None:
    """Leave a wish for the driver, wherever it is; it is durable when this returns."""
    data = json.dumps({"kind": wish.kind, **wish.content}).encode()
    if folder.remote is not None and not folder.is_mine():
        folder.remote.put_wish(wish.name, data)
        return
    place = folder.path / INBOX
    place.mkdir(exist_ok=True)
    write_atomically(place / wish.name, data)


def waiting(folder: StudyFolder) -> list[str]:
    """Names of the wishes that nobody has carried out yet, oldest first."""
    place = folder.path / INBOX
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    if folder.remote is not None and not folder.is_mine():
        names |= set(folder.remote.wishes())
    return sorted(name for name in names if is_wish_name(name))


def read(folder: StudyFolder) -> list[Wish]:
    """The wishes that lie here, oldest first; a file that is none has the kind "damaged", and says why."""
    found = []
    for name in waiting(folder):
        path = folder.path / INBOX / name
        try:
            document = json.loads(path.read_bytes())
            found.append(Wish(document.pop("kind"), document, name))
        except FileNotFoundError:
            continue
        except (ValueError, AttributeError, KeyError, RecursionError) as error:
            found.append(Wish("damaged", {"why": f"{type(error).__name__}: {error}"}, name))
    return found
