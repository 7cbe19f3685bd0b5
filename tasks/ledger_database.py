"""The ledger's database: opened, migrated, and spoken to in transactions that read or write."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from tasks import ledger_schema as schema
from tasks.records import StoreFailedError, UserError
from tasks.urls import without_password

BUSY_SECONDS = 30.0
_MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that open a new database at once both create it; the later one finds it made.
_MIGRATION_ATTEMPTS = 3
# Alembic keeps the migration under way in module variables, one for all threads.
_MIGRATING = threading.Lock()
# These say that a statement of ours is wrong, not that the database cannot be used.
_OUR_MISTAKES = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)


class Database:
    """SQLite by path or PostgreSQL by URL, with the ledger's tables at their newest revision.

    Args:
        url: the database's.
        kept_open: keep a SQLite file open between transactions, which takes half as long for each: for a
            process that writes all the time.

    Raises:
        StoreFailedError: the URL cannot be read, or the database cannot be reached, opened or migrated.
        UserError: a newer mendflow wrote it.
    """

    def __init__(self, url: str, *, kept_open: bool = False) -> None:
        self.shown_url = without_password(url)
        try:
            parsed = sa.make_url(url)
            self._engine = _engine(parsed, kept_open=kept_open)
            sqlite = parsed.get_backend_name() == "sqlite"
            # SQLite gives every transaction one state without being asked.
            self._reader = self._engine.execution_options(
                **({} if sqlite else {"isolation_level": "REPEATABLE READ"})
            )
        except (exc.ArgumentError, ValueError, ImportError, OSError) as error:
            raise self._unusable(error) from error

    def migrate(self) -> None:
        """Bring the tables to the newest revision; nothing happens if they are there."""
        for attempt in range(1, _MIGRATION_ATTEMPTS + 1):
            try:
                if not self._is_current():
                    self._upgrade()
            except exc.DBAPIError as error:
                if attempt == _MIGRATION_ATTEMPTS:
                    raise self._unusable(error) from error
            else:
                return

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the database throughout."""
        with self._naming_database(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that may write: all of it is kept, or nothing."""
        writer = self._engine.execution_options(mendflow_writes=True)
        with self._naming_database(), writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    @contextmanager
    def _naming_database(self) -> Iterator[None]:
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError) as error:
            # All connections may be in use, by those who wait for a database that hangs.
            if isinstance(error, _OUR_MISTAKES):
                raise
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> StoreFailedError:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        return StoreFailedError(
            f"the ledger {self.shown_url} cannot be used ({without_password(cause)}); correct its URL "
            "(sqlite:///path/to/ledger.db, or postgresql+psycopg://user:password@host/name with "
            "`pip install 'mendflow[postgresql]'`), or see that it runs, may be written and has room"
        )

    def _is_current(self) -> bool:
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory

        script = ScriptDirectory(str(_MIGRATIONS))
        with self._engine.begin() as connection:
            options = {"version_table": schema.VERSION_TABLE}
            present = MigrationContext.configure(connection, opts=options).get_current_heads()
        unknown = set(present) - {revision.revision for revision in script.walk_revisions()}
        if unknown:
            raise UserError(
                f"the ledger {self.shown_url} was written by a newer mendflow (revision "
                f"{', '.join(sorted(unknown))}); upgrade mendflow on this machine"
            )
        return set(present) == set(script.get_heads())

    def _upgrade(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        writer = self._engine.execution_options(mendflow_writes=True)
        with _MIGRATING, writer.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def lock_models(connection: sa.Connection, names: Iterable[str]) -> None:
    """Hold, until the transaction ends, the exclusive right to write about these models.

    Raises:
        UserError: a name is one that a database may refuse.
    """
    for name in sorted(set(names)):
        if len(name) > schema.NAME_LENGTH or schema.storable(name) != name:
            raise UserError(
                f"{name[:40]!r} cannot be a model's name: give it one of up to {schema.NAME_LENGTH} "
                "characters that are text"
            )
        if connection.execute(sa.select(schema.models).filter_by(name=name)).first() is None:
            try:
                with connection.begin_nested():
                    connection.execute(schema.models.insert().values(name=name))
            except exc.IntegrityError:
                pass  # another writer was first; its row is as good
        # On SQLite a writing transaction is alone from its beginning, and the clause is left out.
        connection.execute(sa.select(schema.models).filter_by(name=name).with_for_update())


def _engine(url: sa.URL, *, kept_open: bool) -> sa.Engine:
    # Messages of errors end in logs, and prompts may be private: no parameters in them.
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    in_memory = url.database in (None, "", ":memory:")
    if not in_memory and not str(url.database).startswith("file:"):
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    # One connection is the database when it lives in memory. Whoever closes a file as the last one copies
    # its log into it, and makes sure of both.
    of_file = sa.QueuePool if kept_open else sa.NullPool
    pool = sa.StaticPool if in_memory else of_file
    timeout = {"timeout": BUSY_SECONDS}
    engine = sa.create_engine(url, poolclass=pool, connect_args=timeout, hide_parameters=True)
    sa.event.listen(engine, "connect", _on_sqlite_connect)
    sa.event.listen(engine, "begin", _on_sqlite_begin)
    if kept_open and not in_memory:
        _follow_file(engine, str(url.database))
    return engine


def _follow_file(engine: sa.Engine, file: str) -> None:
    """Open what was put in the place of the file that is open, which nobody else reads any more."""

    def opened(_connection: Any, record: Any) -> None:
        record.info["file"] = _identity(file)

    def taken(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != _identity(file):
            raise exc.DisconnectionError

    sa.event.listen(engine, "connect", opened)
    sa.event.listen(engine, "checkout", taken)


def _identity(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver's own BEGIN comes late, before the first change only; ours comes at the beginning.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _on_sqlite_begin(connection: sa.Connection) -> None:
    # A reader that turns writer fails at once if another wrote meanwhile; one that says so at first waits.
    writes = connection.get_execution_options().get("mendflow_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
