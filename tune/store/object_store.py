"""Named bytes in a place that fsspec can reach: ``s3://bucket/folder``, ``gs://...``, ``file:///...``, ``memory://...``.

What an object store promises is little, and nothing more is asked of it: an object is written whole, is there for all
once it was written, and can be listed and removed. There are no locks, no renames and no appending.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from ssl_core.system.errors import ConfigError
from tune.store.layout import stays_inside

ATTEMPTS, FIRST_PAUSE = 6, 0.5
"""Tries of a call, and seconds before the second; each pause is twice the one before: 15 s in all."""

T = TypeVar("T")


class StoreError(OSError):
    """The store did not answer, or refused, however often it was asked."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return str(self.args[1])


class ObjectStore:
    """The objects below one URL.

    Args:
        url: of the place, such as ``s3://bucket/ssl-tune``. Logins are the environment's, as the store's own tools
            read them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...): never part of the URL.

    Raises:
        ConfigError: this cannot be one, or the library that speaks to this kind of store is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs  # loads fsspec, which a home that is a folder does not need

        self.url = url.rstrip("/")
        scheme, _, place = self.url.partition("://")
        if not scheme or not place.strip("/"):
            raise ConfigError(
                f"--home {url!r}: a folder, or a place in an object store such as s3://BUCKET/FOLDER."
            )
        if "@" in place.partition("/")[0]:
            raise ConfigError(
                "--home: a login in the URL would be kept with the study and logged. Give it in the environment, as "
                "the store's own tools read it (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for one)."
            )
        try:
            found, self._root = url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            remedy = " Install it with: pip install 'ssl-tune[s3]'" if scheme in ("s3", "s3a") else ""
            raise ConfigError(f"--home {url}: {error}.{remedy}") from None
        self._fs: Any = found

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whole."""
        path = self._path(name)

        def write() -> None:
            if "file" in self._protocols():  # which is no object store: half a file could be seen there
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                aside = f"{path}.{random.getrandbits(64):x}.tmp"
                self._fs.pipe_file(aside, data)
                self._fs.mv(aside, path)
            else:
                self._fs.pipe_file(path, data)

        self._tried(f"write {name}", write)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object where there is none of this name, whole; False, and nothing done, where there is one.

        Of stores that can do so at once (S3, Google's) no two writers both succeed.
        """
        path = self._path(name)

        def write() -> bool:
            try:
                if "file" in self._protocols():
                    self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return self.get(name) == data  # of a try that was carried out, though its answer was lost
            return True

        return self._tried(f"write {name}", write)

    def get(self, name: str) -> bytes | None:
        """An object's content; None where there is none of this name."""

        def read() -> bytes | None:
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

        return self._tried(f"read {name}", read)

    def names(self, folder: str) -> list[str]:
        """The last parts of the names directly below a folder, of objects and of folders, in order.

        A name that leads out of the folder, such as ``trials/7/../../x``, is left out with a warning, here and in
        `all_below`: whoever can write into a bucket may call an object anything.
        """

        def listed() -> list[str]:
            """One attempt at the list."""
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            paths = {str(path).rstrip("/") for path in found}
            # S3 may list the folder itself.
            names = {path.rpartition("/")[2] for path in paths - {self._path(folder)}}
            return _usable(names, folder)

        return self._tried(f"list {folder}", listed)

    def all_below(self, folder: str) -> list[str]:
        """The names of all objects below a folder ("": the whole store), however deep, relative to it."""
        root = f"{self._path(folder) if folder else self._root.rstrip('/')}/"

        def found() -> list[str]:
            self._fs.invalidate_cache()
            try:
                paths = [str(path) for path in self._fs.find(root)]
            except FileNotFoundError:
                return []
            return _usable({path.removeprefix(root) for path in paths if path.startswith(root)}, folder)

        return self._tried(f"list {folder}", found)

    def remove(self, name: str) -> None:
        """Remove an object; nothing where there is none."""
        self._removed(name, lambda path: self._fs.rm_file(path))

    def remove_all(self, folder: str) -> None:
        """Remove all objects below a folder; nothing where there is none."""
        self._removed(folder, lambda path: self._fs.rm(path, recursive=True))

    def _removed(self, name: str, how: Callable[[str], object]) -> None:
        def gone() -> None:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                how(self._path(name))

        self._tried(f"remove {name}", gone)

    def _path(self, name: str) -> str:
        if not stays_inside(name):
            raise StoreError(f"{self.url}: {name!r} is no name of an object below it")
        return f"{self._root.rstrip('/')}/{name}"

    def _protocols(self) -> tuple[str, ...]:
        protocol = self._fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def _tried(self, what: str, call: Callable[[], T]) -> T:
        """A call's result; tried again where a network may have been in the way."""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except Exception as error:  # each store raises its own client's
                if isinstance(error, PermissionError | FileNotFoundError) or attempt == ATTEMPTS - 1:
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    raise StoreError(f"{self.url} cannot {what}: {reason[0]}") from error
                time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.75, 1.0))
        raise AssertionError


def _usable(names: set[str], folder: str) -> list[str]:
    """Names from a listing, in order, less those of half-written objects and those that lead out of the folder."""
    strange = sorted(name for name in names if not stays_inside(name))
    if strange:
        warnings.warn(
            f"{folder} in the object store holds {strange[0]!r}, which is no name of ours and is left alone",
            stacklevel=2,
        )
    return sorted(name for name in names.difference(strange) if not name.endswith(".tmp"))
