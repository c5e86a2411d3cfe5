"""The command ``ssl-tune``: a thin layer over the Python interface.

Importing this file loads nothing heavy: from the first moment on, Ctrl-C is one line.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_core.system.errors import ConfigError, MemoryExhaustedError, NonFiniteError
from tune.errors import Exit, ServiceError, without_passwords
from tune.signals import forget_interrupts, remember_interrupts

if TYPE_CHECKING:
    import typer

    app: typer.Typer


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _made()


def _made() -> typer.Typer:
    """The command with all of its commands."""
    from tune.cli import data, export, info, jobs, predict, read, report, study, training
    from tune.cli import reproduce as tables
    from tune.cli.comparisons import command as compare
    from tune.cli.keeping import moving, removing
    from tune.cli.line.root import root
    from tune.cli.line.strict import StrictTyper
    from tune.cli.serving import live_page, mlflow_ui

    made = StrictTyper(
        name="ssl-tune",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(root)
    for module in (
        training,
        study,
        compare,
        jobs,
        read,
        export,
        predict,
        report,
        tables,
        live_page,
        mlflow_ui,
        removing,
        moving,
        data,
        info,
    ):
        module.register(made)
    return made


def main() -> None:
    """Run the command. Whatever happens gives one message at most and an exit code of `tune.errors.Exit`."""
    warnings.showwarning = _one_line
    _open_streams()
    try:
        _check_working_folder()
        made = _loaded()
        remember_interrupts()
        try:
            made()
        finally:
            sys.stdout.flush()
    except SystemExit as ended:
        _explain(ended)
        raise
    except ConfigError as error:
        _fail(str(error), Exit.USAGE)
    except (NonFiniteError, MemoryExhaustedError) as error:
        _fail(str(error), Exit.NO_TRIAL_SUCCEEDED)
    except ServiceError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("interrupted", Exit.INTERRUPTED)
    except BrokenPipeError:
        _nobody_reads()
    except OSError as error:
        if type(error).__name__ == "StoreError":  # its module loads what a folder of files does not need
            _fail(f"storage: {error}", Exit.STORAGE)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        _fail(f"storage: {error}. Free some space; what was written so far is whole.", Exit.STORAGE)
    finally:
        forget_interrupts()


def _open_streams() -> None:
    """See that there are three standard streams, and that what they cannot show does not end the command.

    A descriptor that the shell has closed would be given to the next file that is opened, a database perhaps, and what
    is printed would be written there.
    """
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the folder in which ssl-tune was started cannot be used ({error.strerror}): it was deleted, or may not "
            "be entered. Change to another with cd."
        ) from None


def _loaded() -> typer.Typer:
    """The command, once it is loaded. Ctrl-C meanwhile ends the process at once: nothing has been begun yet."""

    def end(number: int, frame: object) -> None:
        os.write(2, b"ssl-tune: interrupted\n")
        os._exit(Exit.INTERRUPTED)

    try:
        before = signal.signal(signal.SIGINT, end)
    except ValueError:  # not the main thread, which alone may do so
        return _made()
    try:
        return _made()
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(ended: SystemExit) -> None:
    """Say a line where Typer ended the command without one."""
    chain: BaseException | None = ended
    while chain is not None:
        if isinstance(chain, KeyboardInterrupt) and ended.code == Exit.INTERRUPTED:
            print("ssl-tune: interrupted", file=sys.stderr)  # noqa: T201
            return
        if isinstance(chain, BrokenPipeError):
            _nobody_reads()
        chain = chain.__cause__ or chain.__context__


def _nobody_reads() -> None:
    """End a command whose output nobody reads any more, such as that of `ssl-tune trials S | head -1`."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # what is still to be written at the end would fail again
    try:
        os.write(2, b"ssl-tune: standard output was closed before all was written\n")
    except OSError:
        os.dup2(quiet, 2)
    os._exit(Exit.OUTPUT_CLOSED)


def _fail(message: str, code: Exit) -> None:
    print(f"ssl-tune: {without_passwords(message)}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def _one_line(message: object, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning as one sentence, without the line of code that caused it."""
    if category is UserWarning:
        print(f"ssl-tune: warning: {message}", file=sys.stderr)  # noqa: T201
