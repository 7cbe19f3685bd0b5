"""The ledger's database: its tables, and one that cannot be used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks import ledger_schema
from tasks.ledger import Ledger
from tasks.ledger_database import Database
from tasks.records import State, StoreFailedError, UserError
from tests.tasks.ledger_tools import MODEL, report
from tests.threads import at_once

MIGRATIONS = Path(ledger_schema.__file__).parent / "migrations"


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger, ledger._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) >= 5000


def test_the_migrations_make_the_tables_that_the_code_expects(ledger: Ledger, url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        options = {
            "version_table": ledger_schema.VERSION_TABLE,
            "compare_type": True,
        }
        assert (
            compare_metadata(MigrationContext.configure(connection, opts=options), ledger_schema.metadata)
            == []
        )


def test_the_ledger_may_share_its_database(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('of-another-program')")
    with Ledger(url) as ledger:
        ledger.record([report("p", "x")])
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").scalar() == "of-another-program"
    assert all(name.startswith(ledger_schema.PREFIX) for name in ledger_schema.metadata.tables)


def test_the_schema_suits_postgresql() -> None:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    ddl = {
        name: str(CreateTable(t).compile(dialect=postgresql.dialect()))
        for name, t in ledger_schema.metadata.tables.items()
    }
    assert "TIMESTAMP WITH TIME ZONE" in ddl["mendflow_transitions"]
    assert "sequence SERIAL" in ddl["mendflow_reports"]


def test_many_processes_may_open_a_new_ledger_at_once(url: str) -> None:
    def open_and_write(name: str) -> None:
        with Ledger(url) as own:
            own.record([report(name, "x", name)])

    at_once(open_and_write, "0123")
    with Ledger(url) as ledger:
        assert ledger.counts(MODEL)[State.ACCEPTED] == 4


def _in_a_file(folder: Path) -> str:
    (folder / "file").write_text("not a folder")
    return f"sqlite:///{folder / 'file' / 'ledger.db'}"


def _not_a_database(folder: Path) -> str:
    (folder / "notes.txt").write_text("notes, and more than a page of them. " * 200)
    return f"sqlite:///{folder / 'notes.txt'}"


@pytest.mark.parametrize(
    "make_url",
    [
        _in_a_file,
        _not_a_database,
        lambda folder: f"sqlite:///{folder}",
        lambda folder: "nonsense",
        lambda folder: "nonesuch://me:s3cr3t@host/ledger",
        lambda folder: "postgresql+nonesuch://me:s3cr3t/@host/ledger?password=s3cr3t",
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    tmp_path: Path, make_url: Callable[[Path], str]
) -> None:
    url = make_url(tmp_path)
    with pytest.raises(UserError, match="correct its URL") as caught:
        Ledger(url)
    assert "s3cr3t" not in str(caught.value)
    assert url.partition(":")[0] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_ledger_of_a_newer_release_is_not_touched(url: str) -> None:
    Ledger(url).close()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {ledger_schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(UserError, match=r"newer mendflow.*upgrade"):
        Ledger(url)


def _revisions() -> list[str]:
    from alembic.script import ScriptDirectory

    return [one.revision for one in ScriptDirectory(str(MIGRATIONS)).walk_revisions()]


@pytest.mark.parametrize("revision", _revisions())
def test_a_ledger_of_every_release_is_brought_forward_with_all_it_holds(revision: str, url: str) -> None:
    from alembic import command
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext

    with Ledger(url) as ledger:
        togo, mali = report("Capital of Togo?", "Lom\u00e9", "http:ann:1"), report("Of Mali?", None)
        made, waiting = ledger.record([togo, mali])
        answered = ledger.answer(waiting.id, "Bamako", "carol")
        ledger.log_promotion(MODEL, "promote", None, "1", "ann", "", "begun")
        log = ledger.promotion_log(MODEL)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    options = {"version_table": ledger_schema.VERSION_TABLE, "compare_type": True}
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        there = MigrationContext.configure(connection, opts=options)
        assert there.get_current_revision() == revision
    with Ledger(url) as ledger:
        found = sorted([made, answered], key=lambda one: one.id)
        assert ledger.corrections(MODEL, State.ACCEPTED) == found
        assert ledger.promotion_log(MODEL) == log
        # People answered, and so it stays.
        assert not any(one.answerer for one in found)
        with pytest.raises(UserError, match="already answered"):
            ledger.answer(waiting.id, "Kati", "dave")
    with engine.connect() as connection:
        there = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(there, ledger_schema.metadata) == []


def test_a_name_that_some_database_refuses_is_refused_by_all(url: str) -> None:
    for name in ("n" * 256, "nul \x00", "half a \ud800"):
        with Ledger(url) as ledger, pytest.raises(UserError, match="cannot be a model's name"):
            ledger.record([report("p", "x", model_name=name)])


def test_a_file_that_is_kept_open_is_opened_again_where_another_took_its_place(tmp_path: Path) -> None:
    url, backup = f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "backup.db"
    with Ledger(url) as ledger:
        ledger.record([report("p", "x")])
    shutil.copy(tmp_path / "ledger.db", backup)
    with Ledger(url, kept_open=True) as ledger:
        ledger.record([report("q", "x")])
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
        with pytest.raises(UserError, match="cannot be used"):
            ledger.record([report("r", "x")])
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
        backup.rename(tmp_path / "ledger.db")
        ledger.record([report("s", "x")])
    with Ledger(url) as ledger:
        assert [one.prompt for one in ledger.corrections(MODEL)] == ["p", "s"]


def test_a_ledger_all_of_whose_connections_are_in_use_is_named(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'ledger.db'}", kept_open=True)
    database.migrate()
    database._engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    with ExitStack() as readers:

        def read() -> None:
            for _ in range(20):
                readers.enter_context(database.reading())

        with pytest.raises(StoreFailedError, match="cannot be used"):
            read()
    database.close()
