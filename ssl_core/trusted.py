"""Which method files this user has run: the list of digests that `--method file:PATH` and `--trust-method` fill.

A method of a user's own is Python, and loading it runs it. A study keeps a copy of it, and so do a run and an exported
configuration: whoever carries on a study of somebody else, or trains a configuration that came by mail, would run a
stranger's code. So a file that this user did not name is run only once its digest is on the list.

The list is the user's own (`~/.config/ssl-tune/trusted-methods`, or below XDG_CONFIG_HOME): a line for each file, its
SHA-256 and where it lay. One that others may write is not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from ssl_core import method_file
from ssl_core.methods.base import AnyMethod
from ssl_core.system.errors import ConfigError


def list_file() -> Path:
    """Where the list lies, whether it is there or not."""
    return (
        Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "ssl-tune" / "trusted-methods"
    )


def digest_of(text: str) -> str:
    """The whole SHA-256 of a method file's content: the 16 digits that configurations carry can be forged in pairs."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def trust(text: str, where: str) -> None:
    """Put a file's content on the list; where the list cannot be written, the file will be asked for again.

    Args:
        text: the content.
        where: where it lies, for people who read the list.
    """
    if is_trusted(text):
        return
    line = f"{digest_of(text)}  {' '.join(where.split())}\n"
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: this user has no home folder
        path = list_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(number, line.encode("utf-8"))
        finally:
            os.close(number)


def is_trusted(text: str) -> bool:
    """Whether a file's content is on the list."""
    try:
        with list_file().open(encoding="utf-8", errors="replace") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return False
            digests = {line.partition(" ")[0].strip() for line in file}
    except (OSError, RuntimeError):
        return False
    return digest_of(text) in digests


def check_trusted(text: str, path: Path, whose: str, *, trust_method: bool) -> None:
    """Refuse to run a method file that this user has not run before.

    Args:
        text: its content.
        path: where it lies.
        whose: what names it or keeps it, for the message.
        trust_method: the user has looked at it, and it goes on the list.

    Raises:
        ConfigError: it is not on the list.
    """
    if trust_method:
        trust(text, str(path))
    elif not is_trusted(text):
        raise ConfigError(
            f"{whose} would run the Python file {path} (SHA-256 {digest_of(text)}), which you have not run before. "
            "Look at what it does. Then add --trust-method (of `search`, `train`, `resume` and `confirm`), and "
            "you are not asked again."
        )


def load_kept(folder: Path, name: str, digest: str, *, trust_method: bool = False) -> AnyMethod:
    """Load the copy of a method that a study or a run keeps in its folder, where this user trusts it.

    Args:
        folder: of the study or the run.
        name: the method's.
        digest: of its content, as configurations carry it.
        trust_method: as of `check_trusted`.

    Raises:
        ConfigError: the copy is missing, was changed or is not trusted.
    """
    text, path = method_file.kept_text(folder, name, digest), folder / method_file.COPY
    check_trusted(text, path, f"carrying on {folder.name}", trust_method=trust_method)
    method_file.load(text, str(path))
    return method_file.loaded(name, digest)


def load_named(path: Path, named_by: str, *, trust_method: bool = False) -> AnyMethod:
    """Load a method file that a configuration or a study's file names, where this user trusts it.

    Args:
        path: the file.
        named_by: what names it.
        trust_method: as of `check_trusted`.

    Raises:
        ConfigError: it cannot be read, is not trusted, or holds no method.
    """
    text = method_file.read(path)
    check_trusted(text, path, named_by, trust_method=trust_method)
    return method_file.load(text, str(path))


def trust_named(method: str) -> None:
    """Put a method file that the user named themselves, as ``file:PATH``, on the list; nothing for other methods.

    Raises:
        ConfigError: it cannot be read.
    """
    if method.startswith(method_file.PREFIX):
        path = method_file.path_of(method)
        trust(method_file.read(path), str(path.resolve()))
