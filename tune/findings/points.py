"""A study's best configurations as points, which `search --points` and `enqueue --points` take."""

from __future__ import annotations

from pathlib import Path

from search_spaces import dump_yaml
from ssl_core.system.errors import ConfigError
from ssl_core.system.files import write_atomically
from tune.findings.ranking import ranked
from tune.findings.study import Study
from tune.findings.words import result

HEADER = """\
# The best points of the study {name}, best first: for `ssl-tune search --points FILE`, or for
# `ssl-tune enqueue NAME --points FILE`.
# {results}
"""


def write_points(study: Study, path: Path, top: int) -> int:
    """Write the best distinct points of a study; returns how many.

    Args:
        study: the study.
        path: the YAML file.
        top: at most how many.

    Raises:
        ConfigError: no trial has a result, or the file cannot be written.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: must be at least 1.")
    records = ranked(study.records())[:top]
    if not records:
        raise ConfigError(
            f"the study {study.name!r} has no trial with a result yet. Resume it with "
            f"`{study.folder.command('resume')}`."
        )
    results = ", ".join(f"trial {record.trial}: {result(record)}" for record in records)
    text = HEADER.format(name=study.name, results=results) + dump_yaml([dict(r.values) for r in records])
    path = path.expanduser()
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: the folder {path.parent} does not exist.")
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Name another file.") from None
    return len(records)
