"""Many calls of MLflow on a SQLite file in one transaction.

MLflow commits several times in a call, and each commit waits for the disk: six times for the run of a trial that does
nothing. Here MLflow's sessions join a transaction that is open already, as savepoints of it, in the way that SQLAlchemy
describes ("Joining a Session into an External Transaction"): what a call does, it does as before, and all of it is on
the disk once the transaction has been committed, or none.

MLflow offers no way to do this. Used are the attributes `engine` and `ManagedSessionMaker` of its `SqlAlchemyStore`;
where a version of MLflow lacks them, `joining` finds nothing, and each call commits for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any


class _Sessions:
    """MLflow's maker of sessions, except in a thread that has a transaction open: there they join it.

    The store is one for all clients of a database in this process, in other threads too.
    """

    def __init__(self, ordinary: Any) -> None:
        self.ordinary = ordinary
        self.open = threading.local()

    def __call__(self, *words: Any, **options: Any) -> AbstractContextManager[Any]:
        connection = getattr(self.open, "connection", None)
        made: AbstractContextManager[Any] = (
            self.ordinary(*words, **options) if connection is None else _joined(connection)
        )
        return made


@contextmanager
def _joined(connection: Any) -> Iterator[Any]:
    from sqlalchemy.orm import Session  # takes a moment to load

    with Session(connection, join_transaction_mode="create_savepoint") as session:
        yield session
        session.commit()


def joining(client: Any) -> Any:
    """What `one_transaction` takes: the store behind a client of MLflow where that is a SQLite file, otherwise None."""
    store: Any = getattr(getattr(client, "_tracking_client", None), "store", None)
    if getattr(getattr(getattr(store, "engine", None), "dialect", None), "name", None) != "sqlite":
        return None
    made = getattr(store, "ManagedSessionMaker", None)
    if made is not None and not isinstance(made, _Sessions):
        store.ManagedSessionMaker = _Sessions(made)
    return None if made is None else store


@contextmanager
def one_transaction(store: Any) -> Iterator[None]:
    """What this thread writes into MLflow's database in the block is committed at its end, or not at all.

    Others can read meanwhile, but not write.

    Args:
        store: of `joining`.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: somebody else writes for 20 seconds, or the disk is full; and whatever the block
            raises. Nothing was written then.
    """
    sessions: _Sessions = store.ManagedSessionMaker
    with store.engine.connect() as connection:
        # As MLflow has them in each of its sessions. The first has no effect within a transaction.
        for pragma in ("foreign_keys = ON", "busy_timeout = 20000", "case_sensitive_like = true"):
            connection.exec_driver_sql(f"PRAGMA {pragma}")
        connection.commit()
        with connection.begin():
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # Python's sqlite3 begins none for a savepoint
            sessions.open.connection = connection
            try:
                yield
            finally:
                sessions.open.connection = None
