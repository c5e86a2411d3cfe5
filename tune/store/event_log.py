"""The study's durable event log: what happened, in order, and what tracking still owes.

One SQLite file in WAL mode per study, `studies/<name>/events.db`. The driver appends, the sender (see
`tune.delivery.sender`) marks what MLflow has taken, and read-only views (`status`, `trials`, `report`) read the
learning curves from here, so that they need no tracking server. WAL needs shared memory, which network file
systems do not give: a study on a cluster keeps its log with a rollback journal instead, which is slower and can
be read from other machines.

An event once committed survives the death of any process; `synchronous=NORMAL` spares the fsync per
event, so a power cut may cost the last events, never their order or the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tune.errors import Exit, ServiceError
from tune.store.events import DeadLetter, Event, NewEvent, Report, event_of, integer, now_ms, row_of, unpacked
from tune.store.integrity import connect_to_read, damaged, whole
from tune.store.layout import LIMIT_FILE

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE,
    kind TEXT NOT NULL,
    run TEXT NOT NULL,
    payload TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    delivered_at INTEGER,
    error TEXT
);
CREATE INDEX IF NOT EXISTS events_owed ON events (id) WHERE delivered_at IS NULL AND error IS NULL;
CREATE INDEX IF NOT EXISTS events_owed_run ON events (run, id) WHERE delivered_at IS NULL AND error IS NULL;
CREATE INDEX IF NOT EXISTS events_refused ON events (id) WHERE error IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_run ON events (run, kind, id);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
VERSION = 2
"""The format of the file, as its `user_version` says. The tables are the same in all: in 1, and in 0 of before it was
noted, no payload is compressed (`tune.store.events`)."""
_OWED = "delivered_at IS NULL AND error IS NULL"
_NO_LIMIT = 2**63 - 1
_COLUMNS = "id, key, kind, run, payload, time_ms"
_INSERT = (
    "INSERT INTO events (key, kind, run, payload, time_ms) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO NOTHING"
)


class EventLog:
    """The event log of one study.

    Args:
        path: the SQLite file; made, with its folder, where there is none.
        read_only: open an existing log for reading alone (a view beside a running study).
        shared: whether other machines read it while it is written; None: as the file is.

    Raises:
        DamagedError: the file is damaged; so do all methods where they come upon it.
    """

    def __init__(self, path: Path, *, read_only: bool = False, shared: bool | None = None) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        with whole(self.path):
            if read_only:
                self._db = connect_to_read(self.path)
                self._check_version()
                if not self._rows("SELECT 1 FROM sqlite_master LIMIT 1"):
                    self._db.close()  # its driver has not made the tables yet
                    self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                    self._make_tables()
            else:
                self._open(shared)

    def _open(self, shared: bool | None) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA busy_timeout = 30000")
        self._check_version()
        if shared is not None or is_new:
            self._db.execute(f"PRAGMA journal_mode = {'DELETE' if shared else 'WAL'}")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._make_tables()

    def _make_tables(self) -> None:
        with self._transaction():
            for statement in _SCHEMA.strip().rstrip(";").split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def _check_version(self) -> None:
        """Refuse a log of a later version, whose tables may mean something else."""
        found = integer(self._rows("PRAGMA user_version")[0][0])
        if found > VERSION:
            self._db.close()
            raise ServiceError(
                f"{self.path} was written by a later version of ssl-tune (format {found}, this one knows {VERSION}). "
                "Install that version; nothing was changed.",
                Exit.STORAGE,
            )

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was appended is already there."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, whole(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, values: Iterable[object] = ()) -> list[tuple[object, ...]]:
        with self._lock, whole(self.path):
            return self._db.execute(query, tuple(values)).fetchall()

    def _write(self, statement: str, values: Iterable[object] = ()) -> int:
        """Execute one statement; returns how many rows it changed."""
        with self._lock, whole(self.path):
            return self._db.execute(statement, tuple(values)).rowcount

    def _event(self, row: tuple[object, ...]) -> Event:
        with whole(self.path):
            return event_of(row)

    # What the driver writes

    def append(
        self,
        kind: str,
        run: str,
        payload: Mapping[str, object],
        key: str | None = None,
        time_ms: int | None = None,
    ) -> bool:
        """Append one event; False, and nothing done, where the log already has one with this key.

        Args:
            kind: what happened.
            run: the run's own key.
            payload: data that JSON can hold; NaN and infinities are kept (as Python's JSON writes them).
            key: the idempotency key; None for an event that may be repeated.
            time_ms: when it happened, in Unix milliseconds; now where None.
        """
        row = row_of(NewEvent(kind, run, payload, key, time_ms))
        return self._write(_INSERT, row) == 1

    def append_many(self, events: Iterable[NewEvent]) -> int:
        """Append several events in one transaction, all or none; returns how many were new."""
        rows = [row_of(event) for event in events]
        with self._transaction():
            return sum(self._db.execute(_INSERT, row).rowcount for row in rows)

    def take(self, rows: Iterable[tuple[object, ...]], notes: Iterable[tuple[object, ...]]) -> None:
        """Take over events and notes of another log: rows as its two tables have them."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", notes)

    # What the sender reads and marks

    def pending(self) -> int:
        """How many events are neither delivered nor refused for good."""
        return integer(self._rows(f"SELECT count(*) FROM events WHERE {_OWED}")[0][0])

    def owed_since(self) -> int | None:
        """When the oldest event happened that is still to be delivered, in Unix milliseconds."""
        rows = self._rows(f"SELECT time_ms FROM events WHERE {_OWED} ORDER BY id LIMIT 1")
        return integer(rows[0][0]) if rows else None

    def next_owed(self, limit: int, without: Sequence[str] = ()) -> list[Event]:
        """The oldest event that is still to be delivered, and those of the same run that follow it.

        The order matters within a run alone, and many events of one run make few calls. Figures, which are
        drawn first, are not among them: see `owed_figures`.

        Args:
            limit: the most events.
            without: runs that are left out; few.
        """
        owed, last = f"{_OWED} AND kind != 'figure' AND id <= ?", self._limit()
        others = f" AND run NOT IN ({', '.join('?' * len(without))})" if without else ""
        first = self._rows(
            f"SELECT run FROM events WHERE {owed}{others} ORDER BY id LIMIT 1", [last, *without]
        )
        if not first:
            return []
        query = f"SELECT {_COLUMNS} FROM events WHERE run = ? AND {owed} ORDER BY id LIMIT ?"
        return [self._event(row) for row in self._rows(query, [first[0][0], last, limit])]

    def owed_figures(self, limit: int) -> list[Event]:
        """The oldest figures that are still to be drawn and delivered."""
        query = (
            f"SELECT {_COLUMNS} FROM events WHERE {_OWED} AND kind = 'figure' AND id <= ? ORDER BY id LIMIT ?"
        )
        return [self._event(row) for row in self._rows(query, [self._limit(), limit])]

    def held_back(self) -> bool:
        """Whether there are events that tracking must not hear of yet: see LIMIT_FILE."""
        return bool(self._rows(f"SELECT 1 FROM events WHERE {_OWED} AND id > ? LIMIT 1", [self._limit()]))

    def _limit(self) -> int:
        limit = self.path.with_name(LIMIT_FILE)
        try:
            return int(limit.read_text())
        except FileNotFoundError:
            return _NO_LIMIT
        except ValueError:
            raise damaged(limit, "it holds no number") from None

    def by_id(self, id: int) -> Event:
        """The event of an id."""
        return self._event(self._rows(f"SELECT {_COLUMNS} FROM events WHERE id = ?", [id])[0])

    def mark_delivered(self, ids: Iterable[int]) -> None:
        """Note that tracking has these events."""
        moment = now_ms()
        with self._transaction():
            self._db.executemany(
                "UPDATE events SET delivered_at = ? WHERE id = ?", [(moment, i) for i in ids]
            )

    def mark_dead(self, id: int, reason: str) -> None:
        """Note that tracking refused an event for good: it is kept, and not tried again."""
        self._write("UPDATE events SET error = ? WHERE id = ?", (reason, id))

    def mark_refused_undelivered(self) -> None:
        """Owe again what was refused for good: whoever refused it may have been mended."""
        self._write("UPDATE events SET error = NULL WHERE error IS NOT NULL")

    def mark_undelivered(self, runs: Iterable[str], kind: str | None = None) -> None:
        """Owe these runs' events again, those of one kind or all. Dead letters stay dead."""
        condition = "run = ? AND delivered_at IS NOT NULL" + ("" if kind is None else " AND kind = ?")
        values = [(run,) if kind is None else (run, kind) for run in runs]
        with self._transaction():
            self._db.executemany(f"UPDATE events SET delivered_at = NULL WHERE {condition}", values)

    def mark_all_undelivered(self) -> None:
        """Owe every event again: tracking goes to a store that has none of them. Dead letters stay dead."""
        self._write("UPDATE events SET delivered_at = NULL WHERE delivered_at IS NOT NULL")

    # Views

    def dead(self) -> list[DeadLetter]:
        """The events that tracking refused for good, with the reasons."""
        rows = self._rows(f"SELECT {_COLUMNS}, error FROM events WHERE error IS NOT NULL ORDER BY id")
        return [DeadLetter(self._event(row[:-1]), str(row[-1])) for row in rows]

    def refused(self) -> int:
        """How many events tracking refused for good."""
        return integer(self._rows("SELECT count(*) FROM events WHERE error IS NOT NULL")[0][0])

    def find(self, key: str) -> Event | None:
        """The event with this idempotency key."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM events WHERE key = ?", [key])
        return self._event(rows[0]) if rows else None

    def last(self, run: str, kind: str) -> Event | None:
        """A run's newest event of one kind."""
        query = f"SELECT {_COLUMNS} FROM events WHERE run = ? AND kind = ? ORDER BY id DESC LIMIT 1"
        rows = self._rows(query, [run, kind])
        return self._event(rows[0]) if rows else None

    def of_kind(self, run: str, kind: str) -> list[Event]:
        """A run's events of one kind, oldest first."""
        query = f"SELECT {_COLUMNS} FROM events WHERE run = ? AND kind = ? ORDER BY id"
        return [self._event(row) for row in self._rows(query, [run, kind])]

    def last_text(self, run: str, file: str) -> str | None:
        """The newest text artifact of a run with this file name."""
        query = f"SELECT {_COLUMNS} FROM events WHERE run = ? AND kind = 'text' ORDER BY id DESC"
        texts = (self._event(row).payload for row in self._rows(query, [run]))
        return next((str(text["text"]) for text in texts if text["file"] == file), None)

    def runs(self) -> list[str]:
        """The keys of all runs, in the order in which they were first heard of."""
        return [str(row[0]) for row in self._rows("SELECT run FROM events GROUP BY run ORDER BY min(id)")]

    def trials(self, study: str) -> dict[int, bool]:
        """The trials of a study that have begun, by number, and whether each has ended for good."""
        begun = self._rows("SELECT DISTINCT run FROM events WHERE kind = 'start'")
        ended = self._rows(
            "SELECT DISTINCT run FROM events WHERE kind = 'status' AND instr(payload, 'ssl.stop_reason') > 0"
            ' AND instr(payload, \'"status":"RUNNING"\') = 0'
        )
        over, found = {str(run) for (run,) in ended}, {}
        for (run,) in begun:
            of, slash, number = str(run).partition("/")
            if of == study and slash and number.isdecimal():
                found[int(number)] = str(run) in over
        return found

    def reports(self, run: str) -> list[Report]:
        """A run's learning curve: one report per epoch, in order of epochs."""
        query = "SELECT payload, time_ms FROM events WHERE run = ? AND kind = 'metrics' ORDER BY id"
        reports = []
        for payload, time_ms in self._rows(query, [run]):
            with whole(self.path):
                data = unpacked(payload)
                if "epoch" in data:  # a summary's metrics are no report
                    report = Report(
                        int(data["epoch"]), integer(time_ms), data["metrics"], data.get("classes", {})
                    )
                    reports.append(report)
        return sorted(reports, key=lambda report: report.epoch)

    # Key-value notes beside the events

    def get_meta(self, key: str) -> str | None:
        """A note, for example an MLflow run id; None where there is none."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", [key])
        return str(rows[0][0]) if rows else None

    def metas(self, prefix: str) -> list[tuple[str, str]]:
        """All notes whose keys begin with `prefix`, with their keys."""
        query = "SELECT key, value FROM meta WHERE substr(key, 1, ?) = ? ORDER BY key"
        return [(str(key), str(value)) for key, value in self._rows(query, [len(prefix), prefix])]

    def set_meta(self, key: str, value: str | None) -> None:
        """Write a note; None removes it."""
        if value is None:
            self._write("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._write("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def drop_meta(self, prefix: str) -> None:
        """Remove every note whose key begins with `prefix`."""
        self._write("DELETE FROM meta WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
