"""The command ``ssl-tune``: a thin layer over the Python interface."""

from __future__ import annotations

import errno
import sys
import warnings

import typer

from ssl_core.system.errors import ConfigError, MemoryExhaustedError, NonFiniteError
from tune.cli import data, export, info, jobs, predict, read, report, study, training
from tune.cli import reproduce as tables
from tune.errors import Exit, ServiceError, without_passwords
from tune.store.object_store import StoreError

app = typer.Typer(
    name="ssl-tune",
    help="Hyperparameter search for semi-supervised image classification. All state lives in one folder: "
    "--home, SSL_TUNE_HOME, or ./ssl-tune-home.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for module in (training, study, jobs, read, export, predict, report, tables, data, info):
    module.register(app)


def main() -> None:
    """Run the command. A problem that a user can solve gives one message and an exit code."""
    warnings.showwarning = _one_line
    try:
        app()
    except ConfigError as error:
        _fail(str(error), Exit.USAGE)
    except (NonFiniteError, MemoryExhaustedError) as error:
        _fail(str(error), Exit.NO_TRIAL_SUCCEEDED)
    except ServiceError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("interrupted", Exit.INTERRUPTED)
    except StoreError as error:
        _fail(f"storage: {error}", Exit.STORAGE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        _fail(f"storage: {error}. Free some space; what was written so far is whole.", Exit.STORAGE)


def _fail(message: str, code: Exit) -> None:
    print(f"ssl-tune: {without_passwords(message)}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _one_line(message: object, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning as one sentence, without the line of code that caused it."""
    if category is UserWarning:
        print(f"ssl-tune: warning: {message}", file=sys.stderr)  # noqa: T201
