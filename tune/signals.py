"""Ctrl-C and SIGTERM: ask a study to stop, or end a block of trainings with the command that carries on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tune.errors import Exit, ServiceError


class _Interrupts:
    """Whether Ctrl-C was pressed and nobody has acted on it yet."""

    pending = False


def remember_interrupts() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt and is remembered.

    Libraries swallow the exception where it strikes them at a bad moment: while they import others, in a finaliser, in
    a callback from C. `raise_forgotten_interrupt` raises it again before something long begins. Where Ctrl-C is ignored
    or somebody else's, as for a job in the background of a script, nothing changes.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        _Interrupts.pending = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # not the main thread, which alone may do so
            signal.signal(signal.SIGINT, handle)


def forget_interrupts() -> None:
    """What was pressed has been acted on, or the command that it was meant for is over."""
    _Interrupts.pending = False


def raise_forgotten_interrupt() -> None:
    """Raise the KeyboardInterrupt that something swallowed, once.

    Raises:
        KeyboardInterrupt: if Ctrl-C was pressed since `remember_interrupts`.
    """
    if _Interrupts.pending:
        _Interrupts.pending = False
        raise KeyboardInterrupt


@contextmanager
def asking_to_stop(request_stop: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask the engine to stop; a second one is the ordinary, immediate one."""
    before: dict[int, Any] = {}  # by signal

    def handle(number: int, frame: FrameType | None) -> None:
        for other, handler in before.items():
            signal.signal(other, handler)
        request_stop(number)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            before[each] = signal.signal(each, handle)
    except ValueError:  # not the main thread: the caller's own handling stays
        before.clear()
    try:
        raise_forgotten_interrupt()
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def resumable(carry_on: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block with the command that carries on.

    Raises:
        ServiceError: with exit code 130 or 143.
    """

    def terminate(number: int, frame: object) -> None:
        raise _TerminatedError

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        raise_forgotten_interrupt()
        yield
    except (KeyboardInterrupt, _TerminatedError) as stop:
        forget_interrupts()  # it is acted on here: the next block of this process begins anew
        code = Exit.INTERRUPTED if isinstance(stop, KeyboardInterrupt) else Exit.TERMINATED
        raise ServiceError(f"interrupted; what is trained is kept. Carry on with: {carry_on}", code) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


class _TerminatedError(BaseException):
    """SIGTERM, on its way out of a training loop."""
