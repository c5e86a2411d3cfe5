"""Which images of a data set are test images for good, where it brings no test part: a record in the home.

Every study of a home takes the test images that are on record, so that none of them is trained on later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ssl_core.system.files import write_atomically
from tune.definition.inputs import with_absolute_place
from tune.definition.spec import dataset_tag
from tune.store.home import Home
from tune.store.layout import HELD_OUT
from tune.store.object_store import ObjectStore

if TYPE_CHECKING:
    from ssl_core.data.splits.holdout import Membership


def membership_of_document(document: Mapping[str, Any] | None) -> Membership | None:
    """The record of held-out test images that plain data hold."""
    from ssl_core.data.splits.holdout import Membership  # loads numpy

    return None if document is None else Membership.of(document)


def held_out_before(home: Home, dataset: str) -> Membership | None:
    """The test images that studies of this home have held out of a data set.

    Raises:
        ConfigError: the record is damaged.
    """
    from ssl_core.data.splits.holdout import Membership  # loads numpy

    name = _record(dataset)
    path = home.path / name
    text = ObjectStore(home.url).get(name) if home.url is not None else None
    if text is None and path.is_file():
        text = path.read_bytes()
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    return Membership.of(document, where=str(path))


def keep_held_out(home: Home, dataset: str, membership: Membership | None) -> None:
    """Add test images that were held out of a data set to the home's record; what is on record stays there.

    Raises:
        ConfigError: the record is damaged.
    """
    if membership is None:
        return
    before = held_out_before(home, dataset)
    merged = membership if before is None else before.united(membership)
    if before is not None and merged.digest == before.digest:
        return
    name = _record(dataset)
    document = merged.document() | {"dataset": with_absolute_place(dataset)}
    text = json.dumps(document, indent=1).encode()
    (home.path / HELD_OUT).mkdir(parents=True, exist_ok=True)
    write_atomically(home.path / name, text)
    if home.url is not None:
        ObjectStore(home.url).put(name, text)


def _record(dataset: str) -> str:
    """Where the record of a data set lies, relative to the home."""
    place = with_absolute_place(dataset)
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{HELD_OUT}/{dataset_tag(place)}-{digest}.json"
