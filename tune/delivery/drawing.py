"""Figures of the event log, drawn by a process of their own and then delivered like any artifact.

Drawing takes half a second of a processor and loading what draws two more: too much for the driver, and for a sender
that has metrics to deliver. So a process draws one batch after the other, at low priority, while the sender goes on;
it reads the log and the study's folder and changes neither. It may be killed at any moment: what was not drawn is
still owed, and drawing it again gives the same figure.
"""

from __future__ import annotations

import sys
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen

from tune.store.event_log import EventLog
from tune.store.events import Event

BATCH = 16
FEWEST = 3
"""While trials run, a process is worth starting for no less: those of a trial."""
WORTH_A_PROCESS = 6
"""Figures: what loading takes is the time of some four."""
ATTEMPTS = 2
LONGEST_SECONDS = 600.0
LOOK_SECONDS = 0.02
REST_SECONDS = 60.0
"""A process that had nothing to draw for so long is ended: it holds 200 MB."""

_Drawn = tuple[Event, Path | None, str | None]


class Drawing:
    """Draws the figures that are owed, a batch at a time.

    Args:
        log: the study's event log.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._artists: list[_Artist] = []
        self._batch: list[tuple[Event, _Artist]] = []
        self._attempts: dict[int, int] = {}
        self._since = 0.0  # when the batch was asked for, or the last one was done

    def start(self, fewest: int = 1, artists: int = 1) -> bool:
        """Begin with the oldest figures that are owed, if there are so many; whether any is being drawn.

        Args:
            fewest: so many have to be owed, where no process is there yet.
            artists: at most so many processes share a batch, where it is worth their start.
        """
        if self._batch:
            return True
        owed = self._log.owed_figures(BATCH)
        is_idle = not owed and time.monotonic() - self._since > REST_SECONDS
        for artist in [each for each in self._artists if is_idle or each.is_gone()]:
            self._artists.remove(artist)
            artist.end()
        if not owed or (not self._artists and len(owed) < fewest):
            return False
        number = max(1, min(artists, len(owed) // WORTH_A_PROCESS))
        while len(self._artists) < number:
            self._artists.append(_Artist(self._log.path.absolute().parent))
        for place, artist in enumerate(self._artists[:number]):
            part = owed[place::number]
            artist.ask([event.id for event in part])
            self._batch += [(event, artist) for event in part]
        self._since = time.monotonic()
        return True

    def wait(self, seconds: float) -> bool:
        """Wait for the batch; whether it is there to be taken."""
        end = time.monotonic() + seconds
        while waiting := [artist for event, artist in self._batch if not artist.is_done_with(event.id)]:
            if time.monotonic() - self._since >= LONGEST_SECONDS:
                for artist in waiting:
                    artist.end()
                return True
            if time.monotonic() >= end:
                return False
            time.sleep(LOOK_SECONDS)
        return bool(self._batch)

    def take(self) -> list[_Drawn]:
        """What came of the batch: each figure's file (None: there is nothing to draw), or why it cannot be.

        Figures without any outcome are tried once more.
        """
        outcomes: list[_Drawn] = []
        for event, artist in sorted(self._batch, key=lambda pair: pair[0].id):
            path = artist.outcome(event.id)
            if path is None:
                self._attempts[event.id] = self._attempts.get(event.id, 0) + 1
                if self._attempts[event.id] >= ATTEMPTS:
                    outcomes.append((event, None, "the process that draws it died"))
            elif path.suffix == ".error":
                outcomes.append((event, None, path.read_text()))
            else:
                outcomes.append((event, path if path.suffix == ".png" else None, None))
        return outcomes

    def clear(self) -> None:
        """Take away the batch's files."""
        for event, artist in self._batch:
            artist.forget(event.id)
        self._batch, self._since = [], time.monotonic()


class _Artist:
    """A process that draws for a study: `tune.figures.draw`. It ends with this object, if not before.

    Args:
        study: the study's folder.
    """

    def __init__(self, study: Path) -> None:
        folder = tempfile.TemporaryDirectory(prefix="ssl-tune-figures-")
        self.folder = Path(folder.name)
        command = [sys.executable, "-P", "-m", "tune.figures.draw", str(study), folder.name]
        self.process = Popen(command, stdin=PIPE, text=True)
        self.end = weakref.finalize(self, _end, self.process, folder)

    def ask(self, ids: list[int]) -> None:
        """Have the figures of these events drawn."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which whoever waits finds out
            self.process.stdin.write(" ".join(map(str, ids)) + "\n")
            self.process.stdin.flush()

    def is_gone(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def is_done_with(self, id: int) -> bool:
        """Whether nothing more comes of a figure."""
        return self.outcome(id) is not None or self.is_gone()

    def outcome(self, id: int) -> Path | None:
        """The file that says what came of a figure: the figure (.png), .none or .error; None: nothing yet."""
        paths = (self.folder / f"{id}{end}" for end in (".png", ".none", ".error"))
        return next((path for path in paths if path.exists()), None)

    def forget(self, id: int) -> None:
        """Remove what came of a figure."""
        path = self.outcome(id)
        if path is not None:
            path.unlink(missing_ok=True)


def _end(process: Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    """End the process, wherever it is, and remove what it has drawn."""
    process.kill()
    process.wait()
    with suppress(BrokenPipeError):
        assert process.stdin is not None
        process.stdin.close()
    folder.cleanup()
