"""Objects by name, in every kind of place that a home may be in."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssl_core.system.errors import ConfigError
from tune.store import object_store
from tune.store.object_store import ObjectStore, StoreError


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty place of each kind; S3's is a real server."""
    if request.param == "s3":
        return ObjectStore(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}")
    if request.param == "memory":
        return ObjectStore(f"memory://{uuid.uuid4().hex}/home")
    return ObjectStore(f"file://{tmp_path}/store")


def test_an_object_is_there_once_it_is_written_and_gone_once_it_is_removed(store: ObjectStore) -> None:
    assert store.get("studies/a/state/1") is None and store.names("studies/a/state") == []
    store.put("studies/a/state/2", b"two")
    store.put("studies/a/state/1", b"one")
    store.put("studies/a/state/1", b"one, again")
    store.put("studies/studies/x", b"")
    assert store.get("studies/a/state/1") == b"one, again"
    assert store.names("studies/a/state") == ["1", "2"]
    assert store.names("studies") == ["a", "studies"]
    assert store.all_below("studies") == ["a/state/1", "a/state/2", "studies/x"]
    store.remove("studies/a/state/1")
    store.remove("studies/a/state/1")
    assert store.names("studies/a/state") == ["2"] and store.get("studies/a/state/1") is None
    store.remove_all("studies/a")
    assert store.names("studies") == ["studies"] and store.all_below("studies/a") == []


def test_two_places_of_one_store_do_not_see_each_other(store: ObjectStore) -> None:
    other = ObjectStore(f"{store.url}-other")
    store.put("a", b"1")
    assert other.get("a") is None and other.all_below("") == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "a place in an object store such as s3://BUCKET/FOLDER"),
        ("://x", "a place in an object store such as s3://BUCKET/FOLDER"),
        ("s3://key:secret@bucket/x", "a login in the URL would be kept"),
        ("nowhere://bucket/x", "Protocol not known: nowhere"),
    ],
)
def test_a_url_that_cannot_be_one_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        ObjectStore(url)
    assert "secret" not in str(refused.value)


def test_a_store_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(ConfigError, match=r"pip install 'ssl-tune\[s3\]'"):
        ObjectStore("s3://bucket/x")


@pytest.fixture
def failing(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Make the store's next reads fail; returns the pauses that are made between them."""

    def fail(times: int, error: Exception) -> list[float]:
        read, left, pauses = store._fs.cat_file, [times], list[float]()

        def cat_file(path: str, **options: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise error
            return read(path, **options)

        monkeypatch.setattr(store._fs, "cat_file", cat_file)
        monkeypatch.setattr(object_store.time, "sleep", pauses.append)
        return pauses

    return fail


def test_a_call_is_tried_again_with_pauses_that_double(
    store: ObjectStore, failing: Callable[..., list[float]]
) -> None:
    store.put("a", b"1")
    pauses = failing(3, ConnectionError("reset by peer"))
    assert store.get("a") == b"1"
    assert len(pauses) == 3
    for pause, longest in zip(pauses, (0.5, 1.0, 2.0), strict=True):
        assert 0.75 * longest <= pause <= longest


def test_a_store_that_stays_away_is_given_up_in_words(
    store: ObjectStore, failing: Callable[..., list[float]]
) -> None:
    pauses = failing(100, ConnectionError("reset by peer"))
    with pytest.raises(StoreError, match="cannot read a: reset by peer") as given_up:
        store.get("a")
    assert len(pauses) == object_store.ATTEMPTS - 1 and store.url in str(given_up.value)


def test_a_refusal_is_not_argued_with(store: ObjectStore, failing: Callable[..., list[float]]) -> None:
    pauses = failing(1, PermissionError("Access Denied"))
    with pytest.raises(StoreError, match="Access Denied"):
        store.get("a")
    assert pauses == []


def test_a_bucket_that_is_not_there_is_no_reason_to_wait(s3: str) -> None:
    with pytest.raises(StoreError, match="bucket does not exist"):
        ObjectStore("s3://not-there/home").put("a", b"1")
